"""Recording calls of a module by its hooks, on a stand-in for PyTorch: what is written, and what is refused."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from porting.record_stand_in import Linear, Module, Tensor, files, tensor, twice

import perceiver_ref as pr
from perceiver_ref.peers import UNKNOWN
from perceiver_ref.porting.cases import Case, read_case, write_case
from perceiver_ref.porting.cases.samples import COLUMNS
from perceiver_ref.porting.record.keep import Kept, Samples

RNG = np.random.default_rng(5)
Pair = namedtuple("Pair", "first second")


@dataclass
class Answer:
    """As a transformers' output."""

    value: Any
    nothing: Any = None


class Own(Module):
    """A model of one's own: a part that is called twice, a tied weight, a buffer, several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Linear(3, 3, seed=1)
        self.layers = [Linear(3, 3, seed=2), Linear(3, 3, seed=3)]
        self.layers[1].weight = self.layers[0].weight
        self.buffer_mean = Tensor(RNG.standard_normal(5))
        self.width = 3

    def forward(self, x: Any, extra: Any = None, *, scale: float = 1.0, **more: Any) -> Any:
        hidden = self.part(self.part(x))
        out = self.layers[1](self.layers[0](hidden))
        return {"out": out, "states": (x, hidden), "answer": Answer(twice(hidden))}


def test_a_known_module_passes_with_its_gradients(tmp_path: Path) -> None:
    module, x, weights = Linear(3, 7), tensor(2, 5, 3), RNG.standard_normal((2, 5, 7))
    with pr.record(module, tmp_path / "case.npz") as recording:
        module(x).backward(weights)
    case = read_case(tmp_path / "case.npz")
    assert (case.meta["peer"], case.meta["class"]) == ("torch", "torch.nn.functional.linear")
    assert recording.meta["dtype"] == case.meta["dtype"] == "float64"
    assert sorted(case.inputs) == sorted(case.grad_inputs) == ["bias", "input", "weight"]
    np.testing.assert_array_equal(case.cotangents["out"], weights)
    result = pr.crosscheck.check_case(case)
    assert result.status == "pass"
    assert len(result.agreements) == 4
    assert max(a.error for a in result.agreements) < 1e-13  # rounding in float64
    assert files(tmp_path) == ["case.npz"]


def test_a_wrong_module_fails(tmp_path: Path) -> None:
    module = Linear(3, 7)
    original, module.forward = module.forward, lambda input: original(twice(input))
    with pr.record(module, tmp_path / "case.npz"):
        module(tensor(2, 3))
    assert pr.crosscheck.check_file(tmp_path / "case.npz").status == "fail"


def test_an_unknown_module_is_recorded_whole(tmp_path: Path) -> None:
    module, x = Own(), tensor(2, 3)
    extra = {"mask": Tensor(np.array([True, False])), "sizes": [2, 3], "kind": None}
    with pr.record(module, tmp_path / "case.npz"):
        module(x, extra, scale=0.5, name="a", flags=(True, 2), size=np.int64(4), object=object())
    case = read_case(tmp_path / "case.npz")
    assert case.meta["peer"] == UNKNOWN
    assert case.meta["class"].endswith("test_record.Own")
    assert case.meta["config"] == {"width": 3}
    call = {"extra.sizes": [2, 3], "extra.kind": None, "scale": 0.5, "name": "a", "flags": [True, 2], "size": 4}
    assert case.meta["call"] == call
    assert "the argument object is left out: a builtins.object" in case.meta["notes"]
    assert sorted(case.inputs) == ["extra.mask", "x"]
    assert sorted(case.outputs) == ["answer.value", "out", "states.0", "states.1"]
    assert list(case.trace) == ["part@0", "part@1", "layers.0", "layers.1"]
    assert case.meta["tied"] == {"layers.1.weight": "layers.0.weight"}
    assert sorted(case.params) == sorted(
        f"{part}.{name}" for part in ("part", "layers.0", "layers.1") for name in ("bias", "weight")
    )
    np.testing.assert_array_equal(case.state["buffer_mean"], module.buffer_mean.array)
    np.testing.assert_array_equal(case.trace["part@1"], case.outputs["states.1"])
    assert not case.cotangents
    assert not case.grad_params
    message = pr.crosscheck.check_file(tmp_path / "case.npz").message
    assert "perceiver-ref bind CASE --to CONFIG|PRESET" in message
    assert "\n" not in message


def test_gradients_are_those_of_the_recorded_call_alone(tmp_path: Path) -> None:
    """The caller adds the input to the output, and the module uses an output of its own inside."""
    module, x, weights = Own(), tensor(2, 3), RNG.standard_normal((2, 3))
    with pr.record(module, tmp_path / "case.npz"):
        out = module(x)
        (out["out"] + out["states"][1] + x).backward(weights)
    case = read_case(tmp_path / "case.npz")
    for name in ("out", "states.1"):
        np.testing.assert_array_equal(case.cotangents[name], weights)
    assert "states.0" not in case.cotangents
    first, tied, part = (m.weight.array for m in (module.layers[0], module.layers[1], module.part))
    into_hidden = weights @ tied @ first + weights
    np.testing.assert_allclose(case.grad_inputs["x"], into_hidden @ part @ part, rtol=1e-12)
    np.testing.assert_array_equal(case.grad_params["layers.1.weight"], case.grad_params["layers.0.weight"])
    np.testing.assert_allclose(case.grad_params["layers.1.bias"], weights.sum(0), rtol=1e-12)


def test_backward_in_parts_adds_up_and_what_it_does_not_reach_is_zero(tmp_path: Path) -> None:
    module, x = Own(), tensor(2, 3)
    ones = np.ones((2, 3))
    with pr.record(module, tmp_path / "case.npz"):
        hidden = module(x)["states"][1]
        hidden.backward(ones)
        hidden.backward(2 * ones)
    case = read_case(tmp_path / "case.npz")
    np.testing.assert_array_equal(case.cotangents["states.1"], 3 * ones)
    np.testing.assert_allclose(case.grad_params["part.bias"], 3 * ones.sum(0) @ (module.part.weight.array + np.eye(3)))
    np.testing.assert_array_equal(case.grad_params["layers.0.weight"], np.zeros((3, 3)))


class Echo(Module):
    def forward(self, x: Any, wrap: Any) -> Any:
        return wrap(x)


@pytest.mark.parametrize(
    ("wrap", "names"),
    [
        (lambda x: x, ["out"]),
        (lambda x: (x, None, [x, x]), ["out0", "out2.0", "out2.1"]),
        (lambda x: Pair(x, {"a": x}), ["out0", "out1.a"]),
        (lambda x: OrderedDict(a=x, b={"c": (x,)}), ["a", "b.c.0"]),
        (lambda x: Answer(x), ["value"]),
        (lambda x: [Answer(x, 3)], ["out0.value"]),
    ],
)
def test_outputs_of_any_structure(tmp_path: Path, wrap: Any, names: list[str]) -> None:
    module, x = Echo(), tensor(2, 3)
    with pr.record(module, tmp_path / "case.npz"):
        out = module(x, wrap)
    assert type(out) is type(wrap(x))
    case = read_case(tmp_path / "case.npz")
    assert list(case.outputs) == names
    for array in case.outputs.values():
        np.testing.assert_array_equal(array, x.array)


def test_arguments_come_as_they_were_given(tmp_path: Path) -> None:
    """By place or by name, which a decorator of the forward may tell apart; gradients of each by its own name."""
    seen: list[Any] = []

    class Decorated(Module):
        def forward(self, a: Any, b: Any = None, *rest: Any, last: Any = None) -> Any:
            return a + twice(b) + rest[0] + last if rest else a + twice(b)

    module, (a, b, c, d) = Decorated(), (tensor(2, 3) for _ in range(4))
    own = module.forward

    @functools.wraps(own)
    def forward(*args: Any, **kwargs: Any) -> Any:
        seen.append((len(args), sorted(kwargs)))
        return own(*args, **kwargs)

    module.forward = forward
    with pr.record(module, tmp_path / "case.npz"):
        module(a, b=a).backward(np.ones((2, 3)))
    case = read_case(tmp_path / "case.npz")
    for name, factor in (("a", 1), ("b", 2)):  # of one tensor in two places
        np.testing.assert_array_equal(case.grad_inputs[name], np.full((2, 3), factor))
    with pr.record(module, tmp_path / "case.npz"):
        module(a, b, c, last=d).backward(np.ones((2, 3)))
    assert sorted(read_case(tmp_path / "case.npz").grad_inputs) == ["a", "b", "last", "rest.0"]
    assert seen == [(1, ["b"]), (3, ["last"])]


def test_which_call_is_recorded(tmp_path: Path) -> None:
    module, xs = Linear(3, 2), [tensor(2, 3) for _ in range(3)]
    for number in range(3):
        with pr.record(module, tmp_path / "case.npz", call=number):
            for x in xs:
                module(x)
        case = read_case(tmp_path / "case.npz")
        np.testing.assert_array_equal(case.inputs["input"], xs[number].array)
        assert f"call {number} of 3" in case.meta["notes"]


def test_points_are_chosen(tmp_path: Path) -> None:
    module = Own()

    def points(**options: Any) -> list[str]:
        with pr.record(module, tmp_path / "case.npz", **options):
            module(tensor(2, 3))
        return list(read_case(tmp_path / "case.npz").trace)

    everything = ["part@0", "part@1", "layers.0", "layers.1"]
    assert points() == everything
    assert points(points="layers.*") == everything[2:]
    assert points(points=[re.compile(r"1$"), "part"]) == ["part@0", "part@1", "layers.1"]
    assert points(points={"layers.0"}) == ["layers.0"]
    assert points(points=lambda name: name.endswith(".1")) == ["layers.1"]
    assert points(points=()) == []
    assert points(largest=6) == everything
    assert points(largest=5) == []
    assert points(first=3) == everything[:3]
    with pr.record(module, tmp_path / "case.npz", first=3, parameters=False):
        module(tensor(2, 3))
    case = read_case(tmp_path / "case.npz")
    assert "1 intermediate values after the first 3 are left out" in case.meta["notes"]
    assert not case.params
    assert not case.state
    with pytest.raises(pr.InputError, match=r"no point fits 'layer\.\*'; there are part, layers\.0, layers\.1"):
        points(points=["part", "layer.*"])


def test_statistics_and_samples_in_place_of_values(tmp_path: Path) -> None:
    module, x = Own(), tensor(50, 3)
    with pr.record(module, tmp_path / "whole.npz"):
        module(x)
    with pr.record(module, tmp_path / "case.npz", samples=7):
        module(x)
    whole, case = read_case(tmp_path / "whole.npz"), read_case(tmp_path / "case.npz")
    assert not case.trace
    assert set(case.samples) == set(case.statistics) == {f"trace/{name}" for name in whole.trace}
    assert (case.meta["sampled"]["seed"], case.meta["sampled"]["samples"]) == (0, 7)
    for name, array in whole.trace.items():
        assert case.meta["sampled"]["arrays"][f"trace/{name}"] == {"shape": [50, 3], "dtype": "float64"}
        numbers = dict(zip(COLUMNS, case.statistics[f"trace/{name}"]))
        assert (numbers["nan"], numbers["infinite"]) == (0, 0)
        for column, measure in (("sum", "sum"), ("mean", "mean"), ("minimum", "min"), ("maximum", "max")):
            assert numbers[column] == pytest.approx(getattr(array, measure)(), rel=1e-12, abs=1e-12)
        at, values = case.samples[f"trace/{name}"].T
        assert len(set(at)) == 7
        np.testing.assert_array_equal(values, array.reshape(-1)[at.astype(int)])
        assert np.ptp(at) > 5 / 7 * 150  # all over it: the places between are the first and last stretch's
    with pr.record(module, tmp_path / "case.npz", statistics=True):
        module(x)
    case = read_case(tmp_path / "case.npz")
    assert {array.shape for array in case.samples.values()} == {(0, 2)}
    assert case.meta["sampled"]["samples"] == 0
    kept = Samples(samples=9)(np.array([[np.inf, 2.0], [np.nan, 4.0]]))
    assert kept.array is None
    assert kept.sampled is not None
    numbers = dict(zip(COLUMNS, kept.sampled.statistics))
    assert [numbers[name] for name in ("nan", "infinite", "mean", "rms")] == [1, 1, 3.0, pytest.approx(10**0.5)]


def test_another_way_to_keep_a_point(tmp_path: Path) -> None:
    def corner(array: np.ndarray) -> Kept:
        return Kept(array[:1])

    with pr.record(Own(), tmp_path / "case.npz", keep=corner) as recording:
        recording._watcher.module(tensor(2, 3))
    case = read_case(tmp_path / "case.npz")
    assert {array.shape for array in case.trace.values()} == {(1, 3)}
    assert not case.samples


def test_bfloat16_is_stored_as_float32(tmp_path: Path) -> None:
    module = Linear(3, 2, dtype=np.float32)
    for value in (module.weight, module.bias):
        value.dtype.name_ = "bfloat16"
    x = Tensor(np.ones((2, 3), np.float32), dtype="bfloat16")
    with pr.record(module, tmp_path / "case.npz"):
        module(x)
    case = read_case(tmp_path / "case.npz")
    assert case.meta["dtype"] == "bfloat16"
    assert {array.dtype.name for array in case.inputs.values()} == {"float32"}
    assert pr.crosscheck.check_case(case).status == "pass"


def test_half_inside_is_the_dtype_of_the_case(tmp_path: Path) -> None:
    class Cast(Module):
        def forward(self, x: Any) -> Any:
            return Tensor(x.array.astype(np.float16))

    class Autocast(Module):
        def __init__(self) -> None:
            super().__init__()
            self.cast, self.linear = Cast(), Linear(3, 2, dtype=np.float32)

        def forward(self, x: Any) -> Any:
            return self.linear(self.cast(x).float())

    module = Autocast()
    with pr.record(module, tmp_path / "case.npz"):
        module(Tensor(np.ones((2, 3), np.float32)))
    meta = read_case(tmp_path / "case.npz").meta
    assert meta["dtype"] == "float16"
    assert "computed in float16 from parameters in float32" in meta["notes"]


def test_a_case_of_tensors_is_written(tmp_path: Path) -> None:
    meta = {"peer": "torch", "class": "gelu", "config": {}, "dtype": "bfloat16"}
    half = Tensor(np.array([1.5, -2.0], np.float32), True, dtype="bfloat16")
    write_case(tmp_path / "case.npz", Case(meta, inputs={"input": half}, outputs={"gelu": half}))
    np.testing.assert_array_equal(read_case(tmp_path / "case.npz").inputs["input"], [1.5, -2.0])
    sparse = Tensor(np.ones(2), dtype="bfloat16")
    sparse.float = lambda: sparse  # numpy() then raises, as of any dtype and layout that NumPy lacks
    sparse.detach = sparse.cpu = lambda: sparse
    with pytest.raises(pr.InputError, match=r"^input/input has no plain numbers \(bfloat16: [^\n]*\); give it as"):
        write_case(tmp_path / "case.npz", Case(meta, inputs={"input": sparse}, outputs={"gelu": half}))
    with pytest.raises(pr.InputError, match="output/gelu is complex128; expected bool, integer or floating-point"):
        write_case(tmp_path / "case.npz", Case(meta, outputs={"gelu": np.zeros(2, complex)}))


def test_no_framework_is_imported() -> None:
    script = (
        "import sys, perceiver_ref as pr; pr.record;"
        "print([n for n in ('torch', 'jax', 'flax', 'haiku', 'mlx', 'transformers') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
