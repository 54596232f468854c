"""Every field of every file that a command reads, with values that it cannot have: 2 and one short line, or an answer.

What a file says never ends in a traceback, whose exit code would read as a mismatch, and never reaches the terminal as
anything but printable text.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.command import CONFIG, Finished, execute, invoke, prepare, weights
from porting.cases import case_of
from training import small

from perceiver_ref import InputError
from perceiver_ref.cli.main import unforeseen
from perceiver_ref.errors import one_line, printable, shortened
from perceiver_ref.porting.cases import Case, write_case
from perceiver_ref.weights.checkpoints import read_checkpoint
from perceiver_ref.weights.formats.fit import Fitted
from perceiver_ref.weights.formats.npz import read_npz, write_npz
from perceiver_ref.weights.formats.own import to_own

Json = dict[str, Any]
ESCAPE = "\x1b[31m\x07red\n\r\x9b2J"
HUGE = 10**400
DEEP_TEXT = "[" * 100_000 + "]" * 100_000
DEEP = "@@deep@@"
"""Stands for a value of 100,000 levels until a text is made of it."""
VALUES: tuple[Any, ...] = (
    None,
    True,
    -3,
    0,
    10**9,
    10**30,
    HUGE,
    1.5,
    float("inf"),
    float("nan"),
    "",
    "x" * 10_000,
    ESCAPE,
    [],
    [ESCAPE],
    {},
    {ESCAPE: ESCAPE},
    {"a": [1, {"b": None}]},
    [[1 << 62, -1]],
    DEEP,
)


def text_of(value: Any) -> str:
    return json.dumps(value).replace(f'"{DEEP}"', DEEP_TEXT)


def assert_sane(done: Finished) -> None:
    """An answer, or one short printable line that says what is wrong with the input."""
    assert done.code in (0, 1, 2), done
    everything = done.out + done.err
    assert "Traceback" not in everything
    assert unforeseen(ValueError())[:25] not in everything, done.err
    assert all(c.isprintable() or c in "\n" for c in everything), repr(everything)
    if done.code == 2:
        errors = [line for line in done.err.splitlines() if "note: " not in line]
        assert len(errors) == 1, done.err
        assert errors[0].startswith("perceiver-ref")
        assert len(errors[0]) <= 200, errors[0]


def with_meta(path: Path, changed: str | Json) -> None:
    """The same `.npz` with another meta."""
    arrays = read_npz(path)
    arrays["meta"] = np.array(changed if isinstance(changed, str) else text_of(changed))
    write_npz(path, arrays)


CASE = ("peer", "class", "config", "call", "dtype", "tied", "tolerance", "compare_gradients", "notes", "seed", "case")
INSIDE = {"tolerance": "output", "tied": "alias", "config": "negative_slope", "call": "x"}


def case_metas(meta: Json, key: str) -> list[Json]:
    whole = [{**meta, key: value} for value in VALUES[:: 2 if key == "tied" else 1]]
    inner = INSIDE.get(key)
    return whole + [{**meta, key: {**meta[key], inner: value}} for value in VALUES if inner]


def tiny() -> Case:
    """An operation with a gradient."""
    x = np.array([[1.0, -2.0], [3.0, 4.0]])
    meta = {"peer": "perceiver-ref", "class": "relu", "config": {}, "dtype": "float64"}
    return Case(
        {**meta, "call": {}, "tied": {}, "tolerance": {}, "compare_gradients": True},
        inputs={"x": x},
        outputs={"out": np.maximum(x, 0)},
        cotangents={"out": np.ones((2, 2))},
        grad_inputs={"x": (x > 0) * 1.0},
    )


@pytest.mark.parametrize("key", [*CASE, "arrays", "peer_version", "\x1b[2J"])
def test_fields_of_a_case(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, other = tmp_path / "case.npz", tmp_path / "other.npz"
    case = case_of("hf/model_bare") if key == "tied" else tiny()
    write_case(path, case)
    write_case(other, case)
    for number, meta in enumerate(case_metas(case.meta, key)):
        with_meta(path, meta)
        assert_sane(invoke(capsys, "check", path))
        if number % 3 == 0:  # read as check does
            assert_sane(invoke(capsys, "compare", other, path))
            assert_sane(invoke(capsys, "diagnose", path))


@pytest.mark.parametrize("text", [DEEP_TEXT, '{"peer":' * 100_000, "", "{", "null", "\x1b[31m", "9" * 5000])
def test_a_meta_that_is_no_object(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "case.npz"
    write_case(path, case_of("hf/model_bare"))
    with_meta(path, text)
    for arguments in (("check", path), ("diagnose", path)):
        done = invoke(capsys, *arguments)
        assert_sane(done)
        assert done.code == 2
    assert_sane(invoke(capsys, "compare", path, path))


@pytest.mark.parametrize("tolerance", [HUGE, float("inf"), float("nan"), 1e9, 0, -1, "1", True, None, [1], {}])
@pytest.mark.parametrize("kind", ["output", "gradient"])
def test_no_tolerance_lets_everything_pass(
    kind: str, tolerance: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = case_of("hf/model_bare")
    case.outputs = {name: array[..., :-1] for name, array in case.outputs.items()}
    case.cotangents, case.grad_params, case.grad_inputs = {}, {}, {}
    write_case(tmp_path / "case.npz", case)
    with_meta(tmp_path / "case.npz", {**case.meta, "tolerance": {kind: tolerance}})
    done = invoke(capsys, "check", tmp_path / "case.npz")
    assert_sane(done)
    assert done.code == 2


@pytest.mark.parametrize("name", ["output/\x1b[31mx", "param/a\nb", "trace/" + "x" * 5000, "\x1b", "x" * 2000])
def test_names_of_arrays(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "case.npz"
    write_case(path, case_of("hf/model_bare"))
    write_npz(path, {**read_npz(path), name: np.zeros(3)})
    for arguments in (("check", path), ("diagnose", path), ("compare", path, path)):
        assert_sane(invoke(capsys, *arguments))


def test_a_file_with_escapes_in_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "cases"
    folder.mkdir()
    write_case(folder / "\x1b[31mred\n.npz", case_of("hf/model_bare"))
    assert_sane(invoke(capsys, "check", folder))
    assert_sane(invoke(capsys, "check", folder / "\x1b[31mred\n.npz"))
    assert_sane(invoke(capsys, "check", folder / "\x1b[31mabsent"))


@pytest.mark.parametrize("key", [*CONFIG, "id2label", "hidden_act", "x\x1b[2J"])
def test_fields_of_a_configuration(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = prepare(tmp_path)
    for value in VALUES:
        (tmp_path / "config.json").write_text(text_of({**CONFIG, key: value}))
        assert_sane(invoke(capsys, *files.arguments))
    for value in (10**9, HUGE, 0):
        (tmp_path / "config.json").write_text(text_of({**CONFIG, key: value}))
        explain = ("explain", tmp_path / "config.json", "--peer", "hf", "--class", "PerceiverForMaskedLM")
        assert_sane(invoke(capsys, *explain))


def own_checkpoint(path: Path) -> Json:
    write_npz(path, weights(CONFIG))
    checkpoint = read_checkpoint("hf", path, config=CONFIG)
    tied = {"alias": next(iter(checkpoint.arrays))}
    arrays = to_own(Fitted(checkpoint.rebuilt, checkpoint.arrays, tied), "hf", checkpoint.cls, CONFIG, "here")
    write_npz(path, arrays)
    made: Json = json.loads(str(arrays["meta"]))
    return made


OWN = ("format", "version", "perceiver_ref", "peer", "class", "config", "dtype", "shapes", "tied", "inputs")


@pytest.mark.parametrize("key", OWN)
def test_fields_of_our_own_checkpoint(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "own.npz"
    meta = own_checkpoint(path)
    inner = next(iter(meta[key]), "x") if isinstance(meta[key], dict) else None
    metas = [{**meta, key: value} for value in VALUES]
    metas += [{**meta, key: {**meta[key], inner: value}} for value in VALUES[::2] if inner is not None]
    for changed in metas:
        with_meta(path, changed)
        assert_sane(invoke(capsys, "convert", "--weights", path, "--output", tmp_path / "out.npz"))


INDEX = "model.safetensors.index.json"


def test_fields_of_an_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    arguments = ("convert", "--peer", "hf", "--weights", tmp_path, "--output", tmp_path / "out.npz")
    for value in VALUES:
        for index in ({"weight_map": value}, {"weight_map": {"x": value}}, {"weight_map": {ESCAPE: "x"}}, value):
            (tmp_path / INDEX).write_text(text_of(index))
            done = invoke(capsys, *arguments)
            assert_sane(done)
            assert done.code == 2


def training_metas(meta: Json) -> list[tuple[str, Json]]:
    keys = ("format", "version", "configuration", "position")
    made = [(key, {**meta, key: value}) for key in keys for value in VALUES if value != meta[key]]
    made += [("seconds", {**meta, "seconds": v}) for v in VALUES if type(v) not in (int, float) or not 0 <= v < 1e12]
    for key in ("stage", "step"):
        made += [
            (key, {**meta, "position": {**meta["position"], key: v}}) for v in VALUES if v not in (0, True) or v is True
        ]
    made += [("without", {k: v for k, v in meta.items() if k != key}) for key in meta if key != "perceiver_ref"]
    return made


def test_fields_of_a_training_checkpoint(tmp_path: Path) -> None:
    small.run(tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.npz"
    (tmp_path / "run" / "checkpoint.previous.npz").unlink()
    meta = json.loads(str(read_npz(path)["meta"]))
    for what, changed in training_metas(meta):
        with_meta(path, changed)
        with pytest.raises(InputError) as error:
            small.run(tmp_path / "run", resume=True)
        assert one_line(error.value, 200), what
        assert "\x1b" not in str(error.value), what


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.pop("meta"),
        lambda arrays: arrays.pop("param/map/weight"),
        lambda arrays: arrays.update({"param/map/weight": np.zeros((6, 4), np.int64)}),
        lambda arrays: arrays.update({"param/map/weight": np.array("x")}),
        lambda arrays: arrays.update({"param/more": np.zeros(3)}),
        lambda arrays: arrays.update({"meta": np.zeros(3)}),
        lambda arrays: arrays.clear(),
    ],
    ids=["no meta", "no parameter", "integers", "text", "one more", "numbers as meta", "nothing"],
)
def test_arrays_of_a_training_checkpoint(change: Callable[[dict[str, np.ndarray]], Any], tmp_path: Path) -> None:
    small.run(tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.npz"
    (tmp_path / "run" / "checkpoint.previous.npz").unlink()
    arrays = read_npz(path)
    change(arrays)
    write_npz(path, arrays)
    with pytest.raises(InputError):
        small.run(tmp_path / "run", resume=True)


def test_lines_of_metrics(tmp_path: Path) -> None:
    """Lines that are none are left out, and the run is what it would have been."""
    small.run(tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    whole = path.read_text()
    line = json.loads(whole.splitlines()[0])
    bad = [text_of({**line, key: value}) for key in ("step", "stage", "loss", "evaluation") for value in VALUES]
    bad += [DEEP_TEXT, "[" * 100_000, '{"step": ' + "9" * 5000 + "}", '{"step": 1}', "\x1b", text_of({"step": 1})]
    path.write_text("\n".join(bad) + "\n" + whole)
    small.run(tmp_path / "run", resume=True)
    assert path.read_text().endswith(whole)
    assert len(path.read_text()) < 100_000


ENVIRONMENT = {
    "PERCEIVER_REF_THREADS": ("0", "-3", "x", "1.5", "9" * 30, "\x1b[31m"),
    "PERCEIVER_REF_KERNELS": ("x", "\x1b[31m", "fast,plain"),
}


@pytest.mark.parametrize("variable", ENVIRONMENT)
def test_environment_variables(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ENVIRONMENT[variable][:: 1 if variable.endswith("KERNELS") else 2]:
        monkeypatch.setenv(variable, value)
        done = execute("info")
        assert_sane(done)
        assert done.code == 2
        assert variable in done.err


def test_what_nothing_foresaw_is_no_mismatch(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    import perceiver_ref.cli.info as info

    def fail() -> None:
        raise KeyError("x" * 1000 + ESCAPE)

    monkeypatch.setattr(sys.modules[info.__name__], "_info", fail)
    done = invoke(capsys, "info")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "a mistake in perceiver-ref" in done.err
    assert len(done.err) <= 201
    monkeypatch.setenv("PERCEIVER_REF_DEBUG", "1")
    with pytest.raises(KeyError):
        invoke(capsys, "info")


def test_texts_for_messages() -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    for value in (deep, 10**5000, "x" * 10**6, {"a": deep}, ESCAPE, [ESCAPE] * 100):
        assert len(shortened(value)) < 500
        assert shortened(value).isprintable()
    assert shortened("a text") == "'a text'"
    assert shortened("a text", bare=True) == "a text"
    assert printable("é\x1b[31m\u202e") == "é\\x1b[31m\\u202e"
    long = "/".join(["/home/someone/and/a/very/long/path/to"] * 5) + "/file.npz: a thing is wrong with " + "it " * 100
    assert len(one_line(long)) == 200
    assert "/file.npz: a thing is wrong with it" in one_line(long)
    assert one_line("two\nlines") == "two lines"
