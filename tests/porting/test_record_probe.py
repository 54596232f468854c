"""Recorded samples: in place of traced values, and a live module as a probe of a few hundred bytes an array."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from porting import cases
from porting.record_stand_in import Linear, Module, Tensor, linear

import perceiver_ref as pr
from perceiver_ref.porting.cases import Case, read_case, write_case
from perceiver_ref.porting.cases.generator import made
from perceiver_ref.porting.cases.samples import sampled

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("samples", [0, 5, 1 << 16])
@pytest.mark.parametrize("add", [0.0, 0.01])
def test_samples_beside_whole_arrays_are_compared(tmp_path: Path, samples: int, add: float) -> None:
    """A known module's statistics and samples, and the same with one of them wrong."""
    given = read_case(cases.path_of("hf/model_bare"))
    meta = {key: given.meta[key] for key in ("peer", "class", "config", "call")}
    arrays = {"inputs": given.inputs, "params": given.params, "state": given.state}
    wrong = list(given.trace)[2]
    with pr.record(tmp_path / "case.npz", meta=meta, statistics=True, samples=samples, **arrays) as recording:
        for name, array in given.trace.items():
            pr.record.point(name, array + add * (name == wrong))
        recording.outputs(**given.outputs)
    result = pr.crosscheck.check_file(tmp_path / "case.npz")
    assert result.status == ("fail" if add else "pass"), result.message
    assert sum(a.kind == "trace" for a in result.agreements) == len(given.trace) * (2 if samples else 1)
    failed = {a.name for a in result.agreements if not a.passed}
    assert failed == ({f"{wrong} (statistics)"} | ({wrong} if samples else set()) if add else set())


def test_what_are_no_samples_is_refused(tmp_path: Path) -> None:
    module, x = Linear(3, 2), Tensor(RNG.standard_normal((2, 3)))
    with pr.record(module, tmp_path / "case.npz", samples=4):
        pr.record.point("product", RNG.standard_normal((5, 7)))
        module(x)
    case = read_case(tmp_path / "case.npz")
    own, key = case.meta["sampled"], "trace/product"
    spoilt: list[dict[str, Any]] = [
        {"meta": {**case.meta, "sampled": value}}
        for value in (
            *(3, [1], {}, {**own, "version": 2}, {**own, "samples": -1}, {**own, "samples": True}),
            *({**own, "seed": "0"}, {**own, "arrays": []}, {**own, "arrays": {}}, {**own, "arrays": {key: 3}}),
            {**own, "arrays": {key: {"shape": [1 << 50, 1 << 50], "dtype": "float32"}}},
            {**own, "arrays": {key: {"shape": [-1], "dtype": "float32"}}},
            {**own, "arrays": {key: {"shape": [5, 7], "dtype": ["float32"]}}},
            {**own, "arrays": {key: {"shape": [5, 7], "dtype": "float128"}}},
            {**own, "arrays": {key: {"shape": [2], "dtype": "float32"}}},
        )
    ]
    spoilt += [{"samples": {}}, {"statistics": {}}, {"trace": {"product": np.zeros(3)}}]
    spoilt += [{"samples": {key: array}} for array in (np.zeros(3), np.zeros((4, 2), "i8"), np.full((4, 2), np.nan))]
    spoilt += [{"statistics": {key: np.zeros(3)}}, {"meta": {k: v for k, v in case.meta.items() if k != "sampled"}}]
    spoilt += [{"samples": {"output/x": case.samples[key]}, "statistics": {"output/x": case.statistics[key]}}]
    for bad in spoilt:
        write_case(tmp_path / "bad.npz", dataclasses.replace(case, **bad))
        result = pr.crosscheck.check_file(tmp_path / "bad.npz")
        assert result.status == "error", bad
        assert result.message.startswith(str(tmp_path / "bad.npz")), result.message
    with pytest.raises(pr.InputError, match="samples must be a whole number up to 65,536"):
        pr.record(module, tmp_path / "case.npz", samples=(1 << 16) + 1)


class Projection(Module):
    """transformers' PerceiverProjectionPostprocessor, which is a linear map."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.classifier = Linear(inputs, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(inputs)


def known(inputs: int, outputs: int) -> dict[str, Any]:
    sizes = {"in_channels": inputs, "out_channels": outputs}
    path = "transformers.models.perceiver.modeling_perceiver.PerceiverProjectionPostprocessor"
    return {"meta": {"peer": "hf", "class": path, "config": {"config": {}, "kwargs": sizes}}}


def probe_of(path: Path, module: Any, x: Tensor, **options: Any) -> tuple[Case, Case]:
    """A recorded probe of a forward and a backward pass, and the whole case beside it."""
    meta = known(3, 7) if isinstance(module, Projection) else {}
    given: dict[str, dict[str, Any]] = {"whole.npz": {}, "probe.npz": {"probe": True, **options}}
    for file, kept in given.items():
        with pr.record(module, path / file, **meta, **kept):
            out = module(x)
            out.backward(np.cos(np.arange(out.array.size)).reshape(out.array.shape))
    return read_case(path / "probe.npz"), read_case(path / "whole.npz")


def test_a_probe_holds_samples_of_what_a_case_holds(tmp_path: Path) -> None:
    probe, whole = probe_of(tmp_path, Projection(3, 7), Tensor(RNG.standard_normal((2, 11, 3)), True))
    assert not probe.params
    assert not {**probe.outputs, **probe.trace, **probe.grad_params, **probe.grad_inputs}
    np.testing.assert_array_equal(probe.inputs["inputs"], whole.inputs["inputs"])
    np.testing.assert_array_equal(probe.cotangents["out"], whole.cotangents["out"])
    arrays = {"output/out": whole.outputs["out"], "grad_input/inputs": whole.grad_inputs["inputs"]}
    arrays |= {f"grad_param/{name}": array for name, array in whole.grad_params.items()}
    arrays |= {f"trace/{name}": array for name, array in whole.trace.items()}
    assert set(probe.samples) == set(arrays)
    for key, array in arrays.items():
        np.testing.assert_array_equal(probe.samples[key], sampled(array, 0, 16).samples)
        np.testing.assert_array_equal(probe.statistics[key], sampled(array, 0, 16).statistics)
    assert probe.meta["probe"]["weights"] == pr.vectors.fingerprint(whole.params)


def test_check_takes_the_weights_of_a_recorded_probe(tmp_path: Path) -> None:
    module = Projection(3, 7)
    probe_of(tmp_path, module, Tensor(RNG.standard_normal((2, 11, 3)), True), samples=6)
    arrays = {name: value.array for name, value in module.state_dict().items()}
    np.savez(tmp_path / "weights.npz", **arrays)
    np.savez(tmp_path / "others.npz", **{name: array + 1e-9 for name, array in arrays.items()})
    probe = tmp_path / "probe.npz"
    for file in ("weights.npz", "whole.npz"):  # the state dict, or a case with parameters
        result = pr.crosscheck.check_file(probe, weights=tmp_path / file)
        assert result.status == "pass", result.message
        names = {(a.kind, a.name) for a in result.agreements}
        assert {("output", "out"), ("grad_param", "classifier.weight"), ("grad_input", "inputs (statistics)")} <= names
        assert len(names) >= 8
    assert "these are not the weights" in pr.crosscheck.check_file(probe, weights=tmp_path / "others.npz").message
    assert "check --weights FILE" in pr.crosscheck.check_file(probe).message
    for name in ("output/out", "grad_param/classifier.bias"):
        case = read_case(probe)
        case.samples[name][3, 1] += 1e-3
        write_case(tmp_path / "wrong.npz", case)
        result = pr.crosscheck.check_file(tmp_path / "wrong.npz", weights=tmp_path / "weights.npz")
        assert [f"{a.kind}/{a.name}" for a in result.agreements if not a.passed] == [name]


def test_inputs_that_the_generator_made_are_not_in_the_file(tmp_path: Path) -> None:
    spec = {"shape": [2, 5, 3], "kind": "signed", "exponent": 7}
    cotangent = {"shape": [2, 5, 4], "kind": "scale"}
    module, x = Projection(3, 4), Tensor(made("input/inputs", spec, 9, "float64"), True)
    given = {"seed": 9, "samples": 8, "inputs": {"inputs": spec}, "cotangents": {"out": cotangent}}
    with pr.record(module, tmp_path / "probe.npz", probe=given, **known(3, 4)):
        module(x).backward(made("cotangent/out", cotangent, 9, "float64"))
    probe = read_case(tmp_path / "probe.npz")
    assert not {**probe.inputs, **probe.cotangents}
    np.savez(tmp_path / "weights.npz", **{name: value.array for name, value in module.state_dict().items()})
    result = pr.crosscheck.check_file(tmp_path / "probe.npz", weights=tmp_path / "weights.npz")
    assert result.status == "pass", result.message
    given["cotangents"] = {}
    for wrong, message in (
        ({**given, "seed": 8}, "input/inputs is not what its specification makes with seed 8"),
        ({**given, "inputs": {"x": spec}}, "there is no input 'x'; there are inputs"),
        ({**given, "inputs": {"inputs": {**spec, "kind": "exec"}}}, "kind of input/inputs"),
    ):
        with (
            pytest.raises(pr.InputError, match=message),
            pr.record(module, tmp_path / "no.npz", probe=wrong, **known(3, 4)),
        ):
            module(x)
    assert not (tmp_path / "no.npz").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probe": 3}, "probe must be True"),
        ({"probe": {"sed": 1}}, "unknown option of probe 'sed'"),
        ({"probe": {"samples": 0}}, "samples must be a whole number from 1"),
        ({"probe": {"seed": -1}}, "seed must be a whole number"),
        ({"probe": {"inputs": 3}}, "inputs must be how each array is made"),
        ({"probe": True, "statistics": True}, "leave statistics out"),
        ({"probe": True, "parameters": False}, "leave parameters out"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(pr.InputError, match=message):
        pr.record(Linear(3, 4), tmp_path / "probe.npz", **options)


class Tied(Module):
    """A weight under two names, of which each sends a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Linear(4, 4), Linear(4, 4, seed=1)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return linear(self.first(x), self.second.weight, self.second.bias)


def test_gradients_that_come_in_parts_are_sampled_as_a_whole(tmp_path: Path) -> None:
    probe, whole = probe_of(tmp_path, Tied(), Tensor(RNG.standard_normal((9, 4)), True))
    assert probe.meta["peer"] == "unknown"
    for name, array in whole.grad_params.items():
        np.testing.assert_array_equal(probe.samples[f"grad_param/{name}"], sampled(array).samples)
    alone = {name: array for name, array in whole.params.items() if name not in whole.meta["tied"]}
    assert probe.meta["probe"]["weights"] == pr.vectors.fingerprint(alone)
    assert set(probe.meta["probe"]["arrays"]) >= {"trace/first", "output/out"}
