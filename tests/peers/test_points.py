"""Names of modules: a module with weights is known, and is the first of all points that its weights change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from porting.cases import FILES, label

from perceiver_ref.porting.cases import read_case
from perceiver_ref.porting.cases.execution import named_points, rebuild, run

PEERS = (
    *("krasserm", "open-flamingo", "idefics", "mllama", "ip-adapter", "diffusers", "pulid", "xtts", "naturalspeech2"),
    *("timm", "open-clip", "siglip", "chatterbox", "kosmos2", "aria", "minicpmv"),
    *("edgetam", "aurora", "perceiver-ar-pytorch"),
)
"""Of implementations that hook their modules; the first two cannot be installed beside the others, to be run live."""
NOT_CALLED = {"latent_provider", "output_query_provider", "frq_pos_encoding", "relative_attention_bias"}
"""Modules that hold a table or a buffer, which something else reads."""
SHARED = {"cross_attention.0.module.q_norm", "perceive_layers.0.0.norm", "perceive_layers.1.0.norm"}
"""Perceiver AR's norm of queries, which norms the latents among the keys before."""


def one_of_each() -> list[Path]:
    """A case of every class of these peers, and of every sharing of weights."""
    found: dict[tuple[str, ...], Path] = {}
    for path in FILES:
        if path.parent.name in PEERS:
            case = read_case(path)
            modules = {name.split(".module")[0] for name in case.params}
            found.setdefault((path.parent.name, case.meta["class"], *sorted(modules)), path)
    return list(found.values())


@pytest.mark.parametrize("path", one_of_each(), ids=label)
def test_a_module_is_the_first_point_that_its_weights_change(path: Path) -> None:
    case = read_case(path)
    if case.meta.get("call", {}).get("method") == "kv_cache":
        pytest.skip("a module is called once for each part of a sequence")
    rebuilt, arrays = rebuild(case)
    paths = {n.rpartition(".")[0] for n in arrays if "." in n}
    modules = sorted(m for m in paths if m.split(".")[-1] not in NOT_CALLED)
    names = named_points(rebuilt, modules)
    names = {m: found or rebuilt.points_of(f"{m}@0") for m, found in names.items()}
    assert [m for m, found in names.items() if not found] == []

    def ran(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        points = {name for found in names.values() for name in found}
        return run(rebuilt, weights, case.inputs, case.meta["call"], points=points).trace

    right = ran(arrays)
    points = {m: next((n for n in found if n in right), None) for m, found in names.items()}
    kept = [name for name in right if name in points.values()]
    for module, point in points.items():
        if point is None or module in SHARED:
            continue
        wrong = ran({n: a * 1.5 + 0.1 if n.rpartition(".")[0] == module else a for n, a in arrays.items()})
        assert next(n for n in kept if not np.array_equal(wrong[n], right[n])) == point, module
