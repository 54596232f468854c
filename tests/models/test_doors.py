"""What people give at first: lists, data frames, other dtypes, parts that do not fit; each is one clear sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import perceiver_ref as pr
from perceiver_ref.autograd import tree
from perceiver_ref.models.call import Call
from perceiver_ref.models.decoder import classification_decoder
from perceiver_ref.models.encoder import Encoder
from perceiver_ref.models.inputs import ConvStem, GridInput, Pixels, TextInput, VectorInput
from perceiver_ref.models.positions import FourierPositions

X = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)
MODEL = pr.PerceiverIO(Encoder(7, 3, 10, layers=1, self_heads=5), decoder=classification_decoder(10, 4))
PARAMS = MODEL.init()


class DataFrame:
    """Of pandas, as far as anyone asks."""

    def to_numpy(self) -> np.ndarray:
        return X[0]


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        (X.astype(np.float64), r"inputs are float64, parameters float32; convert them, inputs\.astype\('float32'\)"),
        (X.astype(np.float16), "inputs are float16, parameters float32"),
        (X.astype(np.int64), "inputs are int64, parameters float32"),
        (X.tolist(), r"inputs are a list; give an array, numpy\.asarray\(inputs, 'float32'\)"),
        (tuple(X.tolist()), "inputs are a tuple"),
        (DataFrame(), "inputs are a DataFrame; give an array"),
        (X[0], r"inputs must be \(batch, positions, 7\), got \(5, 7\)"),
        (X[..., :6], r"inputs must be \(batch, positions, 7\), got \(2, 5, 6\)"),
    ],
)
def test_inputs_that_do_not_fit(inputs: Any, text: str) -> None:
    with pytest.raises(pr.InputError, match=text):
        MODEL.apply(PARAMS, inputs)


def test_inputs_in_other_words() -> None:
    other = tree.map(lambda p: p.astype(np.float64), PARAMS)
    with pytest.raises(pr.InputError, match="inputs are float32, parameters float64"):
        MODEL.apply(other, X)
    text = pr.PerceiverIO(Encoder(7, 3, 10, layers=0, self_heads=5), TextInput(11, 5, 7))
    with pytest.raises(pr.InputError, match="token ids must be integers"):
        text.apply(text.init(), X[..., 0])
    images = GridInput(Pixels(3), FourierPositions(1, (2, 2)))
    model = pr.PerceiverIO(Encoder(images.channels, 3, 10, layers=0, self_heads=5), images)
    with pytest.raises(pr.InputError, match=r"images must be floating point .* got uint8"):
        model.apply(model.init(), np.zeros((1, 2, 2, 3), np.uint8))
    with pytest.raises(pr.InputError, match="missing: decoder/"):  # parameters come first
        MODEL.apply({"encoder": PARAMS["encoder"]}, X.tolist())


def test_other_arguments_are_named() -> None:
    with pytest.raises(pr.InputError, match="latents are float64, parameters float32"):
        MODEL.apply(PARAMS, X, latents=np.zeros((2, 3, 10)))


@pytest.mark.parametrize("value", [None, True])
def test_a_mistake_inside_stays_what_it_is(monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise AttributeError("a mistake")

    monkeypatch.setattr(Encoder, "apply", broken)
    with pytest.raises(AttributeError, match="a mistake"):
        MODEL.apply(PARAMS, X)


def test_parts_of_other_widths() -> None:
    with pytest.raises(
        pr.InputError, match=r"gives elements of 9 channels, but the encoder takes inputs=7; .*inputs=9"
    ):
        pr.PerceiverIO(Encoder(7, 3, 10, self_heads=5), VectorInput(9))
    with pytest.raises(pr.InputError, match=r"latents have 10 channels, but the decoder takes latent_channels=12"):
        pr.PerceiverIO(Encoder(7, 3, 10, self_heads=5), decoder=classification_decoder(12, 4))


def test_batch_norm_in_training_needs_its_statistics() -> None:
    inputs = GridInput(ConvStem(3, 5), FourierPositions(2, (2, 2)))
    model = pr.PerceiverIO(Encoder(inputs.channels, 3, 10, layers=1, self_heads=5), inputs)
    images = np.random.default_rng(0).normal(2, size=(4, 8, 8, 3)).astype(np.float32)
    with pytest.raises(pr.InputError, match=r"needs running statistics to update: .*model\.init_state\(\)"):
        model.apply(model.init(), images, call=Call(training=True))
    state = model.init_state()
    assert {a.dtype for _, a in tree.leaves(state)} == {np.dtype(np.float32)}
    call = Call(training=True, state=state)
    model.apply(model.init(), images, call=call)
    assert tree.flatten(call.updates).keys() == tree.flatten(state).keys()
    assert not tree.flatten(MODEL.init_state())
    assert {a.dtype for _, a in tree.leaves(model.init_state(dtype=np.float64))} == {np.dtype(np.float64)}
