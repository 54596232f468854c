"""perceiver-pytorch keeps no configuration: those drawn at random are read off the live module, and pass."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from heavy import lucidrains_configurations as peer
from hypothesis import given, settings
from hypothesis import strategies as st

import perceiver_ref as pr
from perceiver_ref.porting.cases import read_case
from perceiver_ref.porting.record.structure import outputs

torch = peer.torch
pytestmark = pytest.mark.heavy
many = settings(max_examples=60, deadline=None)


def grid(config: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    axes = (2, 3, 4)[: config.get("input_axis", 2)]
    return {"data": rng.standard_normal((2, *axes, config.get("input_channels", 3)))}


def passes(path: Path, name: str, config: dict[str, Any], inputs: dict[str, Any], **call: Any) -> None:
    rng = np.random.default_rng(0)
    target = getattr(importlib.import_module(f"perceiver_pytorch.{peer.MODULES[name]}"), name.rpartition(".")[2])
    with peer.float64_throughout():
        module = target(**config).eval()
        peer.randomise(module, rng)
        tensors = {key: torch.tensor(array, requires_grad=array.dtype.kind == "f") for key, array in inputs.items()}
        with pr.record(module, path):
            made = [value for _, value in outputs(module(**tensors, **call))]
            sum((out * torch.from_numpy(rng.standard_normal(tuple(out.shape)))).sum() for out in made).backward()
    result = pr.crosscheck.check_file(path)
    assert result.status == "pass", (result.message, result.worst, read_case(path).meta["config"])
    assert result.notes == []
    assert max(a.error for a in result.agreements) < 1e-8
    found = read_case(path).meta["config"]
    for key, value in config.items():  # but what a module without such a part cannot show
        if key in found and key not in ("weight_tie_layers", "inverted_cross_attn"):
            assert found[key] == value, key


@many
@given(config=peer.perceivers(), hiddens=st.booleans())
def test_perceiver(tmp_path: Path, config: dict[str, Any], hiddens: bool) -> None:
    passes(tmp_path / "case.npz", "Perceiver", config, grid(config, np.random.default_rng(1)), return_hiddens=hiddens)


@pytest.mark.parametrize("name", ["gated.Perceiver", "mixed_latents.Perceiver", "experimental.Perceiver"])
@many
@given(config=peer.grids())
def test_variants(tmp_path: Path, name: str, config: dict[str, Any]) -> None:
    config |= {"fourier_encode_data": False} if name == "experimental.Perceiver" else {}
    passes(tmp_path / "case.npz", name, config, grid(config, np.random.default_rng(1)))


@many
@given(config=peer.perceiver_ios(), queried=st.booleans())
def test_perceiver_io(tmp_path: Path, config: dict[str, Any], queried: bool) -> None:
    rng = np.random.default_rng(1)
    inputs = {"data": rng.standard_normal((2, 5, config["dim"]))}
    if queried:
        inputs["queries"] = rng.standard_normal((3, config["queries_dim"]))
    passes(tmp_path / "case.npz", "PerceiverIO", config, inputs)


@many
@given(config=peer.perceiver_ios())
def test_perceiver_lm(tmp_path: Path, config: dict[str, Any]) -> None:
    own = {key: value for key, value in config.items() if key not in ("queries_dim", "logits_dim")}
    own |= {"num_tokens": 11, "max_seq_len": 7}
    passes(tmp_path / "case.npz", "PerceiverLM", own, {"x": np.random.default_rng(1).integers(0, 11, (2, 5))})
