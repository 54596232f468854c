"""Probes: cases of samples. What makes their arrays is held against definitions of its own, and what `check` sees of
them against ports with mistakes."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perceiver_ref import testing, vectors
from perceiver_ref.cli import main
from perceiver_ref.errors import InputError
from perceiver_ref.porting import check_case, check_file
from perceiver_ref.porting import run as compute
from perceiver_ref.porting.cases import (
    PACKAGED,
    Case,
    expanded,
    fingerprint,
    keep,
    new_probe,
    read_case,
    sampled,
    write_case,
)
from perceiver_ref.porting.cases.case import groups
from perceiver_ref.porting.cases.execution import rebuild
from perceiver_ref.porting.cases.generator import KINDS, bits, made
from perceiver_ref.porting.cases.samples import COLUMNS, disagreement, indices

CONFIG = {
    "type": "PerceiverIO",
    "encoder": {"type": "Encoder", "inputs": 6, "latents": 5, "channels": 8, "blocks": 2, "layers": 1, "self_heads": 2},
}
MASK = (1 << 64) - 1


def splitmix(state: int) -> int:
    """The next number after a state, by the authors' C code in whole numbers of Python."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def by_hand(seed: int, name: str, i: int) -> int:
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = (state ^ byte) * 0x100000001B3 & MASK
    start = splitmix((state ^ seed) - 0x9E3779B97F4A7C15 & MASK)
    return splitmix(start + i * 0x9E3779B97F4A7C15 & MASK)


def test_the_bits_are_splitmix64s() -> None:
    # published first numbers from state 0: https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64 and java.util
    assert [splitmix(0), splitmix(0x9E3779B97F4A7C15)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    for seed, name in ((0, "input/x"), (7, "param/encoder/latents"), (2**63 - 1, "output/é")):
        assert bits(seed, name, 3, 5).tolist() == [by_hand(seed, name, i) for i in range(3, 8)]


def _element(kind: str, b: int, i: int, shape: tuple[int, ...], name: str, seed: int) -> Any:
    place = np.unravel_index(i, shape)
    return {
        "signed": lambda: (2 * (b >> 56) - 255) / 2**9,
        "scale": lambda: (64 + (b >> 57)) / 128,
        "ids": lambda: b % 13,
        "one-hot": lambda: float(by_hand(seed, name, i // shape[-1]) % shape[-1] == place[-1]),
        "tags": lambda: place[1] % max(shape[1] // 2, 1) == 0,
        "constant": lambda: -2.5,
    }[kind]()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 7, 2), (2, 1), (1, 5)])
def test_each_kind_is_what_the_table_says(kind: str, shape: tuple[int, ...]) -> None:
    spec = {"shape": list(shape), "kind": kind, "exponent": 9, "modulus": 13, "value": -2.5}
    array = made("input/x", spec, 11, "float64")
    wanted = [_element(kind, by_hand(11, "input/x", i), i, shape, "input/x", 11) for i in range(math.prod(shape))]
    np.testing.assert_array_equal(array, np.reshape(wanted, shape))
    assert array.dtype == {"ids": np.int64, "tags": bool}.get(kind, np.float64)


@pytest.mark.parametrize(("kind", "exponent"), [("signed", 7), ("signed", 21), ("scale", 0)])
def test_values_are_exact_in_every_format(kind: str, exponent: int) -> None:
    array = made("param/w", {"shape": [4001], "kind": kind, "exponent": exponent}, 1, "float64")
    mantissa, _ = np.frexp(array)
    np.testing.assert_array_equal(mantissa * 256, np.round(mantissa * 256))  # the 8 bits of bfloat16
    np.testing.assert_array_equal(array.astype(np.float32).astype(np.float64), array)
    assert len(np.unique(array)) > 100
    if kind == "signed":
        assert abs(array.mean()) < 5 * array.std() / math.sqrt(array.size)


@pytest.mark.parametrize("spec", [
    {}, 3, {"shape": [2], "kind": "exec"}, {"shape": [2], "kind": ["scale"]},
    {"shape": [-1], "kind": "scale"},
    {"shape": [1 << 30, 1 << 30], "kind": "scale"},
    {"shape": [2], "kind": "signed"}, {"shape": [2], "kind": "signed", "exponent": 10**9},
    {"shape": [2], "kind": "ids", "modulus": 0}, {"shape": [2], "kind": "tags"}, {"shape": [], "kind": "one-hot"},
    {"shape": [2, 0], "kind": "one-hot"}, {"shape": [2], "kind": "constant", "value": "x"},
    {"shape": [2], "kind": "scale", "dtype": "object"}, {"shape": "ab", "kind": "scale"},
])  # fmt: skip
def test_other_specifications_are_refused(spec: Any) -> None:
    with pytest.raises(InputError):
        made("input/x", spec, 0, "float64")


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1000, 10**9 + 7])
def test_samples_are_scattered_over_the_whole(size: int) -> None:
    places = indices(size, seed=3)
    assert len(places) == min(size, 16)
    assert (np.diff(places) > 0).all()
    if size > 16:
        for j, place in enumerate(places):
            first, end = j * size // 16, (j + 1) * size // 16
            assert place == first + by_hand(3, "samples", j) % (end - first)


def test_statistics_are_those_of_the_finite_elements() -> None:
    array = np.array([[1.0, -3.0], [np.nan, np.inf], [-np.inf, 0.5]])
    found = dict(zip(COLUMNS, sampled(array).statistics))
    assert found == pytest.approx(
        {"sum": -1.5, "l2": math.sqrt(10.25), "minimum": -3, "maximum": 1, "mean": -0.5, "rms": math.sqrt(10.25 / 3),
         "nan": 1, "infinite": 2}, rel=1e-15)  # fmt: skip
    huge = sampled(np.full(3, 1e200)).statistics
    assert np.isfinite(huge).all()


def test_what_differs_by_less_than_d_differs_in_its_statistics_by_less() -> None:
    """Why one tolerance will do for both: by the triangle inequality."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        x = rng.normal(size=int(rng.integers(1, 400))) * 10.0 ** rng.integers(-3, 3)
        d = 10.0 ** rng.integers(-9, -1)
        y = x + d * (1 if rng.integers(2) else rng.uniform(-1, 1, x.shape))
        samples, numbers, _ = disagreement(sampled(y), sampled(x))
        scale = max(np.abs(x).max(), 1)
        assert max(samples, numbers) <= d / scale * (1 + 1e-6) + 1e-15
    assert disagreement(sampled(x + 0.125), sampled(x))[1] > 0.1 / scale


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A probe of weights that are made again, one of a file of weights, and that file."""
    place = tmp_path_factory.mktemp("probes")
    (place / "model.json").write_text(json.dumps(CONFIG))
    shared = ["export", str(place / "model.json"), "--inputs", "17x6", "--probe", "--seed", "5"]
    assert main([*shared, "--out", str(place / "made")]) == 0
    weights = expanded(read_case(place / "made/PerceiverIO/probe.npz")).params
    rng = np.random.default_rng(1)
    np.savez(place / "weights.npz", **{name: rng.normal(size=a.shape) / 3 for name, a in weights.items()})
    assert main([*shared, "--out", str(place / "given"), "--weights", str(place / "weights.npz")]) == 0
    return place


@pytest.fixture
def probe(folder: Path) -> Case:
    return read_case(folder / "made/PerceiverIO/probe.npz")


def test_a_probe_has_everything_but_the_arrays(probe: Case) -> None:
    assert not {**probe.params, **probe.inputs, **probe.outputs}
    groups = {key.partition("/")[0] for key in probe.samples}
    assert groups == {"output", "trace", "grad_param", "grad_input"}
    full = expanded(probe)
    # an independent way to the same numbers: the arrays written out as a usual case, and run
    rebuilt, arrays = rebuild(full)
    answer = compute(rebuilt, arrays, full.inputs, {}, cotangents=full.cotangents)
    for key, array in (
        ("output/out", answer.outputs["out"]),
        ("grad_param/encoder/latents", answer.grad_params["encoder/latents"]),
        ("grad_input/inputs", answer.grad_inputs["inputs"]),
    ):
        places = probe.samples[key][:, 0].astype(int)
        np.testing.assert_allclose(array.reshape(-1)[places], probe.samples[key][:, 1], rtol=1e-12, atol=1e-14)
        assert probe.statistics[key][COLUMNS.index("rms")] == pytest.approx(
            math.sqrt(np.square(array).mean()), rel=1e-12
        )


def test_check_rebuilds_and_compares(folder: Path, capsys: Any) -> None:
    report = str(folder / "report.json")
    assert main(["check", str(folder / "made"), "--json", report]) == 0
    assert "16 samples" in capsys.readouterr().out
    given = str(folder / "given/PerceiverIO/probe.npz")
    assert main(["check", given, "--weights", str(folder / "weights.npz")]) == 0
    assert main(["check", given]) == 2
    assert "--weights" in capsys.readouterr().err
    with np.load(folder / "weights.npz") as weights:
        other = dict(weights)
    other["encoder/latents"] = other["encoder/latents"] + 1e-9
    np.savez(folder / "other.npz", **other)
    assert main(["check", given, "--weights", str(folder / "other.npz")]) == 2
    assert "these are not the weights" in capsys.readouterr().err


def test_it_is_small(folder: Path) -> None:
    """Kilobytes an array, whatever the arrays: 6 numbers of a latent cost as much as a million."""
    for path in folder.rglob("probe.npz"):
        assert path.stat().st_size < 2000 * len(read_case(path).samples)


@pytest.mark.parametrize(
    "key", ["output/out", "trace/encoder.blocks.0.0.mlp", "grad_param/encoder/latents", "grad_input/inputs"]
)
@pytest.mark.parametrize("where", ["samples", "statistics"])
def test_wrong_numbers_fail_where_they_are(probe: Case, key: str, where: str) -> None:
    getattr(probe, where)[key][3, 1 if where == "samples" else ...] += 1e-3
    result = check_case(probe)
    kind, _, name = key.partition("/")
    name = name if where == "samples" else f"{name} (statistics)"
    assert [(a.kind, a.name) for a in result.agreements if not a.passed] == [(kind, name)]


def test_a_mistake_in_the_port_is_seen(probe: Case) -> None:
    """eps 1e-6 for 1e-5, in a probe made by the port."""
    full = expanded(probe)
    full.meta["config"]["encoder"]["conventions"]["norm_eps"] = 1e-6
    rebuilt, arrays = rebuild(full)
    wrong = compute(rebuilt, arrays, full.inputs, {})
    port = copy.deepcopy(probe)
    keep(port, "output/out", wrong.outputs["out"])
    assert next(a.kind for a in check_case(port).agreements if not a.passed) == "output"
    right = compute(*rebuild(expanded(probe)), full.inputs, {})
    keep(port, "output/out", right.outputs["out"])
    assert check_case(port).status == "pass"


def test_a_port_in_python_compares_with_one(probe: Case) -> None:
    full = vectors.expanded(probe)
    answer = compute(*rebuild(full), full.inputs, {}, cotangents=full.cotangents)
    testing.assert_matches(answer.outputs, probe)
    testing.assert_matches({**answer.grad_params, **answer.grad_inputs}, probe, what="gradients")
    with pytest.raises(AssertionError, match=r"out: error 2\.\de-06, of statistics 2\.\de-06"):
        testing.assert_matches(answer.outputs["out"] + 2e-5, probe)
    with pytest.raises(AssertionError, match="shape"):
        testing.assert_matches(answer.outputs["out"].T, probe)


@pytest.mark.parametrize(
    "name",
    ["hf/model_mask_holes", "hf/sequence_classification", "open-flamingo/gated_immediate", "perceiver-ar/ar_rotary"],
)
def test_a_recorder_can_make_one_of_a_live_model(name: str, tmp_path: Path) -> None:
    """Of other implementations' arrays: inputs as they were, samples of the answers, the weights' fingerprint."""
    case = read_case(PACKAGED / f"{name}.npz")
    probe = new_probe(case.meta, seed=4, samples=7)
    probe.inputs, probe.cotangents = case.inputs, case.cotangents
    weights = {n: a for n, a in {**case.params, **case.state}.items() if n not in case.meta["tied"]}
    probe.meta["probe"]["weights"] = fingerprint(weights)
    for group, arrays in groups(case):
        if group in ("output", "trace", "grad_param", "grad_input"):
            for n, array in arrays.items():
                if n not in case.meta["tied"]:
                    keep(probe, f"{group}/{n}", array)
    write_case(tmp_path / "probe.npz", probe)
    np.savez(tmp_path / "weights.npz", **weights)
    result = check_file(tmp_path / "probe.npz", weights=tmp_path / "weights.npz")
    assert (result.status, result.message) == ("pass", "")
    assert len(result.agreements) == 2 * len(probe.samples)
    key = next(iter(probe.samples))
    probe.samples[key][0, 1] += 1e-6
    assert len([a for a in check_case(probe, weights=weights).agreements if not a.passed]) == 1


HOSTILE: dict[str, Any] = {
    "no arrays": lambda p: p.meta["probe"].pop("arrays"),
    "another version": lambda p: p.meta["probe"].update(version=2),
    "no object": lambda p: p.meta.update(probe=3),
    "a seed that is none": lambda p: p.meta["probe"].update(seed="x"),
    "no samples": lambda p: p.samples.clear(),
    "statistics alone": lambda p: p.samples.pop("output/out"),
    "samples of another form": lambda p: p.samples.update({"output/out": np.zeros(4)}),
    "statistics of another form": lambda p: p.statistics.update({"output/out": np.zeros(4)}),
    "a place outside": lambda p: p.samples["output/out"].__setitem__((0, 0), 1e9),
    "NaN for a place": lambda p: p.samples["output/out"].__setitem__((0, 0), np.nan),
    "a huge shape": lambda p: p.meta["probe"]["arrays"]["output/out"].update(shape=[1 << 40, 1 << 40]),
    "another dtype": lambda p: p.meta["probe"]["arrays"]["output/out"].update(dtype="object"),
    "inputs that are no object": lambda p: p.meta["probe"].update(inputs=[1]),
    "weights without a fingerprint": lambda p: p.meta["probe"].update(weights={}),
    "gradients of no loss": lambda p: p.meta["probe"].pop("cotangents"),
    "samples of inputs": lambda p: keep(p, "input/x", np.zeros(3)),
}  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE)
def test_what_is_no_probe_is_one_line(probe: Case, change: str, tmp_path: Path) -> None:
    HOSTILE[change](probe)
    write_case(tmp_path / "probe.npz", probe)
    with pytest.raises(InputError):
        read_case(tmp_path / "probe.npz")


def test_inputs_too_large_for_the_machine_are_refused(probe: Case) -> None:
    probe.meta["probe"]["inputs"]["inputs"]["shape"] = [1 << 38]
    with pytest.raises(InputError, match="more than the"):
        check_case(probe)


def test_samples_without_a_probe_are_refused(probe: Case, tmp_path: Path) -> None:
    probe.meta.pop("probe")
    probe.outputs["out"] = np.zeros(3)
    write_case(tmp_path / "probe.npz", probe)
    with pytest.raises(InputError, match="no probe in meta"):
        read_case(tmp_path / "probe.npz")


def test_diagnose_says_what_it_needs(folder: Path, capsys: Any) -> None:
    assert main(["diagnose", str(folder / "made/PerceiverIO/probe.npz")]) == 2
    assert "is a probe, which holds samples" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--cases", "plain"], ["--samples", "0"]])
def test_options_that_do_not_go_with_it(folder: Path, tmp_path: Path, options: list[str]) -> None:
    made = ["export", str(folder / "model.json"), "--inputs", "17x6", "--probe", "--out", str(tmp_path / "out")]
    assert main([*made, *options]) == 2
    assert main(["export", str(folder / "model.json"), "--samples", "3", "--out", str(tmp_path / "out")]) == 2


def test_a_preset_in_float32_and_a_peers_class(tmp_path: Path) -> None:
    """Ids, masks and tags; names of another implementation, whose arrays hold several of ours."""
    small = ["--probe", "--small", "--no-gradients", "--samples", "5"]
    for model in ("perceiver-io/language", "flamingo/gated-xattn-3b"):
        out = str(tmp_path / model.replace("/", "-"))
        assert main(["export", model, *small, "--dtype", "float32", "--out", out]) == 0
        assert main(["check", out]) == 0
    (tmp_path / "config.json").write_text(json.dumps({"dim": 6, "dim_visual": 6, "heads": 2, "dim_head": 3}))
    given = ["export", str(tmp_path / "config.json"), "--peer", "open-flamingo", "--class", "GatedCrossAttentionBlock"]
    assert main([*given, *small, "--out", str(tmp_path / "peer")]) == 0
    assert main(["check", str(tmp_path / "peer")]) == 0
    (path,) = (tmp_path / "peer").rglob("*.npz")
    assert "attn.to_kv.weight" in read_case(path).meta["probe"]["params"]
