"""Padding with a mask is as if it were not there: same outputs, no gradient, whatever the padded slots hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import small
from models.test_gradients import weighted_sum
from support import assert_close, host, normal, on, random_parameters

from perceiver_ref.autograd import kernels, tree, value_and_grad
from perceiver_ref.models.conventions import DIALECTS, Conventions
from perceiver_ref.models.encoder import Encoder

every_dialect = pytest.mark.parametrize("conventions", DIALECTS.values(), ids=DIALECTS)
both_kernels = pytest.mark.parametrize("mode", ["plain", "fast"])
everything = pytest.mark.parametrize("content", [0.0, 1e30, np.nan, np.inf, -np.inf], ids=str)


def padded(inputs: np.ndarray, slots: int, content: float) -> tuple[np.ndarray, np.ndarray]:
    """Inputs with more slots at the end, and the mask of the real ones."""
    batch, m, channels = inputs.shape
    more = np.concatenate([inputs, np.full((batch, slots, channels), content)], axis=1)
    return more, np.broadcast_to(np.arange(m + slots) < m, (batch, m + slots))


def loss_and_gradients(encoder: Encoder, p: Any, inputs: Any, mask: Any = None) -> Any:
    def loss(variables: Any) -> Any:
        return weighted_sum(encoder.apply(variables["params"], variables["inputs"], mask=mask))

    return host(value_and_grad(loss)({"params": p, "inputs": inputs}))


@everything
@every_dialect
@both_kernels
def test_padding_changes_nothing_and_gets_no_gradient(
    backend: str, content: float, conventions: Conventions, mode: str
) -> None:
    encoder = small.encoder(conventions)
    p, inputs = on(backend, random_parameters(encoder)), normal(1, 2, 5, 6)
    more, mask = padded(inputs, 3, content)
    with kernels(mode):
        value, gradients = loss_and_gradients(encoder, p, on(backend, inputs))
        padded_value, padded_gradients = loss_and_gradients(encoder, p, on(backend, more), on(backend, mask))
    assert_close(padded_value, value)
    assert_close(padded_gradients["params"], gradients["params"])
    assert_close(padded_gradients["inputs"][:, :5], gradients["inputs"])
    assert (padded_gradients["inputs"][:, 5:] == 0).all()


@given(encoder=small.encoders(), data=st.data())
def test_masked_inputs_may_stand_anywhere(backend: str, encoder: Encoder, data: st.DataObject) -> None:
    """Any mask that leaves something to attend to equals leaving the other inputs out."""
    kept = data.draw(st.lists(st.booleans(), min_size=1, max_size=8).filter(any))
    inputs = normal(1, 1, len(kept), encoder.inputs)
    hidden = np.where(np.array(kept)[:, None], inputs, np.nan)
    p = on(backend, random_parameters(encoder))
    ours = encoder.apply(p, on(backend, hidden), mask=on(backend, np.array([kept])))
    assert_close(ours, encoder.apply(p, on(backend, inputs[:, np.array(kept)])))


def test_each_batch_element_has_its_own_padding(backend: str) -> None:
    encoder = small.encoder()
    p, inputs = on(backend, random_parameters(encoder)), normal(1, 3, 6, 6)
    lengths = np.array([2, 6, 4])
    mask = np.arange(6) < lengths[:, None]
    inputs[~mask] = np.nan
    together = host(encoder.apply(p, on(backend, inputs), mask=on(backend, mask)))
    for b, length in enumerate(lengths):
        alone = encoder.apply(p, on(backend, inputs[b : b + 1, :length]))
        assert_close(together[b : b + 1], alone)


def test_with_everything_masked_deepmind_sees_no_input_at_all(backend: str) -> None:
    encoder = small.encoder(DIALECTS["deepmind"])
    p, mask = on(backend, [random_parameters(encoder), np.zeros((1, 3), bool)])
    results = [loss_and_gradients(encoder, p, on(backend, np.full((1, 3, 6), c)), mask) for c in (1.0, 2.0, np.nan)]
    for value, gradients in results:
        assert value == results[0][0]
        assert (gradients["inputs"] == 0).all()
        # nothing that only touches inputs learns
        flat = tree.flatten(gradients["params"]["cross_attention"])
        assert all((g == 0).all() for path, g in flat.items() if "key" in path or "attention/value" in path)


def test_with_everything_masked_hugging_face_averages_all_values(backend: str) -> None:
    """So such an element does depend on its padding, as transformers' does; other elements do not."""
    encoder = small.encoder(DIALECTS["hf"])
    p, inputs = on(backend, random_parameters(encoder)), normal(1, 2, 3, 6)
    mask = on(backend, np.array([[False] * 3, [True, True, False]]))
    before = host(encoder.apply(p, on(backend, inputs), mask=mask))
    inputs[:, 2] = normal(2, 2, 6)
    after = host(encoder.apply(p, on(backend, inputs), mask=mask))
    assert np.abs(after[0] - before[0]).max() > 1e-3
    assert_close(after[1], before[1], tolerance=0)


@every_dialect
def test_padded_tokens_do_not_matter(backend: str, conventions: Conventions) -> None:
    model = small.language_model(conventions)
    p = on(backend, random_parameters(model))
    ids = np.array([[1, 2, 3, 4, 0, 0, 0]])
    mask = ids > 0
    logits = [model.apply(p, on(backend, np.where(mask, ids, other)), mask=on(backend, mask)) for other in (0, 5, 10)]
    assert_close(logits[1:], [logits[0]] * 2, tolerance=0)
    assert_close(model.apply(p, on(backend, ids[:, :4])), logits[0])
