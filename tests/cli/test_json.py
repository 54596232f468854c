"""docs/JSON.md: every key that a command writes is there, and every key there is written."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.command import invoke, prepare
from docs.schema_files import assert_valid, refuses
from porting.cases import case_of, path_of
from schemas.reports import REPORTS
from training import small

import perceiver_ref as pr
from perceiver_ref.cli import train
from perceiver_ref.cli.table import COMMANDS
from perceiver_ref.porting import run as execute
from perceiver_ref.porting.cases import write_case
from perceiver_ref.porting.cases.execution import rebuild
from perceiver_ref.training.own.examples import fitted_scaling
from perceiver_ref.training.recipes.language import Size
from perceiver_ref.training.recipes.language import model as language
from perceiver_ref.training.tables import table_model

jsonschema = importlib.util.find_spec("jsonschema")  # without it the reports are held against the page alone
PAGE = (Path(__file__).parents[2] / "docs" / "JSON.md").read_text(encoding="utf-8")
OPTIONAL = {"cupy", "tf32", "products", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"}
"""Keys of `info` that depend on the machine."""


def documented(command: str) -> list[set[str]]:
    """The keys of each table in the command's section."""
    section = re.search(rf"^## {command}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)[1]
    tables = re.findall(r"^\| key \|.*?(?=\n\n|\Z)", section, re.DOTALL | re.MULTILINE)
    return [set(re.findall(r"`([^`]+)`", " ".join(re.findall(r"^\| (`.*?) \|", t, re.MULTILINE)))) for t in tables]


def written(value: Any, known: set[str], path: str = "") -> Iterator[str]:
    """The keys of a value, as deep as the page goes."""
    if isinstance(value, dict) and path + "{}" not in known:
        for key, inner in value.items():
            name = f"{path}.{key}" if path else key
            yield from written(inner, known, name)
        if path in known:
            yield path
    elif isinstance(value, list) and any(key.startswith(f"{path}[].") for key in known):
        for inner in value:
            yield from written(inner, known, f"{path}[]")
    else:
        mark = "{}" if isinstance(value, dict) else "[]" if isinstance(value, list) else ""
        yield path if path in known and mark else path + mark


def saved(folder: Path) -> list[list[object]]:
    """Calls of `predict` for each kind of model; and a model for `generate`."""
    rng = np.random.default_rng(0)
    np.save(folder / "rows.npy", rng.normal(size=(3, 2)))
    (folder / "masked.txt").write_text("a[MASK]c")
    scaling = fitted_scaling(rng.normal(size=(9, 2)), None).plain()
    table = table_model(2, 2, channels=4, heads=2)
    task = {"task": "classify", "inputs": scaling, "classes": ["a", "b"]}
    pr.save(table, table.init(), folder / "classes.npz", task=task)
    pr.save(table, table.init(), folder / "plain.npz")
    np.save(folder / "elements.npy", rng.normal(size=(3, 2, 1)))
    words = language(Size(8, 4, 16, 16, 32, 1))
    pr.save(words, words.init(), folder / "words.npz")
    text = pr.PerceiverAR(262, 7, 5, 6, 1, self_heads=3)
    pr.save(text, text.init(), folder / "text.npz")
    pairs = (("classes.npz", "rows.npy"), ("plain.npz", "elements.npy"), ("words.npz", "masked.txt"))
    return [[folder / model, folder / inputs] for model, inputs in pairs]


def runs(command: str, folder: Path) -> list[list[list[object]]]:
    """For each table of the command, calls that together write all of its keys."""
    if command in ("predict", "generate"):
        calls = [["predict", *given] for given in saved(folder)]
        return [calls if command == "predict" else [["generate", folder / "text.npz", "--prompt", "A", "--most", 2]]]
    if command in ("run", "convert"):
        files = prepare(folder)
        own = ["convert", *files.arguments[1:7], "--output", folder / "own.npz"]
        return [[files.arguments if command == "run" else own]]
    case = case_of("open-flamingo/gated_immediate")
    write_case(folder / "right.npz", case)
    wrong = {name: 1.01 * array for name, array in case.grad_params.items()}
    write_case(folder / "wrong.npz", replace(case, grad_params=wrong))
    port, arrays = rebuild(case)
    arrays = {name: 40 + 0 * a if name.endswith("gate") else a for name, a in arrays.items()}
    outputs = execute(port, arrays, case.inputs, case.meta["call"]).outputs
    write_case(folder / "gates.npz", replace(case, outputs=outputs, trace={}))
    encoder = {"type": "Encoder", "inputs": 3, "latents": 2, "channels": 4, "layers": 1, "self_heads": 1}
    (folder / "own.json").write_text(json.dumps({"type": "PerceiverIO", "encoder": encoder}))
    exported = ["export", folder / "own.json", "--inputs", "2x3", "--cases", "plain", "--out", folder / "vectors"]
    return {
        "check": [[["check", path_of("hf/model_bare")]]],
        "diagnose": [[["diagnose", folder / "wrong.npz"], ["diagnose", folder / "gates.npz"]]],
        "bind": [
            [
                ["bind", path_of("open-flamingo/gated_immediate"), "--to", path_of("open-flamingo/gated_immediate")],
                ["bind", folder / "gates.npz", "--to", folder / "gates.npz", "--seconds", "1"],
            ]
        ],
        "compare": [[["compare", folder / "right.npz", folder / "wrong.npz"]]],
        "export": [[exported, [*exported[:6], "--audit", "--budget", "1", "--no-gradients"]]],
        "explain": [[["explain", "flamingo/resampler-3b"]]],
        "train": [[["train"]], [["train", "digits", "--out", folder / "run"]]],
        "info": [[["info"]]],
    }[command]


@pytest.mark.parametrize("command", [row.name for row in COMMANDS])
def test_the_page_has_every_key(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known_recipe = train.recipe
    monkeypatch.setattr(
        train, "recipe", lambda name: small.recipe() if (tmp_path / "small").exists() else known_recipe(name)
    )
    tables = documented(command)
    calls = runs(command, tmp_path)
    assert len(tables) == len(calls)
    for known, arguments in zip(tables, calls):
        found: set[str] = set()
        for given in arguments:
            done = invoke(capsys, *given, "--json", tmp_path / "result.json")
            assert done.code in (0, 1), done.err
            result = json.loads((tmp_path / "result.json").read_text())
            assert result["version"] == 1
            found |= set(written(result, known))
            if jsonschema:
                assert_valid(f"report/{command}.json", result)
                for name, wrong in mistaken(result, command):
                    assert refuses(f"report/{command}.json", wrong), name
        assert found - OPTIONAL == known - OPTIONAL
        (tmp_path / "small").touch()  # the second table of train is that of a run


def mistaken(result: dict[str, Any], command: str) -> Iterator[tuple[str, Any]]:
    """Reports that cannot be: without a key, and with a value of another kind."""
    forms = REPORTS[command]
    known = next(form for form in forms if {key for key in form if not key.endswith("?")} <= set(result))
    for key in ("version", *known):
        name = key.removesuffix("?")
        if name == key:
            yield f"without {name}", {k: v for k, v in result.items() if k != name}
        if name in result and known.get(key) != {}:
            yield f"{name} of another kind", {**result, name: [[[]]] if not isinstance(result[name], list) else 3}


def test_every_command_has_a_schema() -> None:
    """A row of schemas/reports.py in docs/make."""
    assert set(REPORTS) == {row.name for row in COMMANDS}


def test_the_page_has_every_command() -> None:
    assert re.findall(r"^## (\w+)$", PAGE, re.MULTILINE) == [row.name for row in COMMANDS]
