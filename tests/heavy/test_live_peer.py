"""Outputs, intermediate maps and gradients of transformers' Perceiver, run live on configurations drawn at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from heavy.peer import float64_throughout, randomise, torch, transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_ref.porting import check_case
from perceiver_ref.porting.cases import Case

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("default")]
DRAWS = 120
"""Configurations of each class; the test of each prints how many it compared."""
compared: dict[str, int] = {}


@pytest.fixture(autouse=True)
def report() -> Any:
    compared.clear()
    yield
    for name, times in compared.items():
        print(f"\n{name}: {times} random configurations compared")
        assert times >= DRAWS


COUNTS = st.sampled_from([1, 2, 3, 5, 7])
"""Of heads."""
ACTIVATIONS = ["gelu", "gelu_new", "relu", "silu", "quick_gelu", "gelu_10", "mish", "tanh"]
OPTIONAL = {
    "num_blocks",
    "cross_attention_shape_for_attention",
    "self_attention_widening_factor",
    "cross_attention_widening_factor",
    "hidden_act",
    "use_query_residual",
    "layer_norm_eps",
    "qk_channels",
    "v_channels",
}
"""Options whose default is as small: each is left out of some configurations."""


@st.composite
def configs(draw: st.DrawFn, d_model: st.SearchStrategy[int], cross_heads: st.SearchStrategy[int]) -> dict[str, Any]:
    """Arguments of PerceiverConfig that transformers accepts."""
    cross, own = draw(cross_heads), draw(COUNTS)
    layers = draw(st.integers(0, 2))
    d_latents = cross * own * draw(st.integers(1, 3))
    # the values of self-attention are as wide as the latents, which they are added to
    values = st.sampled_from([None, d_latents]) if layers else st.sampled_from([None, d_latents, cross, 3 * cross])
    keys = st.none() | st.integers(1, 3).map(lambda n: cross * own * n)
    widths = {"v_channels": draw(values)}
    widths["qk_channels"] = draw(keys if widths["v_channels"] or not layers else st.sampled_from([None, d_latents]))
    config = {
        "num_latents": draw(st.integers(1, 5)),
        "d_latents": d_latents,
        "d_model": cross * draw(d_model),
        "num_blocks": draw(st.integers(1, 3)),
        "num_self_attends_per_block": layers,
        "num_self_attention_heads": own,
        "num_cross_attention_heads": cross,
        **widths,
        "cross_attention_shape_for_attention": draw(st.sampled_from(["kv", "q"])),
        "self_attention_widening_factor": draw(st.integers(1, 3)),
        "cross_attention_widening_factor": draw(st.integers(1, 3)),
        "hidden_act": draw(st.sampled_from(ACTIVATIONS)),
        "use_query_residual": draw(st.booleans()),
        "layer_norm_eps": draw(st.sampled_from([1e-12, 1e-5, 1e-2])),
    }
    left_out = draw(st.sets(st.sampled_from(sorted(OPTIONAL)), max_size=4))
    if left_out & {"qk_channels", "v_channels"} and widths != {"qk_channels": None, "v_channels": None}:
        left_out -= {"qk_channels", "v_channels"}
    return {name: value for name, value in config.items() if name not in left_out}


def mask(draw: Any, batch: int, length: int) -> np.ndarray:
    """Any mask, in any dtype; rows may be masked, real or of a single key throughout."""
    one = st.integers(0, length - 1).map(lambda i: [int(j == i) for j in range(length)])
    rows = st.lists(st.integers(0, 1), min_size=length, max_size=length)
    rows = rows | one | st.just([0] * length) | st.just([1] * length)
    dtype = draw(st.sampled_from(["int64", "bool", "int32", "uint8", "float64", "float32"]))
    return np.array([draw(rows) for _ in range(batch)]).astype(dtype)


def added(draw: Any, batch: int, heads: int, latents: int, length: int, seed: int) -> np.ndarray:
    """A mask of four axes, which is added to the logits as it is: numbers, the lowest one, or bools and integers."""
    shape = [draw(st.sampled_from([1, n])) for n in (batch, heads, latents, length)]
    rng = np.random.default_rng(seed)
    kind = draw(st.sampled_from(["lowest", "any", "both", "bool", "int64"]))
    if kind in ("bool", "int64"):
        return (rng.random(shape) < 0.5).astype(kind)
    finite = np.zeros(shape) if kind == "lowest" else rng.standard_normal(shape)
    return finite if kind == "any" else np.where(rng.random(shape) < 0.4, np.finfo(np.float64).min, finite)


def case(cls: str, config: dict[str, Any], inputs: dict[str, np.ndarray], call: dict[str, Any], seed: int) -> Case:
    """What transformers computes from random weights and cotangents, in float64."""
    with float64_throughout():
        model = getattr(transformers, cls)(transformers.PerceiverConfig(**config)).eval()
        randomise(model, seed)
        arguments = {name: torch.from_numpy(array) for name, array in inputs.items()}
        floats = {name: t.requires_grad_() for name, t in arguments.items() if t.is_floating_point()}
        result = model(**arguments, **call)
        outputs = {}
        for name, value in result.items():
            parts = {f"{name}.{i}": v for i, v in enumerate(value)} if isinstance(value, tuple) else {name: value}
            outputs.update({key: v for key, v in parts.items() if v is not None})
        rng = np.random.default_rng(seed)
        cotangents = {name: rng.standard_normal(tuple(v.shape)) for name, v in outputs.items()}
        sum((v * torch.from_numpy(np.asarray(cotangents[n]))).sum() for n, v in outputs.items()).backward()

    def gradient(t: Any) -> np.ndarray:
        return np.zeros(tuple(t.shape)) if t.grad is None else t.grad.numpy()

    params = dict(model.named_parameters())
    return Case(
        {"peer": "hf", "class": cls, "config": {"config": config}, "call": call, "dtype": "float64"},
        params={name: p.detach().numpy() for name, p in params.items()},
        inputs=inputs,
        outputs={name: v.detach().numpy() for name, v in outputs.items()},
        cotangents=cotangents,
        grad_params={name: gradient(p) for name, p in params.items()},
        grad_inputs={name: gradient(t) for name, t in floats.items()},
    )


def assert_passes(made: Case, backend: str) -> None:
    result = check_case(made, backend=backend)
    failed = [a for a in result.agreements if not a.passed]
    assert failed == []
    kinds = {a.kind for a in result.agreements}
    assert {"output", "grad_param"} <= kinds
    compared[made.meta["class"]] = compared.get(made.meta["class"], 0) + 1


seeds = st.integers(0, 2**31)
sizes = st.tuples(st.integers(1, 3), st.integers(1, 6))
many = settings(max_examples=DRAWS, deadline=None)


@many
@given(data=st.data(), size=sizes, seed=seeds, all_outputs=st.booleans())
def test_model(backend: str, data: st.DataObject, size: tuple[int, int], seed: int, all_outputs: bool) -> None:
    config = data.draw(configs(st.integers(1, 3), COUNTS))
    inputs = {"inputs": np.random.default_rng(seed).standard_normal((*size, config["d_model"]))}
    kind = data.draw(st.sampled_from([None, "keys", "added"]))
    if kind == "keys":
        inputs["attention_mask"] = mask(data.draw, *size)
    elif kind == "added":
        counts = config["num_cross_attention_heads"], config["num_latents"]
        inputs["attention_mask"] = added(data.draw, size[0], *counts, size[1], seed)
    call = {"output_attentions": True, "output_hidden_states": True} if all_outputs else {}
    assert_passes(case("PerceiverModel", config, inputs, call, seed), backend)


@many
@given(data=st.data(), size=sizes, seed=seeds)
def test_masked_lm(backend: str, data: st.DataObject, size: tuple[int, int], seed: int) -> None:
    # the decoder has 8 heads, and its values are as wide as the embedding
    config = data.draw(configs(st.sampled_from([8, 16]), COUNTS))
    batch, length = size
    config |= {"vocab_size": 13, "max_position_embeddings": length + data.draw(st.integers(0, 2))}
    rng = np.random.default_rng(seed)
    inputs = {"inputs": rng.integers(0, 13, size)}
    if data.draw(st.booleans()):
        inputs["attention_mask"] = mask(data.draw, *size)
    if data.draw(st.booleans()):
        labels = rng.integers(0, 13, (batch, config["max_position_embeddings"]))
        inputs["labels"] = np.where(rng.random(labels.shape) < 0.3, -100, labels)
        inputs["labels"][0, 0] = 1  # the mean over no labels at all is NaN
    assert_passes(case("PerceiverForMaskedLM", config, inputs, {}, seed), backend)


@many
@given(data=st.data(), size=sizes, seed=seeds)
def test_sequence_classification(backend: str, data: st.DataObject, size: tuple[int, int], seed: int) -> None:
    config = data.draw(configs(st.integers(1, 4), COUNTS))
    batch, length = size
    labels = data.draw(st.sampled_from([None, "classes", "several", "numbers"]))
    config |= {"vocab_size": 13, "max_position_embeddings": length + data.draw(st.integers(0, 2))}
    config["num_labels"] = 1 if labels == "numbers" else 4
    rng = np.random.default_rng(seed)
    inputs = {"inputs": rng.integers(0, 13, size)}
    if data.draw(st.booleans()):
        inputs["attention_mask"] = mask(data.draw, *size)
    if labels == "classes":
        inputs["labels"] = rng.integers(0, 4, batch)
    elif labels == "several":
        inputs["labels"] = rng.integers(0, 2, (batch, 4)).astype(float)
    elif labels == "numbers":
        inputs["labels"] = rng.standard_normal(batch)
    assert_passes(case("PerceiverForSequenceClassification", config, inputs, {}, seed), backend)


@many
@given(data=st.data(), seed=seeds)
def test_image_classification_fourier(backend: str, data: st.DataObject, seed: int) -> None:
    config = data.draw(configs(st.just(87), st.sampled_from([1, 3])))  # 261 channels, with 1 or 3 heads
    config |= {"num_labels": 4}
    grid = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    batch = data.draw(st.integers(1, 3))
    inputs = {"inputs": np.random.default_rng(seed).standard_normal((batch, 3, *grid))}
    if data.draw(st.booleans()):
        inputs["attention_mask"] = mask(data.draw, batch, grid[0] * grid[1])
    if data.draw(st.booleans()):
        inputs["labels"] = np.random.default_rng(seed).integers(0, 4, batch)
    assert_passes(case("PerceiverForImageClassificationFourier", config, inputs, {}, seed), backend)
