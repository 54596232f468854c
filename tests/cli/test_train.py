"""`perceiver-ref train`: what it prints, its exit codes, and one clear line for bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cli.command import invoke
from training import small

from perceiver_ref.cli import train as command
from perceiver_ref.training.recipes import MODULES


@pytest.fixture
def small_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small recipe in place of every other."""
    monkeypatch.setattr(command, "recipe", lambda name: small.recipe())


@pytest.mark.usefixtures("small_recipe")
def test_it_prints_and_writes_the_result(capsys, tmp_path: Path) -> None:
    done = invoke(capsys, "train", "digits", "--out", tmp_path / "run", "--json", tmp_path / "result.json")
    assert (done.code, done.err) == (0, "")
    assert "small: error" in done.out
    assert "expected <= 10: reached" in done.out
    assert "zeros: " in done.out
    result = json.loads((tmp_path / "result.json").read_text())
    assert result == json.loads((tmp_path / "run" / "result.json").read_text())
    assert {"recipe", "metric", "value", "seconds", "seed"} <= set(result)
    again = invoke(capsys, "train", "digits", "--out", tmp_path / "run")
    again.assert_refused("holds a run", "--resume")
    assert invoke(capsys, "train", "digits", "--out", tmp_path / "run", "--resume").code == 0


def test_a_missed_threshold_exits_with_1(capsys, monkeypatch) -> None:
    monkeypatch.setattr(command, "recipe", lambda name: replace(small.recipe(), threshold=1e-9))
    done = invoke(capsys, "train", "digits")
    assert (done.code, done.err) == (1, "")
    assert "expected <= 1e-09: missed" in done.out


def test_ctrl_c_exits_with_130_and_says_how_to_go_on(capsys, monkeypatch, tmp_path: Path) -> None:
    from training.test_resuming import stop_at

    monkeypatch.setattr(command, "recipe", lambda name: small.recipe(stop_at(0, 4)))
    done = invoke(capsys, "train", "digits", "--out", tmp_path / "run", "--seed", 3)
    assert done.code == 130
    assert f"go on with: perceiver-ref train small --out {tmp_path}/run --seed 3" in done.err
    assert "Traceback" not in done.err


def test_the_table_has_every_recipe(capsys, tmp_path: Path) -> None:
    done = invoke(capsys, "train", "--json", tmp_path / "table.json")
    assert (done.code, done.err) == (0, "")
    rows = json.loads((tmp_path / "table.json").read_text())["recipes"]
    assert [row["name"] for row in rows] == list(MODULES)
    assert all(row["paper"] in done.out and row["data"] in done.out for row in rows)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["digit"], "did you mean 'digits'?"),
        (["digits", "--resume"], "--resume needs --out DIR"),
        (["digits", "--seed", "-1"], "--seed must be at least 0"),
        (["digits", "--seed", "x"], "--seed"),
        (["digits", "--backend", "torch"], "invalid choice"),
    ],
)
def test_bad_input_is_one_line(capsys, arguments: list[str], text: str) -> None:
    invoke(capsys, "train", *arguments).assert_refused(text)


def test_without_cupy_the_line_that_installs_it(capsys, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "cupy", None)
    invoke(capsys, "train", "digits", "--backend", "cupy").assert_refused("pip install cupy-cuda12x")
