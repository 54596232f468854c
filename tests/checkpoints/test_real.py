"""Files that the tools themselves wrote (`make_real`) load: the arrays of the rule, and what was chosen is told."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints.real import FLOAT8, IDEFICS2, PALM, REAL, RESAMPLER, values
from cli.command import invoke
from support import assert_close

import perceiver_ref as pr
from perceiver_ref.weights.checkpoints import CheckpointWarning, read_checkpoint, read_weights
from perceiver_ref.weights.formats.fit import same_bits
from perceiver_ref.weights.formats.npz import read_npz, write_npz
from perceiver_ref.weights.formats.read import read_arrays

FLAMINGO = "lucidrains-flamingo"
RESAMPLERS = {
    "accuracy_beside.pt": ["took the weights of 'state_dict'; it also holds best_acc1 (--key chooses)"],
    "training.pt": ["took the weights of 'model_state_dict'; it also holds loss, rng (--key chooses)"],
    "averaged.pt": ["left out of names: module. at the start, the wrapper's n_averaged"],
    "lightning.ckpt": [
        "took the weights of 'state_dict'; it also holds callbacks.EarlyStopping",
        "left out of names: model. at the start",
    ],
}


def assert_rule(arrays: dict[str, np.ndarray], prefix: str = "") -> None:
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, values(prefix + name, array.shape), err_msg=name)


@pytest.mark.parametrize("name", RESAMPLERS)
def test_training_checkpoints(name: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, params = pr.load(FLAMINGO, REAL / name, "PerceiverResampler", config=RESAMPLER)
    prefix = {"averaged.pt": "module.", "lightning.ckpt": "model."}.get(name, "")
    checkpoint = read_checkpoint(FLAMINGO, REAL / name, "PerceiverResampler", config=RESAMPLER)
    assert len(checkpoint.arrays) == 15
    # the averaged copy was made, and the other wrapped, of a module whose own names the rule is of
    assert_rule(checkpoint.arrays, "" if prefix else prefix)
    assert_close(params, checkpoint.rebuilt.load(checkpoint.arrays, "")[0], tolerance=0)
    assert {warning.category for warning in caught} == {CheckpointWarning}
    assert len(caught) == len(RESAMPLERS[name])
    for warning, text in zip(caught, RESAMPLERS[name]):
        assert text in str(warning.message)


def test_a_part_of_a_whole_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder of `save_pretrained`: its configuration is the whole model's, too."""
    checkpoint = read_checkpoint("idefics2", REAL / "idefics2")
    assert checkpoint.cls == "Idefics2PerceiverResampler"
    assert len(checkpoint.arrays) == 12
    assert_rule(checkpoint.arrays, "model.connector.perceiver_resampler.")
    part = IDEFICS2["perceiver_config"]
    assert checkpoint.arrays["latents"].shape == (part["resampler_n_latents"], part["hidden_size"])
    context, mask = np.ones((1, 3, 8), np.float32), np.ones((1, 3), np.int64)
    write_npz(tmp_path / "in.npz", {"context": context, "attention_mask": mask})
    common = ["run", "--peer", "idefics2", "--weights", REAL / "idefics2", "--inputs", tmp_path / "in.npz"]
    found = invoke(capsys, *common, "--output", tmp_path / "out.npz")
    assert found.code == 0, found.err
    assert "the configuration is of Idefics2ForConditionalGeneration; took its part" in found.err
    assert "took the 12 of 48 arrays below 'model.connector.perceiver_resampler.'" in found.err
    prefix = ["--class", "Idefics2PerceiverResampler", "--prefix", "model.connector.perceiver_resampler"]
    named = invoke(capsys, *common, "--output", tmp_path / "named.npz", *prefix)
    assert named.code == 0, named.err
    assert_close(read_npz(tmp_path / "named.npz"), read_npz(tmp_path / "out.npz"), tolerance=1e-6)


def test_shared_tensors_that_safetensors_dropped_come_back() -> None:
    checkpoint = read_checkpoint(FLAMINGO, REAL / "tied.safetensors", "FlamingoPaLM", config=PALM)
    arrays = read_weights(REAL / "tied.safetensors")
    assert arrays["token_emb.weight"] is arrays["to_logits.1.weight"]
    assert_rule(
        {name: array for name, array in checkpoint.arrays.items() if not name.endswith(("to_logits.1.weight", "beta"))}
    )
    checkpoint.rebuilt.load(checkpoint.arrays, "")


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_other_dtypes(ending: str) -> None:
    """float8 and quantized numbers are what torch makes of them; others are refused one by one."""
    found = read_arrays(REAL / f"dtypes{ending}").arrays
    known = read_npz(REAL / "dtypes.npz")
    readable = {name: array for name, array in found.items() if array.dtype.kind == "f"}
    assert set(readable) >= {kind for kind in FLOAT8 if ending == ".pt" or not kind.endswith("uz")}
    for name, array in readable.items():
        assert same_bits(array, known[name]), name
    others = {"complex64"} if ending == ".safetensors" else {"complex32", "complex64", "conjugate", "sparse"}
    assert set(found) - set(readable) == others
    with pytest.raises(pr.InputError, match=r"'complex64' cannot be read: it holds .*, which no parameter has"):
        read_weights(REAL / f"dtypes{ending}")


@pytest.mark.parametrize("name", ["haiku.pkl", "flax.pkl", "bfloat16.pkl", "bfloat16.npz"])
def test_arrays_of_jax(name: str) -> None:
    arrays = read_weights(REAL / name)
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    assert_rule(arrays)
    assert len(arrays) == (10 if name == "haiku.pkl" else 4)
    if name == "haiku.pkl":
        (note,) = read_arrays(REAL / name).notes
        assert note.endswith(
            "took the weights of 'params' and 'state'; it also holds 'opt_state', 'rng', 'step' (--key chooses)"
        )


@pytest.mark.parametrize(("kind", "name"), [
    (".npz", "accuracy_beside.pt"),
    (".safetensors", "accuracy_beside.pt"),
    (".ckpt", "tied.safetensors"),
    (".bin", "bfloat16.npz"),
    (".npz", "tied.safetensors"),
    (".safetensors", "bfloat16.npz"),
    (".safetensors", "bfloat16.pkl"),
    (".pt", "bfloat16.pkl"),
])  # fmt: skip
def test_one_format_under_anothers_name_is_read_and_said(tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / f"weights{kind}"
    shutil.copy(REAL / name, path)
    found, usual = read_arrays(path), read_arrays(REAL / name)
    assert list(found.arrays) == list(usual.arrays)
    assert all(same_bits(found.arrays[n], array) for n, array in usual.arrays.items())
    what = {".pt": "a file of torch.save", ".npz": "an .npz file", ".pkl": "a pickle"}
    said = what.get(Path(name).suffix, "a safetensors file")
    assert found.notes[0] == f"{path} is {said}, whatever its name says"


def test_an_older_format_of_pytorch_is_a_pickle_by_name(tmp_path: Path) -> None:
    shutil.copy(REAL / "accuracy_beside.pt", tmp_path / "weights.pkl")
    assert len(read_weights(tmp_path / "weights.pkl")) == 15
    assert not any("whatever" in note for note in read_arrays(tmp_path / "weights.pkl").notes)


def test_the_choice_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config: Any = tmp_path / "config.json"
    config.write_text(json.dumps(RESAMPLER))
    arguments = ["--peer", FLAMINGO, "--class", "PerceiverResampler", "--config", config]
    arguments += ["--weights", REAL / "training.pt", "--output", tmp_path / "own.npz", "--json", tmp_path / "r.json"]
    finished = invoke(capsys, "convert", *arguments)
    assert finished.code == 0, finished.err
    (note,) = json.loads((tmp_path / "r.json").read_text())["notes"]
    assert finished.err == f"perceiver-ref convert: note: {note}\n"
    assert "'model_state_dict'" in note
    refused = invoke(
        capsys, "convert", "--weights", tmp_path / "own.npz", "--output", tmp_path / "b.npz", "--prefix", "x"
    )
    refused.assert_refused("is our own checkpoint, of one class: no --key, --prefix or --allow-unused")
