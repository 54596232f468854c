"""perceiver-pytorch run live: configurations drawn at random, and a case from any of its classes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
from heavy.hooks import hooked
from hypothesis import strategies as st

from perceiver_ref.porting.cases import Case

torch = pytest.importorskip("torch", reason="needs the extra: perceiver-ref[peers]")
pytest.importorskip("perceiver_pytorch", reason="needs the extra: perceiver-ref[peers]")

MODULES = {
    "Perceiver": "perceiver_pytorch",
    "PerceiverBlock": "perceiver_pytorch",
    "Attention": "perceiver_pytorch",
    "FeedForward": "perceiver_pytorch",
    "EnformerAttentionResidual": "perceiver_pytorch",
    "GEGLU": "perceiver_pytorch",
    "fourier_encode": "perceiver_pytorch",
    "PerceiverIO": "perceiver_io",
    "PerceiverLM": "perceiver_io",
    "gated.Perceiver": "gated",
    "mixed_latents.Perceiver": "mixed_latents",
    "experimental.Perceiver": "experimental",
}


@contextmanager
def float64_throughout() -> Iterator[None]:
    """The variants make their grids in PyTorch's default dtype."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


def randomise(module: Any, rng: np.random.Generator) -> None:
    """Random weights with which no part is idle, in place: attention logits near 2, scales near 1, biases of 0.3."""
    for name, p in module.named_parameters():
        values = rng.standard_normal(tuple(p.shape))
        if p.ndim >= 2 and "latents" not in name and "emb" not in name:
            values *= (1.5 if "to_q" in name or "to_kv" in name else 1.0) / np.sqrt(np.prod(p.shape[1:]))
        elif p.ndim == 1:
            values = 0.3 * values + (name.endswith("weight"))
        with torch.no_grad():
            p.copy_(torch.from_numpy(values))


class Function(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, **arguments: Any) -> Any:
        return self.function(**arguments)


def case(
    name: str, config: Mapping[str, Any], inputs: Mapping[str, np.ndarray], call: Mapping[str, Any], seed: int
) -> Case:
    """What the peer's class computes from random weights and cotangents, in float64, with all traces and gradients."""
    rng = np.random.default_rng(seed)
    with float64_throughout():
        path = f"perceiver_pytorch.{MODULES[name]}.{name.rpartition('.')[2]}"
        target = getattr(importlib.import_module(path.rpartition(".")[0]), path.rpartition(".")[2])
        module = target(**config).eval() if isinstance(target, type) else Function(partial(target, **config))
        randomise(module, rng)
        tensors = {key: torch.tensor(array, requires_grad=array.dtype.kind == "f") for key, array in inputs.items()}
        with hooked(module) as traces:
            outputs = _named(module(**_listed(tensors), **call))
        cotangents = {key: rng.standard_normal(tuple(out.shape)) for key, out in outputs.items()}
        sum((outputs[key] * torch.from_numpy(weights)).sum() for key, weights in cotangents.items()).backward()
    own = dict(module.named_parameters())
    every = dict(module.named_parameters(remove_duplicate=False))
    first = {id(p): key for key, p in own.items()}
    return Case(
        {
            "peer": "lucidrains-perceiver",
            "class": path,
            "config": dict(config),
            "call": dict(call),
            "dtype": "float64",
            "seed": seed,
            "tied": {key: first[id(p)] for key, p in every.items() if key not in own},
        },
        params={key: p.detach().numpy() for key, p in every.items()},
        inputs=dict(inputs),
        outputs={key: out.detach().numpy() for key, out in outputs.items()},
        cotangents=cotangents,
        grad_params={key: _gradient(p) for key, p in every.items()},
        grad_inputs={key: _gradient(t) for key, t in tensors.items() if t.requires_grad},
        trace=traces,
    )


def _gradient(tensor: Any) -> np.ndarray:
    return np.zeros(tuple(tensor.shape)) if tensor.grad is None else tensor.grad.numpy()


def _listed(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """`name.0`, `name.1` as a list."""
    lists = {key.partition(".")[0] for key in tensors if "." in key}
    return {
        **{key: t for key, t in tensors.items() if "." not in key},
        **{name: [t for key, t in tensors.items() if key.startswith(f"{name}.")] for name in lists},
    }


def _named(out: Any) -> dict[str, Any]:
    if torch.is_tensor(out):
        return {"out": out}
    value, hiddens = out
    return {"out0": value, **{f"out1.{i}": hidden for i, hidden in enumerate(hiddens)}}


few, some = st.integers(1, 3), st.integers(1, 6)
flags = st.booleans()
counts = st.sampled_from([1, 2, 3, 5, 7])
"""Of heads."""


def sizes(count: int) -> st.SearchStrategy[list[int]]:
    """So many sizes, any or all distinct."""
    return st.lists(some, min_size=count, max_size=count) | st.permutations(range(1, count + 5)).map(
        lambda order: order[:count]
    )


def left_out(draw: st.DrawFn, config: dict[str, Any], *names: str) -> dict[str, Any]:
    """Some configurations without some of these options, whose defaults are no larger."""
    absent = draw(st.just(set()) | st.sets(st.sampled_from(names), max_size=3))
    return {name: value for name, value in config.items() if name not in absent}


@st.composite
def heads(draw: st.DrawFn) -> dict[str, int]:
    made = {"cross_heads": draw(counts), "latent_heads": draw(counts)}
    made |= {"cross_dim_head": draw(few), "latent_dim_head": draw(few)}
    return left_out(draw, made, *made)


@st.composite
def grids(draw: st.DrawFn) -> dict[str, Any]:
    """What every `Perceiver` takes."""
    made = {
        **draw(heads()),
        "num_freq_bands": draw(st.integers(0, 4)),
        "depth": draw(few),
        "max_freq": draw(st.sampled_from([2, 5.0, 8.5, 20])),
        "input_channels": draw(few),
        "input_axis": draw(few),
        "num_latents": draw(some),
        "latent_dim": draw(st.integers(2, 6)),
        "num_classes": draw(few),
        "weight_tie_layers": draw(flags),
        "attn_dropout": draw(st.sampled_from([0.0, 0.1])),
        "ff_dropout": draw(st.sampled_from([0.0, 0.1])),
    }
    return left_out(draw, made, "input_channels", "input_axis", "weight_tie_layers", "attn_dropout", "ff_dropout")


@st.composite
def perceivers(draw: st.DrawFn) -> dict[str, Any]:
    shared = draw(grids())
    each = st.lists(flags, min_size=shared["depth"], max_size=shared["depth"])
    own = {
        "fourier_encode_data": draw(flags),
        "self_per_cross_attn": draw(st.integers(0, 2)),
        "final_classifier_head": draw(flags),
        "inverted_cross_attn": draw(flags | each.map(tuple)),
        "attn_residual": draw(flags),
        "attn_residual_rank": draw(few),
    }
    return {**shared, **left_out(draw, own, *own)}


@st.composite
def perceiver_ios(draw: st.DrawFn) -> dict[str, Any]:
    made = {
        **draw(heads()),
        "depth": draw(few),
        "dim": draw(some),
        "queries_dim": draw(some),
        "logits_dim": draw(st.none() | few),
        "num_latents": draw(some),
        "latent_dim": draw(st.integers(2, 6)),
        "weight_tie_layers": draw(flags),
        "decoder_ff": draw(flags),
        "seq_dropout_prob": draw(st.sampled_from([0.0, 0.3])),
        "attn_residual": draw(flags),
        "attn_residual_rank": draw(few),
        "inverted_cross_attn": draw(flags),
    }
    optional = ("logits_dim", "weight_tie_layers", "decoder_ff", "seq_dropout_prob", "attn_residual")
    return left_out(draw, made, *optional, "attn_residual_rank", "inverted_cross_attn")


def mask(draw: st.DrawFn, shape: tuple[int, ...]) -> np.ndarray:
    """Any mask: rows of none, of all and of a single element are among them, axes of a grid may be flat."""
    length = int(np.prod(shape[1:]))
    one = st.integers(0, length - 1).map(lambda i: [j == i for j in range(length)])
    rows = st.lists(flags, min_size=length, max_size=length)
    rows = rows | one | st.just([False] * length) | st.just([True] * length)
    made = np.array([draw(rows) for _ in range(shape[0])], bool)
    return made if len(shape) > 2 and draw(flags) else made.reshape(shape)
