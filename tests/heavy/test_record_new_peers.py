"""Recorded calls of the live resamplers and poolers in use today pass `check` with nothing typed by hand.

Configurations, weights and inputs are drawn at random. `PERCEIVER_REF_DRAWS` says how many of each class (default: 25).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import perceiver_ref as pr
from perceiver_ref.porting.cases import read_case
from perceiver_ref.porting.record.structure import outputs

pytest.importorskip("torch", reason="needs the extra: perceiver-ref[peers]")
pytest.importorskip("transformers", reason="needs the extra: perceiver-ref[peers]")
pytest.importorskip("diffusers", reason="needs the extra: perceiver-ref[peers]")
pytest.importorskip("timm", reason="needs the extra: perceiver-ref[peers]")
pytest.importorskip("open_clip", reason="needs the extra: perceiver-ref[peers]")
pytest.importorskip("einops", reason="needs the extra: perceiver-ref[peers]")
from heavy import resampler_configurations as resamplers
from heavy import sets_configurations as sets
from heavy.draw import Draw
from heavy.precision import promoted

torch = resamplers.torch
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]
DRAWS = int(os.environ.get("PERCEIVER_REF_DRAWS", "25"))
OUTPUTS, GRADIENTS = 1e-10, 1e-8
"""In float64: sums in another order, over at most some hundred numbers, through a few layers."""
KINDS: tuple[Callable[[Draw], Any], ...] = (*resamplers.KINDS, *sets.KINDS)


@contextmanager
def float64_throughout(kind: Any) -> Iterator[None]:
    """Every step that a peer takes in float32 in float64, so that what is left is the reference's own error."""
    named = sets.NEEDS.get(kind.__name__)
    if named is not None:
        with promoted(*([sys.modules[named]] if kind is sets.edgetam else [])):
            yield
    else:
        with resamplers.float64_throughout():
            yield


def made(kind: Any, seed: int) -> tuple[str, Any, Any, dict[str, Any], dict[str, Any]]:
    """(class, module to call, module to record, arrays, options); an attribute is set by the module to call."""
    if (needed := sets.NEEDS.get(kind.__name__)) is not None:
        pytest.importorskip(needed, reason=f"needs {needed}", exc_type=ImportError)
    _, name, _, module, inputs, call = kind(Draw(seed))
    module = module.double().eval()
    inner = getattr(module, "module", module)
    if kind in sets.KINDS:
        sets.randomise(inner, seed)
    else:
        resamplers.randomise(inner, seed, 0.7 if name == "PerceiverResampler" else 1.2)
    arrays = {key: torch.from_numpy(array.copy()) for key, array in inputs.items()}
    arrays = {key: array.requires_grad_() if array.is_floating_point() else array for key, array in arrays.items()}
    return name, module, inner, arrays, {key: value for key, value in call.items() if key != "fused_attn"}


def recorded(kind: Any, seed: int, path: Path, *, promote: bool) -> tuple[str, Any, dict[str, Any]]:
    name, module, inner, arrays, options = made(kind, seed)
    generator = torch.Generator().manual_seed(seed)
    with float64_throughout(kind) if promote else nullcontext(), pr.record(inner, path):
        found = [out for _, out in outputs(module(**arrays, **options)) if out.requires_grad]
        if found:
            sum((out * torch.randn(out.shape, generator=generator).double()).sum() for out in found).backward()
    return name, inner, arrays


def has_no_layers(kind: Any, module: Any) -> bool:
    """Whether a class has nothing to read its sizes off."""
    return kind is sets.aurora and not len(module.layers)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_recorded_call_passes(tmp_path: Path, kind: Any) -> None:
    """Outputs, gradients of parameters and arguments, and every traced value."""
    path, passed = tmp_path / "case.npz", 0
    for seed in range(10 * DRAWS):
        name, module, arrays = recorded(kind, seed, path, promote=True)
        case = read_case(path)
        if has_no_layers(kind, module):
            assert case.meta["peer"] == "unknown"
            continue
        assert case.meta["class"].endswith(f".{name}")
        result = pr.crosscheck.check_file(path)
        assert result.status == "pass", (seed, result.message, result.worst, case.meta)
        assert not [note for note in result.notes if "no such point" in note], (seed, result.notes)
        assert (result.error("output", "trace") or 0) <= OUTPUTS, (seed, result.worst)
        assert (result.error("grad_param", "grad_input") or 0) <= GRADIENTS, (seed, result.worst)
        kinds = {a.kind for a in result.agreements}
        assert "output" in kinds
        if case.cotangents:
            assert {key.partition(".")[0] for key, a in arrays.items() if a.is_floating_point()} <= {
                key.partition(".")[0] for key in case.grad_inputs
            }
            assert set(case.grad_params) == set(dict(module.named_parameters()))
        assert not any(hooks for part in module.modules() for hooks in (part._forward_hooks, part._forward_pre_hooks))
        passed += 1
        if passed == DRAWS:
            break
    assert passed == DRAWS


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_as_they_are_in_float64(tmp_path: Path, kind: Any) -> None:
    """Where a class computes a part in float32, the case says so, and is held to that."""
    for seed in range(10):
        _, module, arrays = recorded(kind, seed, tmp_path / "case.npz", promote=False)
        if has_no_layers(kind, module) or any(
            np.isinf(a.detach().float().numpy()).any() for a in arrays.values() if a.is_floating_point()
        ):  # the lowest float64 is no float32
            continue
        result = pr.crosscheck.check_file(tmp_path / "case.npz")
        assert result.status == "pass", (seed, result.message, result.worst)
