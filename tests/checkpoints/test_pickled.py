"""A released Haiku checkpoint, as a pickle of parameters and state, gives the outputs that its case holds."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.command import invoke
from support import difference, on

import perceiver_ref as pr
from perceiver_ref.models.call import Call
from perceiver_ref.porting.cases import TOLERANCES, Case, read_case
from perceiver_ref.weights.formats.npz import read_npz, write_npz

CASES = Path(__file__).parent.parent / "vectors" / "deepmind"


def pickled(case: Case, folder: Path, *, state: bool) -> Path:
    """The case's parameters as DeepMind saved them, {module: {name: array}}; with `state`, both under their names."""

    def modules(arrays: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
        tree: dict[str, dict[str, np.ndarray]] = {}
        for name, array in arrays.items():
            module, _, leaf = name.rpartition("/")
            tree.setdefault(module, {})[leaf] = array
        return tree

    content: dict[str, Any] = modules(case.params)
    if state:
        content = {"params": content, "state": modules(case.state)}
    path = folder / "checkpoint.pystate"
    path.write_bytes(pickle.dumps(content))
    return path


def test_a_model_with_batch_norm_from_a_pickle(tmp_path: Path, backend: str) -> None:
    case = read_case(CASES / "imagenet_conv_batchnorm_eval.npz")
    weights = pickled(case, tmp_path, state=True)
    model, params, state = pr.load_with_state(
        "deepmind", weights, "Perceiver", config=case.meta["config"], backend=backend
    )
    logits = model.apply(params, on(backend, case.inputs["inputs"]), call=Call(state=state))
    assert difference(logits, case.outputs["out"]) <= TOLERANCES["float64"]["output"]


def test_run_takes_a_pickle(tmp_path: Path, capsys: pytest.CaptureFixture[str], backend: str) -> None:
    case = read_case(CASES / "imagenet_pixels_fourier.npz")
    weights = pickled(case, tmp_path, state=False)
    (tmp_path / "config.json").write_text(json.dumps(case.meta["config"]))
    write_npz(tmp_path / "inputs.npz", case.inputs)
    arguments = ["run", "--peer", "deepmind", "--class", "Perceiver", "--backend", backend]
    for option, file in {"config": "config.json", "inputs": "inputs.npz", "output": "out.npz"}.items():
        arguments += [f"--{option}", tmp_path / file]
    finished = invoke(capsys, *arguments, "--weights", weights)
    assert (finished.code, finished.err) == (0, "")
    written = read_npz(tmp_path / "out.npz")["output/out"]
    assert difference(written, case.outputs["out"]) <= TOLERANCES["float64"]["output"]


def test_a_pickle_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pystate"
    path.write_bytes(pickle.dumps({"step": 3}))
    with pytest.raises(pr.InputError, match="expected a Haiku parameter tree"):
        pr.load("deepmind", path, "Perceiver", config={})
