"""docs/MODELS.md: every field and argument of the classes, and courses in the order of the traces of real runs."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from descriptions.activations import ACTIVATIONS
from descriptions.arguments import ARGUMENTS
from descriptions.courses import MODELS, ROUTINES
from descriptions.fields import FIELDS
from descriptions.page import _PARTS, Line, course, markdown
from docs.blocks import ROOT

from perceiver_ref.models.activations import activations
from perceiver_ref.models.conventions import Activation
from perceiver_ref.models.published import PRESETS
from perceiver_ref.peers.reference.configuration import TYPES
from perceiver_ref.peers.reference.models import CALLERS
from perceiver_ref.porting.export.adversarial import ROWS
from perceiver_ref.porting.export.find import Wanted, find
from perceiver_ref.porting.export.make import ExportOptions, make

AGAIN = "write it again: python docs/make models > docs/MODELS.md"
PLAIN = ExportOptions(gradients=False)
AR: dict[str, Any] = {"vocabulary": 11, "length": 9, "latents": 4, "channels": 8, "self_heads": 2, "layers": 2}
CONVENTIONS = {"type": "Conventions", "activation": "gelu_erf", "masked_rows": "uniform", "grid": "compute"}
ENCODER = {"type": "Encoder", "inputs": 8, "latents": 3, "channels": 8, "layers": 1, "self_heads": 2}
RESAMPLER = {"channels": 8, "latents": 3, "layers": 2, "heads": 2, "frames": 3, "media": 2}
GRID = {"type": "FourierPositions", "num_bands": 2, "max_resolution": [8, 6]}
FAMILY = {"type": "Resampler", "channels": 8, "latents": 3, "layers": 2, "heads": 2}
POOL = {"type": "AttentionPool", "features": 5, "channels": 8, "latents": 3, "heads": 2}
CROSS = {"type": "CrossAttention", "q_inputs": 6, "kv_inputs": 4, "heads": 2}
SELF = {"type": "SelfAttention", "channels": 6, "heads": 2}
X, Z, SEEN = np.ones((2, 3, 6)), np.ones((2, 5, 4)), np.ones((2, 3, 5), bool)
SEEN[0, 1] = False
CONFIGS: tuple[tuple[dict[str, Any], str | dict[str, np.ndarray]], ...] = (
    ({"type": "PerceiverAR", **AR}, "9"),
    ({"type": "PerceiverAR", **AR, "cross_attends": [0, 1], "position_table": True, "own_keys": "queries"}, "9"),
    (
        {"type": "PerceiverAR", **AR, "query_residual": False, "conventions": {**CONVENTIONS, "masked_rows": "zero"}},
        "9",
    ),
    ({"type": "PerceiverResampler", **RESAMPLER, "qk_norm": True}, "2x3x4x8"),
    ({"type": "PerceiverResampler", **RESAMPLER, "conventions": {**CONVENTIONS, "gated_mlp": True}}, "2x3x4x8"),
    (
        {
            "type": "PerceiverIO",
            "encoder": {**ENCODER, "inputs": 13, "conventions": {**CONVENTIONS, "gated_mlp": True}},
            "preprocessor": {
                "type": "GridInput",
                "features": {"type": "Pixels", "image_channels": 3},
                "positions": GRID,
                "position_layers": 2,
            },
        },
        "8x6x3",
    ),
    ({**FAMILY, "features": 5, "pooled": 2, "places": 7, "outputs": 9, "latents_first": True}, "6x5"),
    ({**FAMILY, "latents": None, "norms": "none"}, {"latents": np.ones((2, 3, 8)), "features": np.ones((2, 4, 8))}),
    ({**POOL, "hidden": 7, "end": "norm", "last": 11, "take": "mean", "qk_norm": True, "places": 6}, "6x5"),
    ({**POOL, "norms": "before", "projection": "linear", "hidden": 7, "mlp_norms": "none"}, "6x5"),
    (
        {"type": "LatentAttention", "channels": 6, "heads": 2},
        {"x": X, "features": np.ones((2, 5, 6)), "mask": np.array([[True] * 5, [False] * 5])},
    ),
    *(({**CROSS, "norms": norms}, {"x": X, "z": Z, "mask": SEEN}) for norms in ("before", "after", "around")),
    ({**CROSS, "feed_forward": False, "context_norm": False, "query_residual": False}, {"x": X, "z": Z}),
    *(({**SELF, "norms": norms}, {"x": X, "mask": SEEN[:, :, :3]}) for norms in ("before", "after", "around")),
    ({**SELF, "feed_forward": False, "query_residual": False, "hidden": 5}, {"x": X}),
)
"""What no preset has: (a configuration, the shape of an example or the arrays of a call)."""


def fits(lines: list[Line], names: list[str]) -> set[int]:
    """The lines that traced names are of; fails unless names come in their order, a loop's again and again."""
    place, used = -1, set()
    for name in (n.partition("@")[0] for n in names):
        found = [i for i, line in enumerate(lines) if line.point and line.point.fullmatch(name)]
        assert found, f"{name} has no line"
        later = [i for i in found if i > place]
        again = [i for i in found if i <= place and _in_one_loop(lines, i, place)]
        assert later or again, f"{name} comes after {lines[place].text!r}"
        place = (later or again)[0] if not again or not later else min(again[-1], later[0])
        used.add(place)
    return used


def _in_one_loop(lines: list[Line], first: int, last: int) -> bool:
    starts = [i for i in range(first) if lines[i].loop]
    return any(all(line.depth > lines[i].depth for line in lines[i + 1 : last + 1]) for i in starts)


def traces() -> list[tuple[str, list[str]]]:
    """(class, traced names) of every preset and of the configurations."""
    made = []
    for name in PRESETS:
        subject = find(Wanted(name))
        cls = type(subject.rebuilt.model).__name__
        wanted = ("plain", "padding") if name == "perceiver-io/language" else ("plain",)
        for row in (r for r in ROWS if r.id in wanted):
            made.append((cls, list(make(subject, row, PLAIN).trace)))
    return made


@pytest.fixture(scope="module")
def of_presets() -> list[tuple[str, list[str]]]:
    return traces()


@pytest.fixture(scope="module")
def of_configs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, list[str]]]:
    folder = tmp_path_factory.mktemp("configs")
    made = []
    for i, (config, sizes) in enumerate(CONFIGS):
        path = Path(folder / f"{i}.json")
        path.write_text(json.dumps(config))
        if not isinstance(sizes, str):
            np.savez(folder / f"{i}.npz", **sizes)
            sizes = str(folder / f"{i}.npz")
        subject = find(Wanted(str(path), inputs=sizes))
        for row in (r for r in ROWS if r.id in ("plain", "masked-row", "padding") and r.needs(subject)):
            made.append((config["type"], list(make(subject, row, PLAIN).trace)))
    return made


def test_the_page_is_what_the_tables_make() -> None:
    assert (ROOT / "docs" / "MODELS.md").read_text(encoding="utf-8") == markdown(), AGAIN


def test_every_field_of_every_type_is_there() -> None:
    assert set(FIELDS) == set(TYPES)
    for name, cls in TYPES.items():
        assert set(FIELDS[name]) == {f.name for f in dataclasses.fields(cls)}, name
    shown = {name for _, types in _PARTS for name in types} | set(MODELS) | {"GatedCrossAttention"}
    assert shown == set(TYPES)


def test_what_null_means_is_said_of_those_that_may_be_null_alone() -> None:
    for name, cls in TYPES.items():
        for f in dataclasses.fields(cls):
            assert ("null" in FIELDS[name][f.name]) == ("None" in str(f.type)), (name, f.name)


def test_formulas_of_activations_are_the_activations() -> None:
    assert list(ACTIVATIONS) == list(get_args(Activation))
    symbols = {name: getattr(math, name) for name in ("erf", "tanh", "exp", "log", "sqrt", "pi")} | {
        "min": min,
        "max": max,
    }
    for name, formula in ACTIVATIONS.items():
        for x in (-11.3, -3.7, -1.9, -0.3, 0.0, 0.21, 0.8, 2.6, 6.5, 12.7):
            ours = float(activations[name](np.float64(x)))
            # 1 + exp(-11) loses five of the sixteen digits of exp(-11)
            assert ours == pytest.approx(eval(formula, symbols, {"x": x}), rel=1e-10, abs=1e-15), (name, x)


def test_every_argument_is_there() -> None:
    for cls, caller in CALLERS.items():
        if cls.__name__ in ARGUMENTS:
            assert set(ARGUMENTS[cls.__name__]) == {*caller.required, *caller.optional, *caller.options}
    assert set(MODELS) <= set(ARGUMENTS)


def test_traces_are_in_the_order_of_the_courses(
    of_presets: list[tuple[str, list[str]]], of_configs: list[tuple[str, list[str]]]
) -> None:
    used: dict[str, set[int]] = {name: set() for name in MODELS}
    for cls, names in [*of_presets, *of_configs]:
        used[cls] |= fits(course(cls), names)
    for name, found in used.items():
        lines = course(name)
        missed = [line.text for i, line in enumerate(lines) if line.point and i not in found]
        # of routines that a model calls in several places, some points are in one of them alone
        everywhere = {lines[i].text for i in found}
        assert not [text for text in missed if text not in everywhere and not _elsewhere(text)], (name, missed)


def _elsewhere(text: str) -> bool:
    """Points that some of the other models have: norms of heads, gates of MLPs."""
    return text.endswith(("? qk_norm", "? gated_mlp")) or "upsample" in text


def test_a_course_in_another_order_is_found(of_presets: list[tuple[str, list[str]]]) -> None:
    cls, names = of_presets[0]
    for i in (1, len(names) // 2):
        with pytest.raises(AssertionError, match=r"comes after|has no line"):
            fits(course(cls), [*names[:i], names[-1], *names[i:]])
    with pytest.raises(AssertionError, match="has no line"):
        fits(course(cls), [*names, "encoder.surprise"])


def test_every_routine_is_called() -> None:
    called = " ".join(text for _, text in (*MODELS.values(), *ROUTINES.values()))
    assert all(f"@{name} " in called for name in ROUTINES)
