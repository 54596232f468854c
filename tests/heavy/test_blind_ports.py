"""Ports under names of their own, written without sight of how binding works: recorded, bound and checked.

What a porter writes is `recorded` (two lines) and two commands; nothing names a parameter.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import perceiver_ref as pr
from perceiver_ref.cli.main import main

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]


def bound_and_checked(folder: Path, config: dict[str, Any]) -> Any:
    """What `check --map` says of the recorded case, after `bind`; both must exit with 0."""
    case, to, found = (str(folder / name) for name in ("case.npz", "config.json", "map.json"))
    Path(to).write_text(json.dumps(config))
    assert main(["bind", case, "--to", to, "--out", found]) == 0
    assert main(["check", case, "--map", found]) == 0
    map_ = pr.porting.bind.read_map(found) if hasattr(pr.porting.bind, "read_map") else None
    return map_


def varied(torch: Any, module: Any) -> None:
    """Every parameter as training leaves it: no bias is 0 and no scale 1."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn_like(parameter)


@pytest.mark.parametrize("weights", ["trained", "fresh"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["fused", "ready_made", "channels_first", "matrices"])
def test_torch(tmp_path: Path, name: str, dtype: str, weights: str) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    style = import_module(f"heavy.blind_ports.{name}")
    module, x = style.port()
    if weights == "trained":
        varied(torch, module)
    module, x = module.to(getattr(torch, dtype)), x.to(getattr(torch, dtype))
    with pr.record(module, tmp_path / "case.npz"):
        module(x).square().sum().backward()
    bound_and_checked(tmp_path, style.CONFIG)


@pytest.mark.parametrize("weights", ["trained", "fresh"])
def test_flax(tmp_path: Path, weights: str) -> None:
    jax = pytest.importorskip("jax")
    pytest.importorskip("flax")
    style = import_module("heavy.blind_ports.linen")
    module, variables, x = style.port(0)
    if weights == "trained":
        leaves, tree = jax.tree.flatten(variables)
        keys = jax.random.split(jax.random.PRNGKey(1), len(leaves))
        noisy = [leaf + 0.2 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys)]
        variables = jax.tree.unflatten(tree, noisy)
    with pr.record(module, tmp_path / "case.npz"):
        module.apply(variables, x)
    bound_and_checked(tmp_path, style.CONFIG)
