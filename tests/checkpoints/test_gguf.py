"""GGUF files with a peer's own names, or a whole model's: loaded and run; quantised ones are refused in one line."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import make_gguf
from cli.command import invoke
from files.dump_writers import GGML, gguf_bytes
from porting.cases import FILES
from support import assert_close

import perceiver_ref as pr
from perceiver_ref.autograd import tree
from perceiver_ref.porting.cases import Case, read_case
from perceiver_ref.weights.checkpoints import CheckpointWarning
from perceiver_ref.weights.formats.gguf import TYPES
from perceiver_ref.weights.formats.npz import read_npz

FIXTURE = Path(__file__).with_name("gguf_resampler.gguf")
PREFIXES = {
    "ip-adapter": "image_proj.",
    "xtts": "gpt.conditioning_perceiver.",
    "chatterbox": "cond_enc.perceiver.",
    "minicpmv": "resampler.",
}
"""Of the whole models' files."""
PEERS = [
    *("ip-adapter", "diffusers", "pulid", "timm", "open-clip", "siglip", "xtts", "naturalspeech2", "chatterbox"),
    *("kosmos2", "aria", "minicpmv", "shape2vecset", "edgetam", "aurora", "perceiver-ar-pytorch", "nemo"),
    *("hf", "idefics", "idefics2", "evolla", "mllama", "lucidrains-perceiver", "lucidrains-flamingo", "open-flamingo"),
    "krasserm",
]


def a_case(peer: str) -> Case:
    """The first case of a peer that has parameters."""
    found = (read_case(path) for path in FILES if path.parent.name == peer)
    return next(case for case in found if case.params and case.grad_params)


def loaded(*arguments: Any, **options: Any) -> tuple[Any, Any, list[str]]:
    """Model, parameters, and what was told."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", CheckpointWarning)
        model, params = pr.load(*arguments, **options)
    return model, params, [str(warning.message) for warning in told]


def written(path: Path, arrays: dict[str, np.ndarray], *, dropped: bool = False) -> Path:
    """A file of arrays; `dropped`: without axes of 1 before the others, as ggml itself writes them."""

    def shape(array: np.ndarray) -> tuple[int, ...]:
        whole = array.shape
        while dropped and len(whole) > 1 and whole[0] == 1:
            whole = whole[1:]
        return whole

    path.write_bytes(gguf_bytes({n: (shape(a), GGML[a.dtype.name], a.tobytes()) for n, a in arrays.items()}))
    return path


@pytest.mark.parametrize("dropped", [False, True], ids=["whole", "dropped"])
@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_loads_its_own_names(tmp_path: Path, peer: str, dropped: bool) -> None:
    case = a_case(peer)
    arrays = {**case.params, **case.state}
    prefix = PREFIXES.get(peer, "")
    path = written(tmp_path / "x.gguf", {prefix + name: a for name, a in arrays.items()}, dropped=dropped)
    _, params, told = loaded(peer, path, case.meta["class"], config=case.meta["config"])
    assert any(f"below '{prefix}'" in line for line in told) == bool(prefix)
    np.savez(tmp_path / "x.npz", **arrays)
    _, expected, _ = loaded(peer, tmp_path / "x.npz", case.meta["class"], config=case.meta["config"])
    assert_close(params, expected, tolerance=0)


def test_a_file_of_the_gguf_package(tmp_path: Path) -> None:
    """In the types that it has, or in one; the prefix is found, and what is elsewhere left out."""
    expected = make_gguf.arrays()
    settings: tuple[dict[str, Any], ...] = ({}, {"prefix": "image_proj."}, {"dtype": np.float64})
    for options in settings:
        model, params, told = loaded("ip-adapter", FIXTURE, "Resampler", config=make_gguf.CONFIG, **options)
        assert any("below 'image_proj.'" in line for line in told)
        assert len(told) == 1 or any(
            "left out 1 arrays elsewhere: ip_adapter.1.to_k_ip.weight" in line for line in told
        )
        np.testing.assert_array_equal(params["latents"], expected["latents"][0])
        np.testing.assert_array_equal(params["input"]["weight"], expected["proj_in.weight"].T)
        dtypes = {str(leaf.dtype) for _, leaf in tree.leaves(params)}
        assert dtypes == ({"float64"} if "dtype" in options else {"float16", "float32"})
    assert model.count() == sum(array.size for array in expected.values())


def test_run_gives_what_the_same_arrays_in_npz_give(tmp_path: Path, capsys: Any) -> None:
    np.savez(tmp_path / "inputs.npz", x=np.random.default_rng(2).standard_normal((2, 3, 7)).astype(np.float32))
    (tmp_path / "config.json").write_text(json.dumps(make_gguf.CONFIG))
    np.savez(tmp_path / "weights.npz", **make_gguf.arrays())
    common = ["--peer", "ip-adapter", "--class", "Resampler", "--config", tmp_path / "config.json"]
    common += ["--inputs", tmp_path / "inputs.npz", "--output", tmp_path / "out.npz"]
    made = []
    for weights in (FIXTURE, tmp_path / "weights.npz"):
        refused = invoke(capsys, "run", "--weights", weights, *common)
        assert refused.code == 2
        assert "float16, float32; choose one with --dtype" in refused.err
        ran = invoke(capsys, "run", "--weights", weights, *common, "--dtype", "float32")
        assert ran.code == 0, ran.err
        made.append(read_npz(tmp_path / "out.npz"))
    assert made[0].keys() == made[1].keys()
    np.testing.assert_array_equal(made[0]["output/out"], made[1]["output/out"])


@pytest.mark.parametrize("kind", ["Q4_0", "Q5_1", "Q4_K", "Q6_K", "IQ4_NL", "MXFP4"])
def test_quantised_parameters_are_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    case = a_case("aurora")
    ((number, (_, block, unit)),) = [(n, row) for n, row in TYPES.items() if row[0] == kind]
    name = next(iter(case.params))
    tensors = {n: (a.shape, GGML[a.dtype.name], a.tobytes()) for n, a in case.params.items()}
    (tmp_path / "x.gguf").write_bytes(gguf_bytes({**tensors, name: ((3, block), number, bytes(3 * unit))}))
    with pytest.raises(pr.InputError, match=rf"'{name}' cannot be read: it holds numbers of type {kind}") as raised:
        pr.load("aurora", tmp_path / "x.gguf", case.meta["class"], config=case.meta["config"])
    assert "\n" not in str(raised.value)
