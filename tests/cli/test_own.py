"""A person's own files without Python: trained, saved, used; the same output as recipes'; one line for bad input."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.command import invoke

import perceiver_ref as pr
from perceiver_ref.training.own.examples import fitted_scaling
from perceiver_ref.weights.formats.npz import read_npz, write_npz

RNG = np.random.default_rng(5)
ROWS = RNG.normal(size=(60, 5)) * [1, 10, 100, 0.1, 3] + [0, 50, -3, 2, 1]
CLASSES = np.array(["red", "green", "blue"])[np.argmax((ROWS - ROWS.mean(0)) / ROWS.std(0), 1) % 3]
SMALL = ("--steps", 6, "--channels", 12, "--latents", 3, "--layers", 1, "--heads", 3)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        made = csv.writer(file)
        made.writerow(["a", "b", "colour", "c", "d", "e"])
        made.writerows([*row[:2], name, *row[2:]] for row, name in zip(ROWS.tolist(), CLASSES))
    return path


def done(capsys: Any, *arguments: object) -> str:
    finished = invoke(capsys, *arguments)
    assert (finished.code, finished.err) == (0, ""), finished
    return finished.out


def test_a_table_is_trained_saved_and_used(capsys: Any, tmp_path: Path, table: Path) -> None:
    out = tmp_path / "run"
    said = done(capsys, "train", "classify", "--data", table, "--label", "colour", "--out", out, *SMALL)
    assert "classify: test_accuracy" in said
    result = json.loads((out / "result.json").read_text())
    assert {"recipe", "metric", "value", "seconds", "seed"} <= set(result)
    assert (result["recipe"], result["steps"], result["passed"]) == ("classify", 6, True)
    assert {"metrics.jsonl", "checkpoint.npz", *result["files"]} <= {path.name for path in out.iterdir()}
    assert {"model.npz", "confusions.txt"} <= set(result["files"])
    asked = tmp_path / "asked.csv"  # columns in another order, and more of them
    with asked.open("w", newline="") as file:
        made = csv.writer(file)
        made.writerow(["e", "x", "d", "c", "b", "a"])
        made.writerows([row[4], "text", row[3], row[2], row[1], row[0]] for row in ROWS[:7].tolist())
    done(capsys, "predict", out / "model.npz", asked, "--output", tmp_path / "found.csv", "--json", tmp_path / "j")
    found = list(csv.DictReader((tmp_path / "found.csv").read_text().splitlines()))
    model, params = pr.load(out / "model.npz")
    task = json.loads(str(read_npz(out / "model.npz")["meta"]))["task"]
    assert task["classes"] == ["blue", "green", "red"]
    mean, scale = np.array(task["inputs"]["mean"]), np.array(task["inputs"]["scale"])
    np.testing.assert_allclose(mean, ROWS.mean(0), rtol=1, atol=3 * ROWS.std(0).max())  # of the training part
    logits = model.apply(params, ((ROWS[:7] - mean) / scale).astype(np.float32)[..., None]).astype(float)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert [row["class"] for row in found] == [task["classes"][k] for k in p.argmax(-1)]
    np.testing.assert_allclose([float(row["red"]) for row in found], p[:, 2], atol=1e-4)
    assert len(json.loads((tmp_path / "j").read_text())["predictions"]) == 7


def test_it_goes_on_where_it_was(capsys: Any, tmp_path: Path, table: Path) -> None:
    given = ["train", "classify", "--data", table, "--label", "colour", *SMALL]
    done(capsys, *given, "--out", tmp_path / "run")
    invoke(capsys, *given, "--out", tmp_path / "run").assert_refused("holds a run", "--resume")
    done(capsys, *given, "--out", tmp_path / "run", "--resume")
    other = ["train", "classify", "--data", table, "--label", "colour", *SMALL[:-1], 2]
    invoke(capsys, *other, "--out", tmp_path / "run", "--resume").assert_refused("of another run", "identity")


@pytest.mark.parametrize(
    ("inputs", "kind"),
    [
        (RNG.normal(size=(40, 6, 2)), "sequence"),
        (RNG.integers(256, size=(40, 5, 4, 3), dtype=np.uint8), "image"),
        (RNG.integers(256, size=(40, 5, 4), dtype=np.uint8), "image"),
        (RNG.integers(9, size=(40, 7)), "table"),
    ],
    ids=["sequences", "colours", "grey", "whole numbers"],
)
def test_arrays(capsys: Any, tmp_path: Path, inputs: np.ndarray, kind: str) -> None:
    labels = RNG.integers(3, 6, size=40)
    np.savez(tmp_path / "d.npz", x=inputs[:30], y=labels[:30], test_x=inputs[30:], test_y=labels[30:])
    out = tmp_path / "run"
    done(capsys, "train", "classify", "--data", tmp_path / "d.npz", "--out", out, *SMALL)
    task = json.loads(str(read_npz(out / "model.npz")["meta"]))["task"]
    assert (task["inputs"]["kind"], task["classes"]) == (kind, ["3", "4", "5"])
    np.save(tmp_path / "x.npy", inputs[:4])
    np.savez(tmp_path / "x.npz", inputs=inputs[:4], labels=labels[:4])
    for name in ("x.npy", "x.npz"):
        done(capsys, "predict", out / "model.npz", tmp_path / name, "--output", tmp_path / f"{name}.out.npz")
    first, second = (read_npz(tmp_path / f"{name}.out.npz") for name in ("x.npy", "x.npz"))
    np.testing.assert_array_equal(first["probabilities"], second["probabilities"])
    np.testing.assert_allclose(first["probabilities"].sum(-1), 1)


def test_a_picture(capsys: Any, tmp_path: Path) -> None:
    pil = pytest.importorskip("PIL.Image", reason="needs the extra images")
    images = RNG.integers(256, size=(30, 5, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", images=images, labels=np.arange(30) % 2)
    done(capsys, "train", "classify", "--data", tmp_path / "d.npz", "--out", tmp_path / "run", *SMALL)
    pil.fromarray(images[3]).save(tmp_path / "one.png")
    np.save(tmp_path / "one.npy", images[3:4])
    for name in ("one.png", "one.npy"):
        done(capsys, "predict", tmp_path / "run" / "model.npz", tmp_path / name, "--output", tmp_path / f"{name}.npz")
    first, second = (read_npz(tmp_path / f"{name}.npz") for name in ("one.png", "one.npy"))
    np.testing.assert_array_equal(first["probabilities"], second["probabilities"])
    (tmp_path / "bad.png").write_bytes(b"\x89PNG nothing")
    invoke(capsys, "predict", tmp_path / "run" / "model.npz", tmp_path / "bad.png").assert_refused("is no picture")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_bytes(("It was the best of times, it was the wörst of times. " * 20).encode())
    return path


def test_a_text_is_filled_in(capsys: Any, tmp_path: Path, text: Path) -> None:
    out = tmp_path / "run"
    sizes = ("--steps", 4, "--length", 16, "--latents", 5, "--channels", 16, "--batch", 4)
    said = done(capsys, "train", "language", "--text", text, "--out", out, *sizes)
    assert "language: masked_accuracy" in said
    assert (out / "filled.txt").exists()
    (tmp_path / "m.txt").write_text("It was th[MASK] best of tim[MASK]s")
    filled = done(capsys, "predict", out / "model.npz", tmp_path / "m.txt", "--output", tmp_path / "f.txt")
    assert len(filled.strip().encode()) >= len("It was the best of times")
    assert filled.startswith("It was th")
    assert (tmp_path / "f.txt").read_text() + "\n" == filled
    (tmp_path / "none.txt").write_text("It was")
    invoke(capsys, "predict", out / "model.npz", tmp_path / "none.txt").assert_refused("has no [MASK]")


def test_a_text_is_gone_on_with(capsys: Any, tmp_path: Path, text: Path) -> None:
    out = tmp_path / "run"
    sizes = ("--steps", 4, "--length", 16, "--latents", 5, "--channels", 16, "--layers", 1, "--batch", 4)
    said = done(capsys, "train", "generate", "--text", text, "--out", out, *sizes)
    assert "generate: bits_per_byte" in said
    calls = [("--prompt", "It was", "--most", 9, "--seed", seed) for seed in (1, 1, 2)]
    first, again, other = (done(capsys, "generate", out / "model.npz", *call) for call in calls)
    assert first == again != other
    assert first.startswith("It was")
    model, params = pr.load(out / "model.npz")
    assert (model.length, model.latents, model.channels, model.layers) == (16, 5, 16, 1)
    from perceiver_ref.models.inputs.bytes import decode, encode
    from perceiver_ref.models.perceiver_ar import generate

    ids = generate(model, params, encode("It was")[None], most=9)
    assert done(capsys, "generate", out / "model.npz", "--prompt", "It was", "--most", 9, "--temperature", 0) == (
        decode(ids[0]) + "\n"
    )


def test_any_saved_model_gives_its_outputs(capsys: Any, tmp_path: Path) -> None:
    encoder = pr.training.table_model(5, 2, channels=8).encoder
    model = pr.PerceiverIO(encoder)
    x = RNG.normal(size=(7, 4, encoder.inputs))
    mask = RNG.random((7, 4)) < 0.8
    params = model.init()
    pr.save(model, params, tmp_path / "model.npz")
    np.savez(tmp_path / "in.npz", inputs=x, mask=mask)
    given = ("predict", tmp_path / "model.npz", tmp_path / "in.npz")
    done(capsys, *given, "--output", tmp_path / "out.npz", "--batch", 3)
    np.testing.assert_allclose(
        read_npz(tmp_path / "out.npz")["out"],
        model.apply(params, x.astype(np.float32), mask=mask),
        rtol=1e-5,
        atol=1e-6,
    )
    np.savez(tmp_path / "in.npz", inputs=x[..., :2])
    invoke(capsys, *given).assert_refused("inputs must be (batch, positions, 8), got (7, 4, 2)")


TABLES = {
    "no rows": ("a,b\n", "at least one row"),
    "empty": ("", "at least one row"),
    "names twice": ("a,a\n1,2\n", "name every column"),
    "a field too few": ("a,b,c\n1,2,x\n1,x\n", "row 2 has 2 fields"),
    "words": ("a,b,c\n1,two,x\n1,2,y\n", "row 1, column 'b': 'two' is no finite number"),
    "no names": ("5.1,3.5,x\n4.9,3.0,y\n", "the first line must name the columns, and holds values"),
    "no names, whole numbers": ("3,4,x\n1,2,y\n", "the first line must name the columns, and holds values"),
    "counted columns": ("0,1,label\n1,,x\n1,2,y\n", "row 1, column '1': '' is no finite number"),
    "years": ("2019,2020,2021,label\n1,2,,x\n1,2,3,y\n", "row 1, column '2021': '' is no finite number"),
    "a gap": ("a,b,c\n1,,x\n1,2,y\n", "row 1, column 'b': '' is no finite number"),
    "an infinity": ("a,b,c\n1,inf,x\n1,2,y\n", "'inf' is no finite number"),
    "one class": ("a,b,c\n1,2,x\n1,2,x\n", "labels must be of 2 to"),
    "no text": ("\x00\xff", "row"),
}


@pytest.mark.parametrize("what", TABLES)
def test_a_bad_table_is_one_line(capsys: Any, tmp_path: Path, what: str) -> None:
    text, said = TABLES[what]
    (tmp_path / "t.csv").write_text(text, encoding="latin-1")
    finished = invoke(capsys, "train", "classify", "--data", tmp_path / "t.csv")
    if what == "no text":
        finished.assert_refused()
    else:
        finished.assert_refused(said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["classify"], "needs --data FILE"),
        (["digits", "--data", "x.csv"], "unknown kind of model"),
        (["classify", "--text", "x"], "takes --data FILE, not --text"),
        (["language", "--data", "x"], "takes --text FILE, not --data"),
        (["digits", "--latents", "3"], "--latents is for a model of your own data"),
        (["classify", "--data", "x.csv", "--length", "9"], "has no --length"),
        (["classify", "--data", "x.csv", "--quick"], "--quick is for recipes"),
        (["classify", "--data", "x.csv", "--steps", "0"], "--steps must be at least 1"),
        (["classify", "--data", "x.csv", "--learning-rate", "-1"], "--learning-rate must be above 0"),
        (["classify", "--data", "none.csv"], "does not exist"),
        (["generate", "--text", "none.txt"], "does not exist"),
    ],
)
def test_bad_options_are_one_line(capsys: Any, arguments: list[str], said: str) -> None:
    invoke(capsys, "train", *arguments).assert_refused(said)


def test_sizes_that_do_not_fit_are_one_line(capsys: Any, table: Path, text: Path) -> None:
    base = ("train", "classify", "--data", table, "--label", "colour")
    invoke(capsys, *base, "--channels", 13).assert_refused("--channels 13 must be a multiple of", "--heads 4")
    invoke(capsys, *base[:-1], "color").assert_refused("did you mean 'colour'")
    invoke(capsys, "train", "language", "--text", text, "--channels", 12).assert_refused("must be a multiple of 8")
    invoke(capsys, "train", "generate", "--text", text, "--length", 4000).assert_refused("less than two windows")
    invoke(capsys, "train", "generate", "--text", text, "--length", 9, "--latents", 10).assert_refused("latents (10)")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("inputs", None), ("inputs", {}), ("inputs", [1]), ("inputs.mean", [1]), ("inputs.mean", ["a"] * 5),
        ("inputs.scale", [0.0] * 5), ("inputs.shape", [5, -1]), ("inputs.shape", [1 << 40, 1]), ("inputs.kind", "cube"),
        ("inputs.names", [1] * 5),
    ],
)  # fmt: skip
def test_a_task_that_was_tampered_with_is_one_line(capsys: Any, tmp_path: Path, key: str, value: object) -> None:
    model = pr.training.table_model(5, 3, channels=8)
    task: dict[str, Any] = {"task": "classify", "inputs": fitted_scaling(ROWS, None).plain(), "classes": 7}
    outer, _, inner = key.partition(".")
    if inner:
        task[outer][inner] = value
    else:
        task[outer] = value
    pr.save(model, model.init(), tmp_path / "m.npz", task=task)
    np.save(tmp_path / "x.npy", ROWS[:2])
    invoke(capsys, "predict", tmp_path / "m.npz", tmp_path / "x.npy").assert_refused(
        "do not say how examples are scaled"
    )


def test_what_is_no_model_or_no_input_is_one_line(capsys: Any, tmp_path: Path) -> None:
    model = pr.training.table_model(5, 3, channels=8)
    pr.save(model, model.init(), tmp_path / "m.npz")
    write_npz(tmp_path / "plain.npz", {"a": np.ones(2)})
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY junk")
    np.save(tmp_path / "o.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "t.txt").write_text("a[MASK]")
    given = tmp_path / "m.npz"
    invoke(capsys, "predict", tmp_path / "plain.npz", tmp_path / "t.txt").assert_refused("does not say which")
    invoke(capsys, "predict", given, tmp_path / "x.npy").assert_refused("is no .npy file of numbers")
    invoke(capsys, "predict", given, tmp_path / "o.npy").assert_refused("is no .npy file of numbers")
    invoke(capsys, "predict", given, tmp_path / "t.txt").assert_refused("is no model of bytes of text")
    invoke(capsys, "predict", given, tmp_path / "none.npy").assert_refused("does not exist")
    invoke(capsys, "generate", given, "--prompt", "a").assert_refused("holds a PerceiverIO, which does not go on")
    invoke(capsys, "generate", given, "--prompt", "a", "--most", -1).assert_refused("at least 0")
    np.save(tmp_path / "r.npy", ROWS[:2, :, None])
    invoke(capsys, "predict", given, tmp_path / "r.npy", "--output", tmp_path / "r.csv").assert_refused("must end in")
