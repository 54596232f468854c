"""Excerpts: where an unexplained difference begins, as a case of the operations there, which `check` takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import support
from porting.cases import case_of
from porting.diagnosing import on_backend, subject_of

from perceiver_ref.cli import main
from perceiver_ref.errors import InputError
from perceiver_ref.porting import check_case, check_file, diagnose
from perceiver_ref.porting.cases import Case, read_case, write_case
from perceiver_ref.porting.diagnosis.excerpt import forward_excerpt
from perceiver_ref.porting.export.adversarial import ROWS
from perceiver_ref.porting.export.find import Wanted, find
from perceiver_ref.porting.export.make import ExportOptions, make

pytestmark = on_backend

BRIEF = "4"
"""Seconds for a search that finds nothing anyway, and goes on as long as it may"""
SMALL = ("open-flamingo/gated_immediate", "hf/model_mask_holes", "perceiver-ar/ar_rotary", "krasserm/decoder_residual")


def noise(like: np.ndarray) -> np.ndarray:
    return np.random.default_rng(7).normal(size=like.shape)


def failed(case: Case) -> list[str]:
    return [f"{a.kind}/{a.name}" for a in check_case(case).agreements if not a.passed]


@pytest.mark.parametrize("name", SMALL)
def test_every_point_and_output_has_an_excerpt_that_fails_there_alone(name: str, tmp_path: Path) -> None:
    subject = subject_of(case_of(name))
    count = 0
    for point, right in list(subject.expected.items()):
        if right.dtype.kind != "f":
            continue
        subject.expected[point] = right + noise(right)
        excerpt = forward_excerpt(subject, point)
        subject.expected[point] = right
        assert excerpt is not None
        write_case(tmp_path / "excerpt.npz", excerpt)
        read = read_case(tmp_path / "excerpt.npz")
        assert read.meta["peer"] == "perceiver-ref"
        assert read.meta["excerpt"]["point"] == point
        assert failed(read) == ["output/out"]
        # what the peer itself has there is right: the excerpt computes it from what the peer has before
        assert failed(replace(read, outputs={"out": right})) == []
        assert failed(replace(read, outputs={"out": read.expected["output/out"]})) == []
        count += 1
    assert count == len([a for a in subject.expected.values() if a.dtype.kind == "f"])


def test_a_single_operation_is_a_case_of_it() -> None:
    """With every point of ours traced, a linear map is an excerpt by its own name, on what the point before has."""
    case = make(find(Wanted("flamingo/gated-xattn-3b")), ROWS[0], ExportOptions(gradients=False))
    subject = subject_of(case)
    found = {}
    for point, right in subject.expected.items():
        excerpt = forward_excerpt(subject, point)
        assert excerpt is not None
        found[point] = excerpt
        np.testing.assert_allclose(excerpt.expected["output/out"], right, rtol=0, atol=1e-9)
    made = {name.rpartition(".")[2]: made for name, made in found.items()}
    assert {name: made[name].meta["class"] for name in ("norm", "query", "activation", "attention")} == {
        "norm": "layer_norm",
        "query": "linear",
        "activation": "squared_relu",
        "attention": "linear",
    }
    assert set(made["query"].inputs) <= {"x", "weight", "bias"}
    given = made["query"].inputs["x"]  # computed again, on whatever backend: other points differ by 2 and more
    same = [np.abs(a - given).max() <= support.ROUNDING for a in case.trace.values() if a.shape == given.shape]
    assert same.count(True) == 1


@pytest.mark.parametrize(
    ("name", "parameter", "cls"),
    [
        ("open-flamingo/gated_immediate", "attn.to_kv.weight", None),
        ("open-flamingo/gated_immediate", "ff.0.weight", "layer_norm"),
        ("hf/model_mask_holes", "encoder.self_attends.1.attention.output.dense.weight", None),
        ("perceiver-ar/ar_rotary", "perceiver_ar/~/self_attention/attention/linear_1/b", "linear"),
    ],
)
def test_a_wrong_gradient_has_an_excerpt(name: str, parameter: str, cls: str | None, tmp_path: Path) -> None:
    case = case_of(name)
    right = case.grad_params[parameter]
    case.grad_params[parameter] = right + noise(right) * np.abs(right).max()
    found = diagnose(case)
    assert (found.verdict, found.first_divergence is None) == ("unexplained", False)
    assert found.excerpt_case is not None
    write_case(tmp_path / "excerpt.npz", found.excerpt_case)
    read = read_case(tmp_path / "excerpt.npz")
    assert cls in (None, read.meta["class"])
    wrong = [f"{group}/{n}" for group in ("grad_param", "grad_input") for n in vars(read)[f"{group}s"]]
    assert failed(read) == wrong
    assert len(wrong) == 1
    (key,) = wrong
    group, _, inner = key.partition("/")
    repaired = replace(read, **{f"{group}s": {inner: read.expected[key]}})
    assert failed(repaired) == []
    if right.ndim == 1:  # the peer's own; a matrix may be transposed there
        assert failed(replace(read, **{f"{group}s": {inner: right}})) == []


def test_the_command_writes_one_that_check_and_diagnose_take(tmp_path: Path, capsys: Any) -> None:
    case = case_of("open-flamingo/gated_immediate")
    case.outputs["out"] = case.outputs["out"] + noise(case.outputs["out"])
    write_case(tmp_path / "port.npz", case)
    assert main(["diagnose", str(tmp_path / "port.npz"), "--budget", BRIEF]) == 1
    excerpt = tmp_path / "port.excerpt.npz"
    assert f"perceiver-ref check {excerpt}" in capsys.readouterr().out
    assert main(["check", str(excerpt), "--json", str(tmp_path / "check.json")]) == 1
    assert json.loads((tmp_path / "check.json").read_text())["cases"][0]["worst"] == "output/out"
    assert main(["diagnose", str(excerpt), "--budget", BRIEF]) == 1
    made = read_case(excerpt)
    made.outputs["out"] = made.expected["output/out"]
    write_case(excerpt, made)
    assert main(["check", str(excerpt)]) == 0
    assert main(["diagnose", str(excerpt)]) == 0


def test_a_float32_case_has_an_excerpt_in_float32() -> None:
    case = case_of("open-flamingo/gated_immediate")
    for arrays in (case.params, case.inputs, case.outputs, case.trace):
        arrays.update({n: a.astype(np.float32) if a.dtype.kind == "f" else a for n, a in arrays.items()})
    case = Case({**case.meta, "dtype": "float32"}, case.params, inputs=case.inputs, outputs=case.outputs)
    case.outputs["out"] = case.outputs["out"] + noise(case.outputs["out"]).astype(np.float32)
    found = diagnose(case, budget=float(BRIEF))
    assert found.excerpt_case is not None
    arrays = [*found.excerpt_case.params.values(), *found.excerpt_case.inputs.values()]
    assert {a.dtype.name for a in arrays if a.dtype.kind == "f"} == {"float32"}
    assert failed(found.excerpt_case) == ["output/out"]


def test_numbers_that_float16_lacks_have_no_excerpt_in_it() -> None:
    """As an array of our own computation that is beyond what the implementation's can hold."""
    case = case_of("open-flamingo/gated_immediate")
    name = next(n for n, a in case.inputs.items() if a.dtype.kind == "f")
    case.inputs[name] = case.inputs[name] * 1e6
    for arrays in (case.params, case.outputs):
        arrays.update({n: a.astype(np.float32) for n, a in arrays.items() if a.dtype.kind == "f"})
    held = Case({**case.meta, "dtype": "float32"}, case.params, inputs=case.inputs, outputs=case.outputs)
    subject = subject_of(held)
    made = forward_excerpt(subject, "output/out")
    assert made is not None
    held.meta["dtype"] = "float16"
    assert forward_excerpt(subject, "output/out") is None


_FIRST_TWO = {"index": [{"ellipsis": True}, {"slice": [None, 2, None]}]}
STEPS: dict[str, Any] = {
    "steps": [
        {"op": "linear", "arguments": ["x", "w"], "results": ["y"]},
        {"op": "getitem", "arguments": ["y"], "options": _FIRST_TWO, "results": ["z"]},
        {"op": "add", "arguments": ["z", 0.5], "results": ["out"]},
    ],
    "outputs": {"out": "out"},
}


def steps(config: Any, **inputs: np.ndarray) -> Case:
    meta = {"peer": "perceiver-ref", "class": "steps", "config": config, "dtype": "float64", "call": {}}
    x, w = np.arange(6.0).reshape(2, 3), np.arange(15.0).reshape(3, 5)
    return Case(meta, {"w": w}, inputs={"x": x, **inputs}, outputs={"out": (x @ w)[..., :2] + 0.5})


def test_steps_are_what_they_say() -> None:
    assert check_case(steps(STEPS)).status == "pass"
    other = json.loads(json.dumps(STEPS).replace("0.5", "0.25"))
    assert failed(steps(other)) == ["output/out"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(steps=[]), "needs a list of 1 to"),
        (lambda c: c.update(steps=[3]), "must be an object"),
        (lambda c: c.update(outputs={"out": "nowhere"}), "unknown array"),
        (lambda c: c["steps"][0].update(op="system"), "unknown operation"),
        (lambda c: c["steps"][0].update(arguments=["x", "__class__"]), "unknown array"),
        (lambda c: c["steps"][0].update(arguments=[["x"]]), "must be a list of names"),
        (lambda c: c["steps"][0].update(results=["x"]), "two arrays called"),
        (lambda c: c["steps"][0].update(results=["a", "b"]), "names 2"),
        (lambda c: c["steps"][0].update(options={"eps": 1}), "unknown option of linear"),
        (lambda c: c["steps"][1].update(options={"index": {"exec": "1"}}), "no value of an option"),
        (
            lambda c: c["steps"][1].update(op="broadcast_to", options={"shape": [1 << 20, 1 << 20, 2, 5]}),
            "more than the",
        ),
        (lambda c: c["steps"][1].update(op="pad", options={"widths": [[1 << 30, 0], [1 << 30, 0]]}), "more than the"),
        (lambda c: c["steps"][1].update(op="reshape", options={"shape": "ab"}), "step|inputs do not fit|shape"),
    ],
)
def test_steps_that_cannot_be_are_one_line(change: Any, said: str, tmp_path: Path) -> None:
    config = json.loads(json.dumps(STEPS))
    change(config)
    with pytest.raises(InputError, match=said):
        check_case(steps(config))
    write_case(tmp_path / "steps.npz", steps(config))
    assert check_file(tmp_path / "steps.npz").status == "error"
