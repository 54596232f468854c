"""`load` reads Hugging Face directories, whole or in shards, and refuses what is incomplete or hostile."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.command import CONFIG, invoke, rebuilt, weights
from support import assert_close, on

import perceiver_ref as pr
from perceiver_ref.autograd import backend as backends
from perceiver_ref.autograd import tree
from perceiver_ref.weights.checkpoints import read_weights
from perceiver_ref.weights.formats.npz import read_npz, write_npz

safetensors = pytest.importorskip("safetensors.numpy", reason="needs the extra: perceiver-ref[safetensors]")
IDS = np.array([[1, 2, 3, 10]])


def single(folder: Path, dtype: Any = np.float32) -> Path:
    """A checkpoint in one file, in a new folder."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    safetensors.save_file(weights(CONFIG, dtype), folder / "model.safetensors")
    return folder


def sharded(folder: Path) -> Path:
    """The same in three shards with an index."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    arrays = weights(CONFIG, np.float32)
    index = {name: f"model-{i % 3 + 1:05}-of-00003.safetensors" for i, name in enumerate(arrays)}
    for shard in sorted(set(index.values())):
        part = {name: arrays[name] for name in arrays if index[name] == shard}
        safetensors.save_file(part, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def edit_index(folder: Path, change: Any) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


def expected(dtype: Any = np.float32) -> Any:
    model = rebuilt()
    return model.load(weights(CONFIG, dtype), "here")[0]


@pytest.mark.parametrize("layout", [single, sharded])
def test_a_checkpoint_gives_the_model_and_its_parameters(tmp_path: Path, layout: Any, backend: str) -> None:
    model, params = pr.load("hf", layout(tmp_path / "checkpoint"), backend=backend)
    assert model == rebuilt().model
    assert {backends.name(a) for _, a in tree.leaves(params)} == {backend}
    assert_close(params, expected(), tolerance=0)
    model.check(params)
    logits = model.apply(params, on(backend, IDS))
    assert logits.shape == (1, 7, 11)
    assert logits.dtype == np.float32


@pytest.mark.parametrize("stored", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("asked", [None, np.float32, np.float64])
def test_the_files_dtype_is_kept_unless_another_is_asked_for(tmp_path: Path, stored: Any, asked: Any) -> None:
    _, params = pr.load("hf", single(tmp_path / "checkpoint", stored), dtype=asked)
    assert {a.dtype for _, a in tree.leaves(params)} == {np.dtype(asked or stored)}
    assert_close(params, tree.map(lambda a: a.astype(asked or stored), expected(stored)), tolerance=0)


def test_the_class_can_be_named(tmp_path: Path) -> None:
    folder = single(tmp_path / "checkpoint")
    config = {key: value for key, value in CONFIG.items() if key != "architectures"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(pr.InputError, match="the configuration names no architecture"):
        pr.load("hf", folder)
    model, _ = pr.load("hf", folder, "PerceiverForMaskedLM")
    assert model == rebuilt().model


def test_run_takes_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sharded(tmp_path / "checkpoint")
    write_npz(tmp_path / "inputs.npz", {"inputs": IDS})
    arguments = ["--weights", folder, "--inputs", tmp_path / "inputs.npz", "--output", tmp_path / "out.npz"]
    assert invoke(capsys, "run", "--peer", "hf", *arguments).code == 0
    logits = read_npz(tmp_path / "out.npz")["output/logits"]
    # the same float32 computation, whose sums may be in another order
    assert_close(logits, rebuilt().model.apply(expected(), IDS), tolerance=1e-6)


def test_npz_and_safetensors_hold_the_same(tmp_path: Path) -> None:
    folder = single(tmp_path / "checkpoint")
    arrays = weights(CONFIG, np.float32)
    write_npz(tmp_path / "bare.npz", arrays)
    write_npz(tmp_path / "case.npz", {**{f"param/{n}": a for n, a in arrays.items()}, "output/x": np.zeros(1)})
    for path in (folder, folder / "model.safetensors", tmp_path / "bare.npz", tmp_path / "case.npz"):
        assert_close(dict(sorted(read_weights(path).items())), dict(sorted(arrays.items())), tolerance=0)


def refused(folder: Path, *texts: str) -> None:
    with pytest.raises(pr.InputError) as raised:
        pr.load("hf", folder)
    for text in texts:
        assert text in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", "config.json does not exist; expected a configuration in JSON"),
        ("model.safetensors", "holds neither model.safetensors nor model.safetensors.index.json"),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    folder = single(tmp_path / "checkpoint")
    (folder / name).unlink()
    refused(folder, text)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "absent", "absent")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "checkpoint")
    (folder / "model-00002-of-00003.safetensors").unlink()
    refused(folder, "model-00002-of-00003.safetensors does not exist")


def test_a_parameter_that_no_shard_holds_is_named(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "checkpoint")
    shard = folder / "model-00001-of-00003.safetensors"
    safetensors.save_file({}, shard)
    refused(folder, "missing: ")


HOSTILE = {
    "a parent": "../secret.safetensors",
    "deeper": "sub/secret.safetensors",
    "absolute": "/secret.safetensors",
    "a number": 3,
    "nothing": None,
    "a list": ["model-00001-of-00003.safetensors"],
    "the folder": ".",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_an_index_may_only_name_files_beside_it(tmp_path: Path, what: str) -> None:
    folder = sharded(tmp_path / "checkpoint")
    safetensors.save_file(weights(CONFIG, np.float32), tmp_path / "secret.safetensors")
    edit_index(folder, lambda index: index["weight_map"].update({"perceiver.embeddings.latents": HOSTILE[what]}))
    refused(folder, "weight_map must map names to files of the same directory")


@pytest.mark.parametrize("name", ["", ".."])
def test_an_index_that_names_a_directory_is_refused(tmp_path: Path, name: str) -> None:
    folder = sharded(tmp_path / "checkpoint")
    edit_index(folder, lambda index: index["weight_map"].update({"perceiver.embeddings.latents": name}))
    refused(folder, "is a directory; expected a .safetensors file")


@pytest.mark.parametrize("weight_map", [None, [], 3, "model.safetensors"])
def test_an_index_without_a_map_is_refused(tmp_path: Path, weight_map: Any) -> None:
    folder = sharded(tmp_path / "checkpoint")
    edit_index(folder, lambda index: index.update(weight_map=weight_map))
    refused(folder, "weight_map must map names to files of the same directory")


@pytest.mark.parametrize("keep", [0, 7, 8, 100, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    folder = single(tmp_path / "checkpoint")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(folder, "model.safetensors is not a readable safetensors file")


def test_nan_and_unknown_parameters_are_named(tmp_path: Path) -> None:
    folder = single(tmp_path / "checkpoint")
    arrays = weights(CONFIG, np.float32)
    arrays["perceiver.embeddings.latents"][0, 0] = np.nan
    safetensors.save_file(arrays, folder / "model.safetensors")
    refused(folder, "parameter 'perceiver.embeddings.latents' holds a NaN")
    safetensors.save_file({**weights(CONFIG, np.float32), "lm_head.weight": np.ones(3)}, folder / "model.safetensors")
    refused(folder, "unused: lm_head.weight")


def test_safetensors_are_read_without_the_package_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = single(tmp_path / "checkpoint")
    monkeypatch.setitem(sys.modules, "safetensors", None)  # importing it now fails
    assert_close(pr.load("hf", folder)[1], expected(), tolerance=0)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    refused(folder, "model.safetensors is not a readable safetensors file")


@pytest.mark.parametrize("name", ["weights.h5", "weights", "weights.json"])
def test_other_kinds_of_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x02")
    with pytest.raises(pr.InputError, match=r"known endings are .npz, .safetensors, .pt, .pth, .bin, .ckpt, .pickle"):
        read_weights(tmp_path / name)


def test_the_configuration_beside_a_file_is_found(tmp_path: Path) -> None:
    folder = single(tmp_path / "checkpoint")
    assert_close(pr.load("hf", folder / "model.safetensors")[1], expected(), tolerance=0)
    (folder / "config.json").unlink()
    with pytest.raises(pr.InputError, match=r"has no config.json beside it; give the configuration"):
        pr.load("hf", folder / "model.safetensors")
