"""Bad input: exit code 2, one line that says what is wrong, no traceback, and no file half-written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli.command import CONFIG, IMAGE_CONFIG, Files, execute, invoke, prepare, weights
from porting.cases import case_of, path_of

from perceiver_ref.autograd import BackendError
from perceiver_ref.autograd import backend as backends
from perceiver_ref.cli import main
from perceiver_ref.porting.cases import write_case
from perceiver_ref.weights.formats.npz import write_npz

Change = Callable[[Files], None]
BEFORE = ["config.json", "inputs.npz", "weights.npz"]


def removed(name: str) -> Change:
    return lambda files: (files.folder / name).unlink()


def directory(name: str) -> Change:
    def change(files: Files) -> None:
        (files.folder / name).unlink()
        (files.folder / name).mkdir()

    return change


def truncated(name: str) -> Change:
    def change(files: Files) -> None:
        content = (files.folder / name).read_bytes()
        (files.folder / name).write_bytes(content[: len(content) // 2])

    return change


def corrupted(name: str) -> Change:
    """One flipped bit in the data of the first array, which its checksum covers."""

    def change(files: Files) -> None:
        content = bytearray((files.folder / name).read_bytes())
        content[200] ^= 1
        (files.folder / name).write_bytes(content)

    return change


def objects(name: str) -> Change:
    return lambda files: np.savez(files.folder / name, x=np.array([{}, None]))


def weight(name: str, change: Callable[[np.ndarray], np.ndarray | None]) -> Change:
    def spoil(files: Files) -> None:
        arrays = weights()
        new = change(arrays.pop(name))
        write_npz(files.folder / "weights.npz", arrays if new is None else {**arrays, name: new})

    return spoil


def with_nan(array: np.ndarray) -> np.ndarray:
    array.flat[3] = np.nan
    return array


def config(**changes: object) -> Change:
    return lambda files: (files.folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))


def inputs(**arrays: np.ndarray) -> Change:
    return lambda files: write_npz(files.folder / "inputs.npz", arrays)


TOKENS = np.array([[1, 2, 3]])
LATENTS = "perceiver.embeddings.latents"
FAULTS: dict[str, tuple[Change, str]] = {
    "weights missing": (removed("weights.npz"), "weights.npz does not exist"),
    "weights a directory without a checkpoint": (directory("weights.npz"), "holds neither model.safetensors nor"),
    "weights truncated": (truncated("weights.npz"), "weights.npz is not a readable .npz file"),
    "weights corrupted": (corrupted("weights.npz"), "weights.npz is not a readable .npz file"),
    "weights objects": (objects("weights.npz"), "weights.npz: 'x' is an object array"),
    "weights integers": (weight(LATENTS, lambda a: a.astype(int)), f"{LATENTS} has dtype int64"),
    "weights NaN": (weight(LATENTS, with_nan), f"parameter '{LATENTS}' holds a NaN"),
    "weights transposed": (weight(LATENTS, np.transpose), f"{LATENTS} has shape (8, 3), expected (3, 8)"),
    "weights incomplete": (weight(LATENTS, lambda a: None), f"missing: {LATENTS}"),
    "weights empty": (lambda files: write_npz(files.folder / "weights.npz", {}), "missing: "),
    "weights mixed": (weight(LATENTS, lambda a: a.astype(np.float32)), "the weights mix float32, float64"),
    "config missing": (removed("config.json"), "config.json does not exist"),
    "config a directory": (directory("config.json"), "config.json does not exist; expected a configuration"),
    "config no JSON": (truncated("config.json"), "config.json is not JSON"),
    "class unknown": (config(architectures=["PerceiverForMaskedLn"]), "did you mean 'PerceiverForMaskedLM'?"),
    "class not named": (config(architectures=None), "the configuration names no architecture"),
    "option unknown": (config(d_latent=8), "'d_latent'; did you mean 'd_latents'?"),
    "option of another type": (
        config(num_latents="3"),
        "option 'num_latents' of PerceiverConfig must be a",
    ),
    "option impossible": (config(num_self_attention_heads=3), "must be divisible by the number of heads (3)"),
    "inputs missing": (removed("inputs.npz"), "inputs.npz does not exist"),
    "inputs a directory": (directory("inputs.npz"), "inputs.npz is a directory"),
    "inputs truncated": (truncated("inputs.npz"), "inputs.npz is not a readable .npz file"),
    "inputs corrupted": (corrupted("inputs.npz"), "inputs.npz is not a readable .npz file"),
    "inputs objects": (objects("inputs.npz"), "inputs.npz: 'x' is an object array"),
    "argument missing": (inputs(attention_mask=np.ones((1, 3))), "give exactly one of the arguments"),
    "argument unknown": (inputs(input=TOKENS), "unknown argument of forward 'input'; did you mean 'inputs'?"),
    "arguments none": (inputs(x=TOKENS), "unknown argument of forward 'x'"),
    "tokens out of range": (inputs(inputs=TOKENS + 9), "token ids must be in [0, 11), got 10 to 12"),
    "tokens negative": (inputs(inputs=TOKENS - 2), "token ids must be in [0, 11), got -1 to 1"),
    "tokens of floats": (inputs(inputs=TOKENS * 1.0), "token ids must be integers"),
    "tokens of rank 1": (inputs(inputs=TOKENS[0]), "integers of shape (batch, length), got int64 of (3,)"),
    "tokens too many": (inputs(inputs=np.zeros((1, 8), int)), "the input has 8 positions"),
    "mask of another length": (
        inputs(inputs=TOKENS, attention_mask=np.ones((1, 4))),
        "must be bool of shape (1, 3)",
    ),
    "mask of rank 3": (inputs(inputs=TOKENS, attention_mask=np.ones((1, 1, 3))), "attention_mask must be"),
    "added mask too short": (inputs(inputs=TOKENS, attention_mask=np.zeros((1, 1, 3, 2))), "(1, 1, 3, 2)"),
    "text": (inputs(inputs=np.array(["a"])), "token ids must be integers"),
    "labels of another shape": (inputs(inputs=TOKENS, labels=np.zeros((1, 2), int)), "labels must be (1, 7)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_run_refuses(fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, text = FAULTS[fault]
    files = prepare(tmp_path)
    change(files)
    invoke(capsys, *files.arguments).assert_refused(text)
    assert "out.npz" not in files.listing()
    assert set(files.listing()) <= set(BEFORE)  # no temporary file either


IMAGES = {
    "rank 3": (
        np.zeros((3, 4, 4)),
        "images must be (batch, channels, height, width) or (batch, time, channels, height, width), got (3, 4, 4)",
    ),
    "rank 5": (np.zeros((1, 1, 3, 4, 4)), "positions have 3 axes, but max_resolution (224, 224) has 2"),
    "channels last": (np.zeros((1, 4, 4, 3)), "images must be floating point of shape (batch, height, width, 3)"),
    "bytes": (np.zeros((1, 3, 4, 4), np.uint8), "got uint8 of (1, 4, 4, 3)"),
}


@pytest.mark.parametrize("what", IMAGES)
def test_run_refuses_images_of(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, text = IMAGES[what]
    files = prepare(tmp_path, IMAGE_CONFIG, inputs=images)
    invoke(capsys, *files.arguments).assert_refused(text)
    assert files.listing() == BEFORE


def test_gradients_need_a_cotangent_of_the_outputs_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = prepare(tmp_path)
    invoke(capsys, *files.arguments, "--grad").assert_refused("--grad needs cotangent/<output>")
    inputs(inputs=TOKENS, **{"cotangent/logits": np.zeros((1, 3, 11))})(files)
    invoke(capsys, *files.arguments, "--grad").assert_refused("cotangent/logits has shape (1, 3, 11)")
    inputs(inputs=TOKENS, **{"cotangent/logit": np.zeros((1, 7, 11))})(files)
    invoke(capsys, *files.arguments, "--grad").assert_refused("cotangent/logit: there is no such output")
    assert files.listing() == BEFORE


@pytest.mark.parametrize("option", ["--output", "--json"])
def test_an_output_that_cannot_be_written_is_refused_before_computing(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = prepare(tmp_path)
    rest = [] if option == "--output" else ["--json", "x"]

    def arguments(value: object) -> list[object]:
        made = [*files.arguments, *rest]
        made[made.index(option) + 1] = value
        return made

    invoke(capsys, *arguments(tmp_path / "absent" / "x")).assert_refused("absent does not exist; create it first")
    invoke(capsys, *arguments(tmp_path)).assert_refused("is a directory; give the name of the file to write")
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        invoke(capsys, *arguments(tmp_path / "locked" / "x")).assert_refused("permission denied")
    assert "out.npz" not in files.listing()


def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    files = prepare(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    invoke(capsys, *files.arguments).assert_refused("No space left on device")
    assert files.listing() == BEFORE


USAGE = {
    "no command": ([], "required: COMMAND"),
    "unknown command": (["chekc"], "unknown command 'chekc'; did you mean 'check'?"),
    "unknown option": (["info", "--jsn", "x"], "unrecognized arguments: --jsn"),
    "unknown backend": (["check", "--backend", "jax"], "invalid choice: 'jax'"),
    "unknown dtype": (["check", "--dtype", "float8"], "invalid choice: 'float8'"),
    "unknown kernels": (["check", "--kernels", "quick"], "invalid choice: 'quick'"),
    "option without value": (["check", "--json"], "argument --json: expected one argument"),
    "run without weights": (["run", "--peer", "hf"], "the following arguments are required: --weights"),
}


@pytest.mark.parametrize("what", USAGE)
def test_wrong_usage_is_one_line(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, text = USAGE[what]
    finished = invoke(capsys, *arguments)
    finished.assert_refused(text, "--help")


def test_an_unknown_peer_gets_the_known_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = prepare(tmp_path)
    invoke(capsys, *files.replace("--peer", "hff")).assert_refused("unknown peer 'hff'; did you mean 'hf'?")
    finished = invoke(capsys, *files.arguments, "--class", "PerceiverForMaskedML")
    finished.assert_refused("unknown class of peer hf 'PerceiverForMaskedML'; did you mean 'PerceiverForMaskedLM'?")


@pytest.mark.parametrize("command", ["check", "diagnose", "run"])
def test_cupy_without_a_gpu_says_what_to_do(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        backends.module("cupy")
    except BackendError:
        pass
    else:
        pytest.skip("a GPU answers here")
    case = str(path_of("open-flamingo/gated_immediate"))
    arguments = prepare(tmp_path).arguments if command == "run" else [command, case]
    invoke(capsys, *arguments, "--backend", "cupy").assert_refused("backend cupy")


CHECK_PATHS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "case.npz does not exist"),
    "an empty folder": (lambda path: path.mkdir(), "holds no .npz files"),
    "no archive": (lambda path: path.write_text("x"), "is not a readable .npz file"),
    "truncated": (lambda path: path.write_bytes(path_of("hf/model_bare").read_bytes()[:-300]), "not a readable .npz"),
    "objects": (lambda path: np.savez(path, x=np.array([{}])), "'x' is an object array"),
    "no case": (lambda path: np.savez(path, x=np.zeros(1)), "has no 'meta'"),
}


@pytest.mark.parametrize("what", CHECK_PATHS)
def test_check_refuses_what_is_no_case(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, text = CHECK_PATHS[what]
    make(tmp_path / "case.npz")
    invoke(capsys, "check", tmp_path / "case.npz").assert_refused(text)


def test_check_refuses_a_case_that_it_cannot_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = case_of("hf/model_bare")
    case.meta["class"] = "PerceiverModle"
    write_case(tmp_path / "case.npz", case)
    invoke(capsys, "check", tmp_path / "case.npz").assert_refused("did you mean 'PerceiverModel'?", "case.npz")


@pytest.mark.parametrize("fault", ["weights truncated", "tokens out of range", "class unknown"])
def test_in_a_process_of_its_own(fault: str, tmp_path: Path) -> None:
    change, text = FAULTS[fault]
    files = prepare(tmp_path)
    change(files)
    execute(*files.arguments).assert_refused(text)
    assert "out.npz" not in files.listing()


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e400", "86401", "soon", ""])
@pytest.mark.parametrize(
    "arguments", [["bind", "a", "--seconds"], ["diagnose", "a", "--budget"], ["export", "--budget"]]
)
def test_a_time_is_above_0_and_at_most_a_day(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main([*arguments, text])
    assert left.value.code == 2
    assert "expected a number of seconds above 0 and at most 86,400" in capsys.readouterr().err
