"""Recording NumPy code: points, decorated functions, what was given; whatever is written is read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import perceiver_ref as pr
from perceiver_ref.porting.cases import read_case
from perceiver_ref.porting.cases.samples import indices

RNG = np.random.default_rng(3)


@pr.record.traced
def project(x: Any, weight: Any) -> Any:
    return x @ weight


@pr.record.traced("attend")
def attention(q: Any, k: Any) -> Any:
    scores = pr.record.point("scores", q @ k.T)
    return {"out": scores @ k, "scale": 2.0}


@pr.record.traced
def model(x: Any, weights: Any, *, flag: bool = False) -> Any:
    hidden = project(x, weights["a"])
    hidden = project(hidden, weights["b"])
    return attention(hidden, x)["out"], hidden


def test_the_outermost_traced_function_is_the_case(tmp_path: Path) -> None:
    x, weights = RNG.standard_normal((5, 3)), {n: RNG.standard_normal((3, 3)) for n in "ab"}
    with pr.record(tmp_path / "case.npz", points="*", meta={"seed": 3}):
        out, hidden = model(x, weights, flag=True)
        model(2 * x, weights)  # of which only points are kept: one case has one call
    case = read_case(tmp_path / "case.npz")
    assert case.meta["class"].endswith("test_record_points.model")
    assert (case.meta["peer"], case.meta["seed"], case.meta["call"]) == ("unknown", 3, {"flag": True})
    assert sorted(case.inputs) == ["weights.a", "weights.b", "x"]
    np.testing.assert_array_equal(case.outputs["out0"], out)
    np.testing.assert_array_equal(case.outputs["out1"], hidden)
    expected = [f"project@{i}" for i in range(2)] + ["scores@0", "attend.out@0"]
    assert list(case.trace)[:4] == expected
    np.testing.assert_array_equal(case.trace["project@1"], hidden)
    np.testing.assert_array_equal(case.trace["scores@0"], hidden @ x.T)


def test_outside_a_recording_nothing_happens() -> None:
    x = RNG.standard_normal((2, 3))
    assert pr.record.point("x", x) is x
    np.testing.assert_array_equal(project(x, np.eye(3)), x)
    assert project.__name__ == "project"


def test_code_without_functions(tmp_path: Path) -> None:
    x, weight, g = RNG.standard_normal((4, 3)), RNG.standard_normal((2, 3)), RNG.standard_normal((4, 2))
    meta = {"peer": "torch", "class": "torch.nn.functional.linear"}
    with pr.record(tmp_path / "case.npz", inputs={"input": x, "weight": weight}, meta=meta) as r:
        r.outputs(pr.record.point("out", x @ weight.T))
        r.cotangents(out=g)
        r.gradients(inputs={"input": g @ weight, "weight": g.T @ x})
    result = pr.crosscheck.check_file(tmp_path / "case.npz")
    assert (result.status, len(result.agreements)) == ("pass", 3)
    with pr.record(tmp_path / "case.npz", params={"layers": [{"w": weight}]}, state={"mean": x}) as r:
        r.inputs(x=x, sizes={"a": [x, 2]}, kind="b")
        r.outputs(y=x, z=[x, {"w": x}])
    case = read_case(tmp_path / "case.npz")
    assert (list(case.params), list(case.state)) == (["layers.0.w"], ["mean"])
    assert (sorted(case.inputs), case.meta["call"]) == (["sizes.a.0", "x"], {"sizes.a.1": 2, "kind": "b"})
    assert list(case.outputs) == ["y", "z.0", "z.1.w"]


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda r: None, "nothing to compare was recorded"),
        (lambda r: (r.outputs(x=np.zeros(2)), r.outputs(x=np.zeros(2))), "output/x would be recorded twice"),
        (lambda r: r.outputs(x=np.array(["a"])), "output/x is str32; expected bool, integer or floating-point"),
        (lambda r: (r.outputs(np.zeros(1)), [r.point(n, np.zeros(1)) for n in ("a", "a", "a@0")]), "both be trace/a@0"),
        (lambda r: pr.record.point("a\nb", np.zeros(2)), "no printable text"),
    ],
)
def test_wrong_use(tmp_path: Path, use: Any, message: str) -> None:
    with pytest.raises(pr.InputError, match=message), pr.record(tmp_path / "case.npz") as r:
        use(r)
    assert list(tmp_path.iterdir()) == []


def test_two_recordings_each_get_every_point(tmp_path: Path) -> None:
    with pr.record(tmp_path / "a.npz") as outer:
        pr.record.point("first", np.ones(2))
        with pr.record(tmp_path / "b.npz") as inner:
            pr.record.point("second", np.ones(3))
            inner.outputs(np.ones(1))
        outer.outputs(np.ones(1))
    assert list(read_case(tmp_path / "a.npz").trace) == ["first", "second"]
    assert list(read_case(tmp_path / "b.npz").trace) == ["second"]


kinds = st.sampled_from(["float64", "float32", "float16", "int64", "uint8", "bool"])
names = st.text(st.characters(categories=["L", "N", "P"], exclude_characters="@"), min_size=1, max_size=12)


@st.composite
def layouts(draw: st.DrawFn) -> np.ndarray:
    """Arrays of any dtype and layout in memory: transposed, reversed, with steps, not writable, empty, of no axes."""
    array = draw(arrays.arrays(draw(kinds), arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)))
    array = array.transpose(draw(st.permutations(range(array.ndim))))
    steps = tuple(slice(None, None, draw(st.sampled_from([1, -1, 2]))) for _ in range(array.ndim))
    array = array[steps] if steps else array
    array = np.broadcast_to(array, (draw(st.integers(1, 2)), *array.shape)) if draw(st.booleans()) else array
    return array


@given(inputs=st.dictionaries(names, layouts(), max_size=3), points=st.lists(st.tuples(names, layouts()), max_size=5))
def test_what_is_written_is_read_back(tmp_path: Path, inputs: Any, points: Any) -> None:
    with pr.record(tmp_path / "case.npz", inputs=inputs) as r:
        for name, array in points:
            pr.record.point(name, array)
        r.outputs(np.zeros(1))
    case = read_case(tmp_path / "case.npz")
    times = {name: sum(name == other for other, _ in points) for name, _ in points}
    seen: dict[str, int] = {}
    for name, array in points:
        number = seen[name] = seen.get(name, -1) + 1
        found = case.trace[name if times[name] == 1 else f"{name}@{number}"]
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found, array)
    assert len(case.trace) == len(points)
    for name, array in inputs.items():
        np.testing.assert_array_equal(case.inputs[name], array)


@given(size=st.integers(0, 5000), count=st.integers(0, 300))
def test_samples_are_scattered(size: int, count: int) -> None:
    at = indices(size, 3, count)
    assert len(at) == min(size, count)
    assert (np.diff(at) > 0).all()
    if count and len(at):
        assert (at[0] >= 0) & (at[-1] < size)
        gaps = np.diff([-1, *at, size])
        assert gaps.max() <= 2 * -(-size // max(count, 1)) + 1
