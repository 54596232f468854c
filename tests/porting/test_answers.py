"""A port's answers in a file of their own: `diagnose REFERENCE MINE` and `check REFERENCE --outputs MINE`."""

from __future__ import annotations

import dataclasses
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.command import invoke
from files import dump_writers
from files.dump_writers import WRITERS
from support import normal

from perceiver_ref import InputError
from perceiver_ref.peers import Given, peer
from perceiver_ref.porting import check_file, diagnose_file
from perceiver_ref.porting.cases import Case, read_case, write_case
from perceiver_ref.porting.cases.execution import named_points, run
from perceiver_ref.porting.compare.answers import answered

PACKAGED = Path(str(files("perceiver_ref"))) / "porting/cases/packaged"
REFERENCE = PACKAGED / "open-flamingo/gated_immediate.npz"
TINY = PACKAGED / "krasserm/multihead_attention_causal_rotary.npz"
WITH_TRACE = PACKAGED / "hf/sequence_classification.npz"


def wrong() -> Case:
    """The case as a port answers it that lets text attend to all earlier media."""
    case = read_case(REFERENCE)
    port = peer("open-flamingo").rebuild(
        case.meta["class"], Given({**case.meta["config"], "only_attend_immediate_media": False})
    )
    return dataclasses.replace(case, outputs=run(port, case.params, case.inputs, {}).outputs)


def one_output(case: Case) -> np.ndarray:
    (array,) = case.outputs.values()
    return array


@pytest.mark.parametrize("kind", [kind for kind in WRITERS if kind not in ("ggml-text", "debugger")])
def test_outputs_alone_are_diagnosed_from_every_format(kind: str, tmp_path: Path) -> None:
    """The cause is that of the case which holds everything: the file's outputs are what is looked at."""
    name, expected = next(iter(read_case(REFERENCE).outputs)), one_output(read_case(REFERENCE))
    right = WRITERS[kind](tmp_path, {name: expected.astype(np.float32)})
    assert diagnose_file(REFERENCE, right).verdict == "rounding"
    assert check_file(REFERENCE, right).status == "pass"
    if kind not in ("npz", "raw", "safetensors"):
        return  # the arrays are the same, and searching takes a second
    (tmp_path / "wrong").mkdir()
    found = diagnose_file(REFERENCE, WRITERS[kind](tmp_path / "wrong", {name: one_output(wrong())}))
    assert (found.verdict, found.causes[0]) == ("deviation", "media-mask")


@pytest.mark.parametrize(
    ("name", "beside"),
    [("output/{}", "output/z"), ("output/{}", "trace/foo"), ("{}", "foo"), ("output/y", "trace/foo")],
)
def test_what_is_called_the_output_is_it_whatever_else_has_its_values(name: str, beside: str, tmp_path: Path) -> None:
    case = read_case(REFERENCE)
    (called,) = case.outputs
    right, other = one_output(case), one_output(wrong())
    mine = dump_writers.npz(tmp_path, {name.format(called): other, beside: right})
    assert check_file(REFERENCE, mine).status == "fail"
    np.testing.assert_array_equal(one_output(answered(case, mine)[0]), other)
    (tmp_path / "right").mkdir()
    assert check_file(REFERENCE, dump_writers.npz(tmp_path / "right", {name.format(called): right})).status == "pass"


@pytest.mark.parametrize("name", ["output/{}", "{}", "output/y", "y"])
def test_an_output_that_is_an_earlier_value_of_the_reference_is_an_output(name: str, tmp_path: Path) -> None:
    """As of a port that leaves out its last part."""
    case = read_case(REFERENCE)
    (called,), expected = case.outputs, one_output(case)
    point = next(p for p, a in case.trace.items() if a.shape == expected.shape and not np.allclose(a, expected))
    mine = dump_writers.npz(tmp_path, {name.format(called): case.trace[point]})
    np.testing.assert_array_equal(one_output(answered(case, mine)[0]), case.trace[point])
    assert check_file(REFERENCE, mine).status == "fail"


def test_the_json_is_that_of_one_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = wrong()
    write_case(tmp_path / "whole.npz", dataclasses.replace(case, trace={}, grad_params={}, grad_inputs={}))
    dump_writers.npz(tmp_path, {"y": one_output(case)})
    reports = []
    for arguments in (["whole.npz"], [REFERENCE, "dump.npz"]):
        given = [tmp_path / a if isinstance(a, str) else a for a in arguments]
        done = invoke(capsys, "diagnose", *given, "--json", tmp_path / "report.json")
        assert done.code == 1
        reports.append(json.loads((tmp_path / "report.json").read_text()))
    one, two = reports
    assert set(one) == set(two)
    assert [one[key] for key in ("verdict", "causes", "error", "expected_rounding")] == [
        two[key] for key in ("verdict", "causes", "error", "expected_rounding")
    ]
    assert two["notes"][0].startswith(f"output/{next(iter(case.outputs))} is y of ")


def test_names_layouts_traces_and_gradients_are_found(tmp_path: Path) -> None:
    """Traced values by the peer's names or by ours, gradients by the parameters', an output transposed."""
    case = read_case(WITH_TRACE)
    output = "logits"
    trace = {name: case.trace[name] for name in list(case.trace)[1:6:2]}
    grads = {f"grad_param/{n}": a for n, a in list(case.grad_params.items())[:2]}
    mine = {"my.scores": case.outputs[output].T, **trace, **grads}
    made, notes = answered(case, dump_writers.npz(tmp_path, mine))
    np.testing.assert_array_equal(made.outputs[output], case.outputs[output])
    assert set(made.trace) >= set(trace)
    for name in made.trace:
        np.testing.assert_allclose(made.trace[name], case.trace[name], atol=1e-10)
    assert set(made.grad_params) == {name.partition("/")[2] for name in grads}
    assert not made.grad_inputs
    assert made.params is case.params
    assert notes[0] == f"output/{output} is my.scores of {tmp_path / 'dump.npz'}; axes 0 and 1 swapped"


def test_a_traced_value_is_never_taken_by_its_shape_alone(tmp_path: Path) -> None:
    """A wrong pair would be said to be where the port goes wrong."""
    case = read_case(WITH_TRACE)
    output = "logits"
    shape = next(iter(case.trace.values())).shape
    mine = {output: case.outputs[output], "unknown": normal(0, *shape)}
    made, _ = answered(case, dump_writers.npz(tmp_path, mine))
    assert not any((a == mine["unknown"]).all() for a in made.trace.values() if a.shape == shape)


def test_an_output_of_another_name_is_the_only_one_of_its_shape(tmp_path: Path) -> None:
    """Of two that are neither named so nor equal to it, none is chosen."""
    name, array = next(iter(read_case(REFERENCE).outputs.items()))
    mine = {"y": array + 0.01, "z": array - 0.01, "other": normal(0, 2, 3)}
    with pytest.raises(InputError, match=rf"y, z may be output/{name}, by the shape; name it so"):
        answered(read_case(REFERENCE), dump_writers.npz(tmp_path, mine))
    del mine["z"]
    made, notes = answered(read_case(REFERENCE), dump_writers.npz(tmp_path, mine))
    np.testing.assert_array_equal(made.outputs[name], mine["y"])
    assert notes[0] == f"output/{name} is y of {tmp_path / 'dump.npz'}, by its shape alone"


def test_our_names_for_a_peers_points(tmp_path: Path) -> None:
    case = read_case(WITH_TRACE)
    rebuilt = peer(case.meta["peer"]).rebuild(
        case.meta["class"],
        Given(
            case.meta["config"],
            {n: a.shape for n, a in case.inputs.items()},
            {n: a.shape for n, a in case.params.items()},
            case.meta["call"],
        ),
    )
    ours = {name: points[0] for name, points in named_points(rebuilt, case.trace).items() if points}
    name = next(n for n in ours if (case.trace[n] != case.trace[n].flat[0]).any())
    output = "logits"
    moved = case.trace[name] + 1.0  # wrong, so that values do not match it
    made, _ = answered(case, dump_writers.npz(tmp_path, {output: case.outputs[output], ours[name]: moved}))
    assert any(a.shape == moved.shape and (a == moved).all() for a in made.trace.values())


def refusals(case: Case) -> dict[str, tuple[dict[str, Any], str]]:
    name, array = next(iter(case.outputs.items()))
    return {
        "another shape": ({name: array[..., :-1]}, f"{name} has shape"),
        "none": ({"x": normal(0, 2, 3)}, f"has none of the outputs of .*: {name}"),
    }


@pytest.mark.parametrize("what", refusals(read_case(REFERENCE)))
def test_what_answers_nothing_is_refused(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays, text = refusals(read_case(REFERENCE))[what]
    path = dump_writers.npz(tmp_path, arrays)
    with pytest.raises(InputError, match=text):
        diagnose_file(REFERENCE, path)
    invoke(capsys, "diagnose", REFERENCE, path).assert_refused(str(path))


def test_printed_outputs_are_for_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = read_case(REFERENCE)
    path = dump_writers.ggml_text(tmp_path, {next(iter(case.outputs)): one_output(case)})
    invoke(capsys, "diagnose", REFERENCE, path).assert_refused("is printed, rounded and not whole; compare takes it")
    assert invoke(capsys, "compare", REFERENCE, path).code == 0


def test_files_are_kept_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second file is read, as the first is: neither is written over; the excerpt lies beside the second."""
    case = read_case(TINY)
    name = next(iter(case.outputs))
    mine = dump_writers.npz(tmp_path, {name: one_output(case) + normal(0, *one_output(case).shape)})
    invoke(capsys, "diagnose", TINY, mine, "--json", mine).assert_refused("would be written over")
    assert invoke(capsys, "diagnose", TINY, mine).code == 1
    assert (tmp_path / "dump.excerpt.npz").exists()
    invoke(capsys, "check", TINY, TINY, "--outputs", mine).assert_refused("answers one case, 2 are given")
    invoke(capsys, "check", TINY, "--outputs", mine, "--json", mine).assert_refused("would be written over")
    assert invoke(capsys, "check", TINY, "--outputs", mine).code == 1
