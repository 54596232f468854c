"""`perceiver-ref export`: what it writes, that `check` passes it, and one clear line for bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli.command import CONFIG, invoke, weights

from perceiver_ref.porting.cases import read_case
from perceiver_ref.porting.export import write as writing
from perceiver_ref.weights.formats.npz import write_npz

LANGUAGE = "perceiver-io/language"


def case(folder: Path, row: str = "plain", model: str = LANGUAGE):
    return read_case(folder / model / f"{row}.npz")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    return path


def test_a_preset_exports_small_and_passes_check(capsys, tmp_path: Path) -> None:
    out = tmp_path / "vectors"
    done = invoke(capsys, "export", LANGUAGE, "--out", out, "--json", tmp_path / "made.json")
    assert (done.code, done.err) == (0, "")
    assert "smaller than published (--full is not): encoder.inputs 768 -> 9;" in done.out
    made = json.loads((tmp_path / "made.json").read_text())["cases"]
    assert f"{LANGUAGE}/masked-row" in made
    assert [row["id"] for row in json.loads((out / "index.json").read_text())["cases"]] == made
    checked = invoke(capsys, "check", out)
    assert checked.code == 0
    assert f"{len(made)} passed, 0 failed" in checked.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.json", "vectors"]


def test_a_peers_configuration_exports_under_its_names_and_passes_through_it(capsys, tmp_path: Path, config) -> None:
    out = tmp_path / "vectors"
    assert invoke(capsys, "export", config, "--peer", "hf", "--out", out, "--cases", "plain,padding").code == 0
    found = case(out, "padding", "hf/PerceiverForMaskedLM")
    assert found.meta["peer"] == "hf"
    assert set(found.params) == set(weights())
    assert {name: a.shape for name, a in found.params.items()} == {name: a.shape for name, a in weights().items()}
    assert any(name.startswith("perceiver.encoder.self_attends.0") for name in found.trace)
    assert invoke(capsys, "check", out).code == 0


def test_given_weights_are_used(capsys, tmp_path: Path, config) -> None:
    write_npz(tmp_path / "weights.npz", weights())
    options = ("--peer", "hf", "--weights", tmp_path / "weights.npz", "--cases", "plain")
    assert invoke(capsys, "export", config, *options, "--out", tmp_path / "vectors").code == 0
    found = case(tmp_path / "vectors", model="hf/PerceiverForMaskedLM")
    for name, array in weights().items():
        np.testing.assert_array_equal(found.params[name], array)


def test_given_inputs_are_used(capsys, tmp_path: Path, config) -> None:
    ids = np.array([[1, 2, 3, 10], [0, 5, 5, 4]])
    write_npz(tmp_path / "inputs.npz", {"inputs": ids})
    options = ("--peer", "hf", "--inputs", tmp_path / "inputs.npz", "--cases", "plain")
    assert invoke(capsys, "export", config, *options, "--out", tmp_path / "vectors").code == 0
    np.testing.assert_array_equal(case(tmp_path / "vectors", model="hf/PerceiverForMaskedLM").inputs["inputs"], ids)
    assert invoke(capsys, "check", tmp_path / "vectors").code == 0


def test_our_own_configuration_is_one_too(capsys, tmp_path: Path) -> None:
    assert invoke(capsys, "export", LANGUAGE, "--out", tmp_path / "a", "--cases", "plain").code == 0
    (tmp_path / "model.json").write_text(json.dumps(case(tmp_path / "a").meta["config"]))
    assert invoke(capsys, "export", tmp_path / "model.json", "--out", tmp_path / "b", "--cases", "plain").code == 0
    again = case(tmp_path / "b", model="PerceiverIO")
    np.testing.assert_array_equal(again.outputs["out"], case(tmp_path / "a").outputs["out"])


def test_options_change_what_they_say(capsys, tmp_path: Path) -> None:
    options = ("--cases", "plain", "--batch", "3", "--inputs", "5", "--seed", "7", "--dtype", "float32")
    options = (*options, "--no-gradients", "--no-trace", "--sizes", "latents=4", "--dialect", "hf", "--safetensors")
    assert invoke(capsys, "export", LANGUAGE, "--out", tmp_path / "vectors", *options).code == 0
    found = case(tmp_path / "vectors")
    assert found.inputs["inputs"].shape == (3, 5)
    assert found.params["encoder/latents"].shape == (4, 15)
    assert found.outputs["out"].dtype == np.float32
    assert (found.trace, found.grad_params, found.meta["seed"]) == ({}, {}, 7)
    assert found.meta["config"]["encoder"]["conventions"]["activation"] == "gelu_erf"
    assert (tmp_path / "vectors" / LANGUAGE / "plain.safetensors").exists()


def test_full_is_the_published_size_and_one_case(capsys, tmp_path: Path) -> None:
    done = invoke(capsys, "export", "perceiver-io/starcraft", "--full", "--out", tmp_path / "vectors")
    assert done.code == 0
    assert "2,020,992 parameters" in done.out
    assert "smaller" not in done.out
    found = case(tmp_path / "vectors", model="perceiver-io/starcraft")
    assert found.inputs["inputs"].shape == (2, 512, 256)
    assert not found.trace


def test_an_earlier_export_is_replaced_with_force_and_other_files_stay(capsys, tmp_path: Path) -> None:
    out = tmp_path / "vectors"
    assert invoke(capsys, "export", LANGUAGE, "--out", out, "--cases", "plain,padding").code == 0
    (out / "notes.txt").write_text("mine")
    invoke(capsys, "export", LANGUAGE, "--out", out).assert_refused("is not empty", "--force")
    assert invoke(capsys, "export", LANGUAGE, "--out", out, "--cases", "single", "--force").code == 0
    names = sorted(path.name for path in out.rglob("*") if path.is_file())
    assert names == ["index.json", "notes.txt", "single.npz"]


def test_force_replaces_nothing_that_is_no_export(capsys, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    done = invoke(capsys, "export", LANGUAGE, "--out", tmp_path / "mine", "--force")
    done.assert_refused("holds no index.json")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_an_index_cannot_have_files_elsewhere_deleted(capsys, tmp_path: Path) -> None:
    out, outside = tmp_path / "vectors", tmp_path / "outside.npz"
    outside.write_text("mine")
    out.mkdir()
    rows = [{"file": "../outside.npz"}, {"file": str(outside)}, {"file": 3}, 4]
    (out / "index.json").write_text(json.dumps({"cases": rows}))
    assert invoke(capsys, "export", LANGUAGE, "--out", out, "--cases", "plain", "--force").code == 0
    assert outside.read_text() == "mine"


def test_nothing_is_left_when_a_case_fails(capsys, tmp_path: Path, monkeypatch) -> None:
    calls = []

    def failing(path, case, *, with_list):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "write_case", failing)
    done = invoke(capsys, "export", LANGUAGE, "--out", tmp_path / "vectors")
    done.assert_refused("No space left on device")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give a PRESET or CONFIG with --out DIR, or --pack DIR alone"),
        ((LANGUAGE,), "say where to write"),
        ((LANGUAGE, "--pack", "{}/x"), "give a PRESET or CONFIG with --out DIR, or --pack DIR alone"),
        (("--pack", "{}/x", "--batch", "3"), "--pack has its own models and sizes"),
        (("perceiver-io/languag", "--out", "{}/x"), "did you mean 'perceiver-io/language'"),
        ((LANGUAGE, "--out", "{}/x", "--sizes", "latent=3"), "unknown size 'latent'; did you mean 'latents'"),
        ((LANGUAGE, "--out", "{}/x", "--sizes", "latents=0"), "latents must be a whole number above 0"),
        ((LANGUAGE, "--out", "{}/x", "--sizes", "channels=10"), "divisible by heads"),
        ((LANGUAGE, "--out", "{}/x", "--cases", "padded"), "did you mean 'padding'"),
        ((LANGUAGE, "--out", "{}/x", "--cases", "non-square"), "has no case 'non-square'; it has plain"),
        ((LANGUAGE, "--out", "{}/x", "--inputs", "300"), "300 positions"),
        ((LANGUAGE, "--out", "{}/x", "--inputs", "{}/none.npz"), "does not exist"),
        ((LANGUAGE, "--out", "{}/x/y"), "does not exist; create it first"),
        ((LANGUAGE, "--out", "{}/config.json"), "is a file"),
        ((LANGUAGE, "--out", "{}/x", "--batch", "0"), "--batch must be at least 1"),
        ((LANGUAGE, "--out", "{}/x", "--peer", "hf"), "is a preset"),
        (("{}/config.json", "--out", "{}/x"), "such as --peer hf"),
        (("{}/config.json", "--out", "{}/x", "--peer", "hf", "--full"), "--full goes with a preset"),
        (("{}/config.json", "--out", "{}/x", "--peer", "torch", "--class", "linear"), "as an .npz file"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(capsys, tmp_path: Path, config, arguments, message: str) -> None:
    invoke(capsys, "export", *(a.format(tmp_path) for a in arguments)).assert_refused(message)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
