"""`diagnose` on a device says what it says on the host, and mixes no arrays of the two; on a stand-in for CuPy.

On a GPU `pytest --backend cupy` runs the other tests of diagnoses there (`diagnosing`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stand_in
import support
from porting import test_diagnose, test_gradients
from porting.test_every_row import smallest, without_gradients
from porting.test_large_cases import in_float32

from perceiver_ref.cli import main
from perceiver_ref.porting.cases import Case, read_case, write_case
from perceiver_ref.porting.deviations import candidates
from perceiver_ref.porting.diagnosis.diagnose import Diagnosis, diagnose
from perceiver_ref.porting.gradients.backward import ROWS, flows, narrowed, scaled, shared
from perceiver_ref.porting.gradients.diagnose import _graph
from perceiver_ref.porting.gradients.graph import Graph
from perceiver_ref.porting.gradients.target import Target
from perceiver_ref.porting.rounding.grid import cast_to
from perceiver_ref.porting.subject import Subject, large


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if support.BACKEND != "numpy":
        pytest.skip("the device itself is under test")
    with stand_in.installed(monkeypatch):
        yield


def in_bfloat16(case: Case) -> Case:
    """The case with outputs and traces rounded to bfloat16."""
    made = in_float32(case)
    narrow = cast_to("bfloat16")
    fields: dict[str, Any] = {n: {m: narrow(a) for m, a in getattr(made, n).items()} for n in ("outputs", "trace")}
    return replace(made, meta={**made.meta, "dtype": "bfloat16"}, **fields)


DTYPES: dict[str, Callable[[Case], Case]] = {
    "float64": lambda case: case,
    "float32": in_float32,
    "bfloat16": in_bfloat16,
}
SHORT = ("values before keys", "gates wide open", "queries that are padding attend")
"""Of what `test_diagnose` plants, what takes little time to find"""


def found_alike(case: Case, budget: float | None = None) -> Diagnosis:
    """What is found on the device, which is what is found on the host; sums of float32 have another order there."""
    on_host = diagnose(case, budget=budget)
    stand_in.refused.clear()
    found = diagnose(case, budget=budget, backend="cupy")
    assert stand_in.refused == []
    assert [(c.cause, c.variant) for c in found.explanation] == [(c.cause, c.variant) for c in on_host.explanation]
    for name in ("verdict", "first_divergence", "dtype"):
        assert getattr(found, name) == getattr(on_host, name)
    assert [p.name for p in found.points] == [p.name for p in on_host.points]
    assert {n: (type(a), a.shape) for n, a in found.excerpt.items()} == {
        n: (np.ndarray, a.shape) for n, a in on_host.excerpt.items()
    }
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("traced", [False, True], ids=["outputs alone", "with traces"])
@pytest.mark.parametrize("plant", SHORT)
def test_a_planted_deviation_is_named(plant: str, traced: bool, dtype: str) -> None:
    cause, name, change = test_diagnose.PLANTED[plant]
    found = found_alike(DTYPES[dtype](test_diagnose.planted(name, change, traced=traced)))
    assert (found.verdict, found.causes) == ("deviation", [cause])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("plant", SHORT[1:])
def test_a_planted_deviation_of_a_large_case_is_named(plant: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "LARGE", 0)
    cause, name, change = test_diagnose.PLANTED[plant]
    found = found_alike(DTYPES[dtype](test_diagnose.planted(name, change, traced=True)))
    assert (found.verdict, found.causes) == ("deviation", [cause])


@pytest.mark.parametrize("plant", ["softmax", "gate", "loss", "clipped"])
def test_a_wrong_gradient_is_traced_to_its_op(plant: str) -> None:
    name, cause, _, change = test_gradients.PLANTED[plant]
    found = found_alike(change(test_gradients.computed(test_gradients.case_of(name))))
    assert (found.verdict, found.causes) == ("deviation", [cause])


def test_what_nothing_explains_has_an_excerpt() -> None:
    case = test_diagnose.case_of("open-flamingo/gated_immediate")
    case.outputs["out"] = case.outputs["out"] + np.random.default_rng(0).normal(size=case.outputs["out"].shape)
    case.trace.clear()
    found = found_alike(case, budget=1.0)
    assert found.verdict == "unexplained"
    assert found.excerpt_case is not None
    assert all(type(a) is np.ndarray for a in (found.excerpt_case.inputs | found.excerpt_case.params).values())


CLASSES = (
    "hf/PerceiverModel",
    "krasserm/MultiHeadAttention",
    "open-flamingo/GatedCrossAttentionBlock",
    "shape2vecset/PointEmbed",
    "deepmind/attend",
)


@pytest.mark.parametrize("name", CLASSES)
def test_every_deviation_gives_the_same_arrays(name: str) -> None:
    """A mistake of two libraries would read as a deviation that does not fit the model, and never be named."""
    case = without_gradients(smallest()[name])
    host, there = Subject(case), Subject(case, "cupy")
    pairs = list(zip(candidates(host.survey), candidates(there.survey)))
    some = [pair for number, pair in enumerate(pairs) if pair[0].cause != "dtype" or number % 5 == 0]
    stand_in.refused.clear()
    for ours, theirs in some:
        assert (ours.cause, ours.variant) == (theirs.cause, theirs.variant)
        made, found = host.deviating((ours,)), there.deviating((theirs,))
        assert stand_in.refused == [], ours.variant
        assert (made is None) == (found is None), ours.variant
        for key, array in (made or {}).items():
            np.testing.assert_array_equal((found or {})[key], array, err_msg=ours.variant)


def wrong_rules(graph: Graph) -> Iterator[tuple[str, Any]]:
    """Of each row of the table two places, and gradients that stop or are rounded on their way."""
    for row in ROWS:
        yield from ((wrong.variant, wrong.changes) for wrong in list(row.candidates(graph))[:2])
    for wrong in list(flows(graph))[::19]:
        yield f"stopped, {wrong.variant}", scaled(wrong.places, 0.0)
        yield from ((narrow.variant, narrow.changes) for narrow in narrowed(wrong))
    yield from ((wrong.variant, wrong.changes) for wrong in shared(graph))


def walked(subject: Subject, graph: Graph, target: Target, changes: Any) -> dict[str, np.ndarray] | None:
    try:
        with np.errstate(all="ignore"):
            return target.changed(graph.again(changes))
    except (ValueError, TypeError, IndexError):  # as the search has it: the rule does not fit the shapes here
        return None


@pytest.mark.parametrize("name", ["lucidrains-flamingo/resampler_4d", "open-flamingo/gated_immediate"])
def test_every_wrong_rule_gives_the_same_gradients(name: str) -> None:
    case = replace(read_case(test_diagnose.PATHS[name]), trace={})
    sides = [Subject(case), Subject(case, "cupy")]
    graphs = [_graph(subject, ()) for subject in sides]
    targets = [Target(subject, graph, dict) for subject, graph in zip(sides, graphs)]
    stand_in.refused.clear()
    for (variant, host), (_, there) in zip(*map(wrong_rules, graphs)):
        made, found = (walked(*row) for row in zip(sides, graphs, targets, (host, there)))
        assert stand_in.refused == [], variant
        assert (made is None) == (found is None), variant
        for key, array in (made or {}).items():
            np.testing.assert_array_equal((found or {})[key], array, err_msg=variant)


@pytest.mark.parametrize("scale", [1.0, 1e-9, np.inf])
def test_closeness_on_the_device_is_that_on_the_host(scale: float) -> None:
    """Up to the order of the sums, of 3 x 5 float64 squares."""
    rng = np.random.default_rng(0)
    mine, apart = rng.normal(size=(3, 5)), rng.normal(size=(3, 5))
    theirs = mine + scale * apart
    cupy = stand_in.module()
    found = large.closeness(cupy.asarray(mine), cupy.asarray(theirs))
    np.testing.assert_allclose(found, large.closeness(mine, theirs), rtol=1e-14)


def test_the_command_takes_a_backend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cause, name, change = test_diagnose.PLANTED["all media before"]
    write_case(tmp_path / "port.npz", test_diagnose.planted(name, change))
    said = []
    for backend in ("numpy", "cupy"):
        report = tmp_path / f"{backend}.json"
        assert main(["diagnose", str(tmp_path / "port.npz"), "--backend", backend, "--json", str(report)]) == 1
        said.append((json.loads(report.read_text())["causes"], capsys.readouterr().out.splitlines()[0].split(";")[0]))
    assert said[0] == said[1]
    assert said[0][0] == [cause]
    assert stand_in.refused == []


def mixed(cupy: Any) -> dict[str, Callable[[], object]]:
    x, y = cupy.asarray([1.0, 2.0]), np.ones(2)
    return {
        "an operator": lambda: x + y,
        "the operator of the other side": lambda: y * x,
        "a function of NumPy": lambda: np.where(x > 1, x, y),
        "a function of CuPy": lambda: cupy.concatenate([x, y]),
        "an implicit conversion": lambda: np.asarray(x),
        "setting an element": lambda: x.__setitem__(slice(0, 2), y),
        "an argument that CuPy does not have": lambda: x.max(initial=0.0),
    }


@pytest.mark.parametrize("how", mixed(stand_in.module()))
def test_the_stand_in_refuses_what_cupy_refuses(how: str) -> None:
    with pytest.raises(TypeError):
        mixed(stand_in.module())[how]()
    assert len(stand_in.refused) == 1


def test_the_stand_in_takes_what_cupy_takes() -> None:
    cupy = stand_in.module()
    x = cupy.asarray([1.0, 2.0])
    np.testing.assert_array_equal((np.float64(2) * x[np.array([1, 0])]).get(), [4.0, 2.0])
    assert float(np.square(x).sum()) == 5.0
    assert x[1:].base is x
    assert stand_in.refused == []
