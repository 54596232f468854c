"""What is no file of weights is named as what it is, by every reader."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
from pathlib import Path

import numpy as np
import pytest
from cli.command import CONFIG, invoke

from perceiver_ref import InputError
from perceiver_ref.weights.checkpoints import read_config, read_weights
from perceiver_ref.weights.formats.npz import read_npz
from perceiver_ref.weights.formats.read import READERS

LFS = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights"), io.BytesIO())
    return file.getvalue()


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones(3))
    return file.getvalue()


OTHERS: dict[str, tuple[bytes, str]] = {
    "a pointer": (LFS, "it is a Git LFS pointer in place of the file, which `git lfs pull` fetches"),
    "a page": (b"<!DOCTYPE html>\n<html><head><title>Sign in</title>", "it is an HTML page"),
    "a page after blanks": (b"\n\n  <html lang='en'>", "it is an HTML page"),
    "a page with a mark": (b"\xef\xbb\xbf<!doctype HTML>", "it is an HTML page"),
    "an error in XML": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "it is an XML document"),
    "an error in JSON": (b'{"error": "Repository not found"}', "it is JSON"),
    "a long JSON": (json.dumps({f"key {i}": i for i in range(200)}).encode(), "it is JSON"),
    "gzip": (gzip.compress(b"x"), "it is compressed by gzip; gunzip it first"),
    "bzip2": (bz2.compress(b"x"), "it is compressed by bzip2"),
    "xz": (lzma.compress(b"x"), "it is compressed by xz"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "it is an HDF5 file"),
    "nothing": (b"", "it is empty"),
}


@pytest.mark.parametrize("ending", READERS)
@pytest.mark.parametrize("what", OTHERS)
def test_no_file_of_weights(tmp_path: Path, what: str, ending: str) -> None:
    data, text = OTHERS[what]
    path = tmp_path / f"weights{ending}"
    path.write_bytes(data)
    with pytest.raises(InputError) as error:
        read_weights(path)
    assert f"{path} is not a readable " in str(error.value)
    assert text in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_a_tar_archive(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"weights{ending}"
    path.write_bytes(tar())
    with pytest.raises(InputError, match="it is a tar archive; unpack it first"):
        read_weights(path)


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".pkl"])
def test_a_single_array(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"weights{ending}"
    path.write_bytes(npy())
    with pytest.raises(InputError, match=r"it is a single NumPy array; numpy.savez writes arrays by name"):
        read_weights(path)


@pytest.mark.parametrize("what", ["a pointer", "a page", "gzip", "nothing"])
def test_configurations_shards_and_inputs_too(tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    data, text = OTHERS[what]
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(InputError) as error:
        read_config(tmp_path)
    assert text in str(error.value)
    (tmp_path / "inputs.npz").write_bytes(data)
    with pytest.raises(InputError) as error:
        read_npz(tmp_path / "inputs.npz")
    assert text in str(error.value)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model-1.safetensors").write_bytes(data)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "model-1.safetensors"}}))
    finished = invoke(capsys, "convert", "--peer", "hf", "--weights", tmp_path, "--output", tmp_path / "own.npz")
    finished.assert_refused("model-1.safetensors is not a readable safetensors file", text.split(";")[0])


def test_a_whole_file_that_is_damaged_is_not_called_by_its_own_name(tmp_path: Path) -> None:
    from files.torch_files import save

    path = tmp_path / "weights.pt"
    path.write_bytes(save({"x": np.ones(3)}, old=True)[:-3])
    with pytest.raises(InputError, match="has another size than its tensors say"):
        read_weights(path)


def test_another_format_that_cannot_be_read_is_named_too(tmp_path: Path) -> None:
    import pickle

    path = tmp_path / "weights.safetensors"
    path.write_bytes(pickle.dumps({"step": 3}))
    with pytest.raises(InputError, match=r"is no safetensors file but a pickle: expected a Haiku parameter tree"):
        read_weights(path)
