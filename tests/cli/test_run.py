"""`perceiver-ref run` writes what the model itself computes, under the names of the vector format."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.command import CONFIG, IMAGE_CONFIG, by_their_names, invoke, prepare, rebuilt, weights
from support import difference, host, normal, on

from perceiver_ref import trace
from perceiver_ref.autograd import backend as backends
from perceiver_ref.autograd import ops, tree, value_and_grad
from perceiver_ref.porting.cases import Case, write_case
from perceiver_ref.weights.formats.npz import read_npz, write_npz

IDS = np.array([[1, 2, 3, 10], [0, 5, 5, 4]])
COTANGENT = normal(9, 2, 7, 11)
SAME = 1e-14
"""The same code on the same machine: only the order of threads in sums may differ."""


def params() -> Any:
    model = rebuilt()
    return model.load(weights(), "here")[0]


def test_outputs_gradients_and_traces_are_those_of_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], backend: str
) -> None:
    files = prepare(tmp_path, inputs=IDS, **{"cotangent/logits": COTANGENT})
    finished = invoke(capsys, *files.arguments, "--trace", "--grad", "--backend", backend)
    assert (finished.code, finished.err) == (0, "")
    written = read_npz(tmp_path / "out.npz")

    model = rebuilt()
    p, ids, cotangent = on(backend, [params(), IDS, COTANGENT])
    with trace() as traced:
        logits = model.model.apply(p, ids)
    _, gradients = value_and_grad(lambda p: ops.sum(ops.multiply(model.model.apply(p, ids), cotangent)))(p)
    expected = {
        "output/logits": logits,
        "output/last_hidden_state": traced["encoder"],
        "cotangent/logits": cotangent,
        **{f"trace/{name}": value for name, value in traced.items()},
        **{f"grad_param/{name}": g for name, g in by_their_names(model, host(gradients)).items()},
    }
    assert sorted(written) == sorted(expected)
    errors = {name: difference(written[name], value) for name, value in expected.items()}
    assert max(errors.values()) <= SAME * 1e3 if backend == "cupy" else max(errors.values()) <= SAME
    assert re.search(r"output/logits +\[2, 7, 11\]", finished.out)
    assert "float64" in finished.out


def test_images_and_their_gradient(tmp_path: Path, capsys: pytest.CaptureFixture[str], backend: str) -> None:
    images, cotangent = normal(1, 2, 3, 5, 4), normal(2, 2, 4)
    files = prepare(tmp_path, IMAGE_CONFIG, pixel_values=images, **{"cotangent/logits": cotangent})
    assert invoke(capsys, *files.arguments, "--grad", "--backend", backend).code == 0
    written = read_npz(tmp_path / "out.npz")
    model = rebuilt(IMAGE_CONFIG)
    p = model.load(weights(IMAGE_CONFIG), "here")[0]
    p, channels_last, cotangent = on(backend, [p, np.ascontiguousarray(images.transpose(0, 2, 3, 1)), cotangent])
    loss = value_and_grad(lambda x: ops.sum(ops.multiply(model.model.apply(p, x), cotangent)))
    _, gradient = loss(channels_last)
    # rounding of float64 sums over a hundred terms in another layout
    assert difference(written["output/logits"], model.model.apply(p, channels_last)) < 1e-12
    assert difference(written["grad_input/pixel_values"], gradient.transpose(0, 3, 1, 2)) < 1e-12


def test_without_options_only_outputs_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = prepare(tmp_path)
    assert invoke(capsys, *files.arguments).code == 0
    assert sorted(read_npz(tmp_path / "out.npz")) == ["output/last_hidden_state", "output/logits"]
    assert files.listing() == ["config.json", "inputs.npz", "out.npz", "weights.npz"]


@pytest.mark.parametrize(("stored", "asked", "computed"), [
    ("float32", None, "float32"),
    ("float64", None, "float64"),
    ("float32", "float64", "float64"),
    ("float64", "float32", "float32"),
    ("float16", "float32", "float32"),
])  # fmt: skip
def test_precision_is_the_weights_unless_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stored: str, asked: str | None, computed: str
) -> None:
    files = prepare(tmp_path, dtype=stored)
    finished = invoke(capsys, *files.arguments, *(["--dtype", asked] if asked else []), "--json", tmp_path / "r.json")
    assert finished.code == 0
    logits = read_npz(tmp_path / "out.npz")["output/logits"]
    assert logits.dtype == computed
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["dtype"] == computed
    assert report["shapes"]["logits"] == [2, 7, 11]
    assert report["output"] == str(tmp_path / "out.npz")
    exact = on("numpy", rebuilt().model.apply(params(), IDS))
    # float16 weights are rounded by 5e-4, float32 by 6e-8, and some ten layers add up
    assert difference(logits, exact) < {"float16": 3e-2, "float32": 1e-5, "float64": 1e-5}[stored]
    if "float32" not in (stored, asked) and stored != "float16":
        assert difference(logits, exact) <= SAME


def test_a_case_of_the_vector_format_can_be_the_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = prepare(tmp_path)
    assert invoke(capsys, *files.arguments).code == 0
    before = read_npz(tmp_path / "out.npz")
    meta = {"peer": "hf", "class": "PerceiverForMaskedLM", "config": CONFIG, "dtype": "float64"}
    logits = {"logits": np.zeros((2, 7, 11))}
    case = Case(meta, params=weights(), inputs={"inputs": IDS}, outputs=logits, cotangents=logits)
    write_case(tmp_path / "case.npz", case)
    arguments = files.replace("--inputs", tmp_path / "case.npz")
    arguments[arguments.index("--weights") + 1] = tmp_path / "case.npz"
    assert invoke(capsys, *arguments, "--grad").code == 0
    after = read_npz(tmp_path / "out.npz")
    assert difference(after["output/logits"], before["output/logits"]) <= SAME
    assert (after["grad_param/perceiver.embeddings.latents"] == 0).all()  # the cotangent is zero


def test_a_mask_reaches_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = np.array([[1, 1, 1, 0], [1, 0, 1, 1]])
    files = prepare(tmp_path, input_ids=IDS, attention_mask=mask)
    assert invoke(capsys, *files.arguments).code == 0
    masked = rebuilt().model.apply(params(), IDS, mask=mask == 1)
    assert difference(read_npz(tmp_path / "out.npz")["output/logits"], masked) <= SAME
    assert difference(masked, rebuilt().model.apply(params(), IDS)) > 1e-6


def test_the_output_replaces_an_older_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = prepare(tmp_path)
    write_npz(tmp_path / "out.npz", {"old": np.zeros(1)})
    assert invoke(capsys, *files.arguments).code == 0
    assert "old" not in read_npz(tmp_path / "out.npz")


def test_random_parameters_name_every_weight() -> None:
    """The files of these tests are whole: every leaf of the model has a name of transformers'."""
    assert len(weights()) == len(tree.flatten(rebuilt().model.parameters()))
    assert backends.name(next(iter(weights().values()))) == "numpy"
