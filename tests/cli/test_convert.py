"""`perceiver-ref convert`: to our own checkpoint and back, exactly, from and to every format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.command import CONFIG, Files, execute, invoke, prepare, weights
from files.torch_files import save

import perceiver_ref as pr
from perceiver_ref.weights.checkpoints import read_weights
from perceiver_ref.weights.formats.fit import same_bits
from perceiver_ref.weights.formats.npz import read_npz, write_npz
from perceiver_ref.weights.formats.safetensors_file import write_safetensors

NAME = "perceiver.input_preprocessor.embeddings.weight"


def convert(files: Files, weights: str, output: str, *more: object) -> list[object]:
    return ["convert", "--weights", files.folder / weights, "--output", files.folder / output, *more]


def assert_same_bits(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert sorted(found) == sorted(expected)
    assert not [name for name, array in expected.items() if not same_bits(found[name], array)]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("back", [".npz", ".safetensors"])
def test_there_and_back_is_exact(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], back: str, dtype: Any, backend: str
) -> None:
    files = prepare(tmp_path, dtype=dtype)
    arrays = weights(CONFIG, dtype)
    finished = invoke(capsys, *convert(files, "weights.npz", "own.npz", "--peer", "hf"))
    assert (finished.code, finished.err) == (0, "")
    assert f"own.npz: PerceiverForMaskedLM, {sum(a.size for a in arrays.values()):,} parameters in" in finished.out
    assert "by our names" in finished.out
    finished = invoke(capsys, *convert(files, "own.npz", f"back{back}", "--to-peer"))
    assert (finished.code, finished.err) == (0, "")
    assert "by names of hf" in finished.out
    assert_same_bits(read_weights(tmp_path / f"back{back}"), arrays)


def test_aliases_and_counters_come_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = prepare(tmp_path)
    arrays = weights()
    arrays = {**arrays, "embedding_decoder.weight": arrays[NAME].copy(), "norm.num_batches_tracked": np.array(7)}
    write_npz(tmp_path / "weights.npz", arrays)
    finished = invoke(capsys, *convert(files, "weights.npz", "own.npz", "--peer", "hf", "--json", tmp_path / "r.json"))
    note = f"{tmp_path / 'weights.npz'}: embedding_decoder.weight is tied to {NAME}, whose values it has"
    assert (finished.code, finished.err) == (0, f"perceiver-ref convert: note: {note}\n")
    report = json.loads((tmp_path / "r.json").read_text())
    assert report == {
        "version": 1,
        "output": str(tmp_path / "own.npz"),
        "peer": "hf",
        "class": "PerceiverForMaskedLM",
        "arrays": len(arrays) - 1,  # one of the tied two is enough
        "parameters": sum(a.size for a in weights().values()),
        "notes": [note],
    }
    assert invoke(capsys, *convert(files, "own.npz", "back.safetensors", "--to-peer")).code == 0
    assert_same_bits(read_weights(tmp_path / "back.safetensors"), arrays)


def test_a_peers_file_in_another_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--to-peer takes a peer's own file, too: its names, without prefixes."""
    files = prepare(tmp_path)
    wrapped = {f"module.{name}": array for name, array in weights(CONFIG, np.float32).items()}
    (tmp_path / "model.ckpt").write_bytes(save(wrapped, lambda d: {"state_dict": d, "epoch": 1}))
    finished = invoke(capsys, *convert(files, "model.ckpt", "model.safetensors", "--peer", "hf", "--to-peer"))
    assert finished.code == 0
    assert "note: " in finished.err
    assert_same_bits(read_weights(tmp_path / "model.safetensors"), weights(CONFIG, np.float32))
    assert_same_bits(read_weights(tmp_path), weights(CONFIG, np.float32))  # a directory that transformers reads


def test_precision_can_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = prepare(tmp_path)
    arguments = convert(files, "weights.npz", "own.npz", "--peer", "hf", "--dtype", "float16")
    assert invoke(capsys, *arguments).code == 0
    written = read_npz(tmp_path / "own.npz")
    assert {a.dtype for name, a in written.items() if name.startswith("param/")} == {np.dtype(np.float16)}
    assert json.loads(str(written["meta"]))["dtype"] == "float16"
    expected = {name: array.astype(np.float16) for name, array in weights().items()}
    assert invoke(capsys, *convert(files, "own.npz", "back.npz", "--to-peer")).code == 0
    assert_same_bits(read_npz(tmp_path / "back.npz"), expected)


def test_run_takes_our_checkpoint_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = prepare(tmp_path)
    assert invoke(capsys, *files.arguments).code == 0
    before = read_npz(tmp_path / "out.npz")
    assert invoke(capsys, *convert(files, "weights.npz", "own.npz", "--peer", "hf")).code == 0
    (tmp_path / "config.json").unlink()
    arguments = ["run", "--weights", tmp_path / "own.npz", "--inputs", tmp_path / "inputs.npz"]
    finished = invoke(capsys, *arguments, "--output", tmp_path / "out.npz")
    assert (finished.code, finished.err) == (0, "")
    after = read_npz(tmp_path / "out.npz")
    assert {name: same_bits(after[name], array) for name, array in before.items()} == dict.fromkeys(before, True)


def test_a_class_that_takes_sizes_from_its_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = pr.vectors.read_case(Path(__file__).parents[1] / "vectors" / "deepmind" / "attention_qk_v.npz")
    write_npz(tmp_path / "weights.npz", case.params)
    pr.vectors.write_case(tmp_path / "case.npz", case)
    (tmp_path / "config.json").write_text(json.dumps(case.meta["config"]))
    arguments = convert(Files(tmp_path), "weights.npz", "own.npz", "--peer", "deepmind", "--class", case.meta["class"])
    invoke(capsys, *arguments).assert_refused("the argument inputs_q is missing")
    assert invoke(capsys, *arguments, "--inputs", tmp_path / "case.npz").code == 0
    assert invoke(capsys, *convert(Files(tmp_path), "own.npz", "back.npz", "--to-peer")).code == 0
    assert_same_bits(read_npz(tmp_path / "back.npz"), case.params)
    assert pr.load("deepmind", tmp_path / "own.npz")[0].count() == sum(a.size for a in case.params.values())


def test_the_file_is_the_same_every_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = prepare(tmp_path)
    for name in ("one.npz", "two.npz"):
        assert invoke(capsys, *convert(files, "weights.npz", name, "--peer", "hf")).code == 0
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_transformers_metadata_are_there(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors", reason="needs the extra: perceiver-ref[safetensors]")
    arrays = {**weights(CONFIG, np.float16), "count": np.array(3), "flags": np.array([True]), "empty": np.zeros((0, 2))}
    write_safetensors(tmp_path / "x.safetensors", arrays)
    with safetensors.safe_open(tmp_path / "x.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}
        assert_same_bits({name: file.get_tensor(name) for name in file.keys()}, arrays)  # noqa: SIM118 - not a dict


REFUSED = {
    "an output of our own that is no .npz": (
        ("weights.npz", "own.safetensors", "--peer", "hf"),
        "the output must end in .npz; our own checkpoint is an .npz, see --to-peer",
    ),
    "an output of another kind": (("weights.npz", "x.pt", "--to-peer"), "the output must end in .npz or .safetensors"),
    "no peer": (("weights.npz", "own.npz"), "does not say which implementation it comes from; name it (--peer)"),
    "no weights": (("absent.npz", "own.npz", "--peer", "hf"), "absent.npz does not exist"),
    "no folder": (("weights.npz", "absent/own.npz", "--peer", "hf"), "absent does not exist; create it first"),
    "an unknown peer": (("weights.npz", "own.npz", "--peer", "hff"), "did you mean 'hf'?"),
    "an unknown class": (("weights.npz", "own.npz", "--peer", "hf", "--class", "X"), "unknown class of peer hf 'X'"),
    "an array too many": (("more.npz", "own.npz", "--peer", "hf"), "unused: more"),
    "an array too many, to the peer": (("more.npz", "own.npz", "--peer", "hf", "--to-peer"), "unused: more"),
    "an option too many": (("weights.npz", "own.npz", "--peer", "hf", "--grad"), "unrecognized arguments: --grad"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_one_line_and_writes_nothing(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = prepare(tmp_path)
    write_npz(tmp_path / "more.npz", {**weights(), "more": np.arange(3.0)})
    before = files.listing()
    arguments, text = REFUSED[what]
    invoke(capsys, *convert(files, *arguments)).assert_refused(text)
    assert files.listing() == before


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    files = prepare(tmp_path)
    wrapped = {f"module.{name}": array for name, array in weights().items()}
    (tmp_path / "model.pt").write_bytes(save(wrapped))
    finished = execute(*convert(files, "model.pt", "own.npz", "--peer", "hf"))
    assert finished.code == 0
    assert len(finished.err.splitlines()) == 1  # the note, and no warning
    assert pr.load(None, tmp_path / "own.npz")[0] == pr.load("hf", tmp_path / "own.npz")[0]
