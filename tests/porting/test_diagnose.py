"""`diagnose` names what was planted; here by other options, weights or inputs of the model, never by its own means.

Deviations in the code of the live peers are planted by the heavy tests.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import support
from porting.cases import FILES, label
from porting.diagnosing import diagnose, on_backend, subject_of

from perceiver_ref.cli import main
from perceiver_ref.peers import peer
from perceiver_ref.peers.base import Given
from perceiver_ref.porting import run
from perceiver_ref.porting.cases import Case, read_case, write_case
from perceiver_ref.porting.deviations import CAUSES
from perceiver_ref.porting.rounding.arithmetic import DIGITS, rounded

pytestmark = on_backend

PATHS = {label(path): path for path in FILES}
NAMES = """
activation layer-norm-eps norm-missing norm-after attention-scale head-layout key-value-swapped weight-transposed
bias-missing query-residual mlp-residual softmax-axis mask-inverted mask-ignored fully-masked-row fourier-order
fourier-frequencies position-grid position-axes weight-sharing block-order latents-not-in-keys time-embedding
final-norm gate-not-tanh gate-missing media-mask dtype norm-extra norm-shared branch-missing mask-kind token-order
context position-use rotary interpolation modulation loss
"""


def case_of(name: str) -> Case:
    """A vector without gradients."""
    case = read_case(PATHS[name])
    return replace(case, cotangents={}, grad_params={}, grad_inputs={})


def outputs_of(case: Case, *, dtype: Any = np.float64, traced: bool = False) -> Case:
    """The case with what the reference gives for its configuration, weights and inputs."""
    arrays = {n: a for n, a in (case.params | case.state).items() if n not in case.meta.get("tied", {})}
    shapes = {n: a.shape for n, a in arrays.items()}
    given = Given(case.meta["config"], {n: a.shape for n, a in case.inputs.items()}, shapes, case.meta["call"])
    rebuilt = peer(case.meta["peer"]).rebuild(case.meta["class"], given)
    points = {name: rebuilt.point(name)[0] for name in case.trace} if traced else {}
    made = run(rebuilt, arrays, case.inputs, case.meta["call"], points=set(points.values()).__contains__, dtype=dtype)
    wide = {name: array.astype(np.float64) for name, array in made.outputs.items() if name in case.outputs}
    trace = {name: made.trace[ours].astype(np.float64) for name, ours in points.items() if ours in made.trace}
    return replace(case, outputs=wide, trace=trace)


def planted(name: str, change: Callable[[Case], Case], *, traced: bool = False) -> Case:
    """A right case with the outputs of a wrong implementation: one whose options, weights or inputs are changed."""
    case = case_of(name)
    wrong = outputs_of(change(case), traced=traced)
    return replace(case, outputs=wrong.outputs, trace=wrong.trace)


def option(**options: Any) -> Callable[[Case], Case]:
    def change(case: Case) -> Case:
        config = dict(case.meta["config"])
        inner = dict(config["config"]) if "config" in config else config
        inner.update(options)
        return replace(case, meta={**case.meta, "config": {**config, "config": inner} if "config" in config else inner})

    return change


def weights(edit: Callable[[str, np.ndarray], np.ndarray]) -> Callable[[Case], Case]:
    return lambda case: replace(case, params={name: edit(name, array) for name, array in case.params.items()})


def inputs(**changes: Callable[[np.ndarray], np.ndarray]) -> Callable[[Case], Case]:
    return lambda case: replace(case, inputs={n: changes.get(n, lambda a: a)(a) for n, a in case.inputs.items()})


def swapped_halves(name: str, array: np.ndarray) -> np.ndarray:
    half = array.shape[0] // 2
    return np.concatenate([array[half:], array[:half]]) if name.endswith("to_kv.weight") else array


PLANTED: dict[str, tuple[str, str, Callable[[Case], Case]]] = {
    "another activation": ("activation", "hf/model_mask_holes", option(hidden_act="gelu_new")),
    "no residual around the queries": ("query-residual", "hf/model_mask_holes", option(use_query_residual=False)),
    "padding taken for text": ("mask-inverted", "hf/model_mask_holes", inputs(attention_mask=lambda a: 1 - a)),
    "padding not left out": ("mask-ignored", "hf/model_mask_holes", inputs(attention_mask=np.ones_like)),
    "square weights as they are": (
        "weight-transposed",
        "hf/model_mask_holes",
        weights(lambda name, a: a.T if name.endswith("output.dense.weight") and a.shape[0] == a.shape[1] else a),
    ),
    "no biases of keys' and values' maps": (
        "bias-missing",
        "hf/model_mask_holes",
        weights(lambda name, a: 0 * a if name.endswith("value.bias") else a),
    ),
    "values before keys": ("key-value-swapped", "lucidrains-flamingo/resampler_4d", weights(swapped_halves)),
    "no embedding of media": (
        "time-embedding",
        "lucidrains-flamingo/resampler_4d",
        weights(lambda name, a: 0 * a if name == "media_pos_emb" else a),
    ),
    "all media before": ("media-mask", "open-flamingo/gated_immediate", option(only_attend_immediate_media=False)),
    "gates wide open": (
        "gate-missing",
        "open-flamingo/gated_immediate",
        weights(lambda name, a: np.full_like(a, 40.0) if name.endswith("_gate") else a),  # tanh 40 is 1 in float64
    ),
    "queries that are padding attend": (
        "mask-ignored",
        "evolla/aligner_gated_xattn",
        inputs(query_attn_mask=np.ones_like),
    ),
    "another epsilon": ("layer-norm-eps", "idefics2/resampler_mqa_sdpa", option(rms_norm_eps=1e-3)),
}


@pytest.mark.parametrize("traced", [False, True], ids=["outputs alone", "with traces"])
@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_deviation_is_named(plant: str, traced: bool) -> None:
    cause, name, change = PLANTED[plant]
    found = diagnose(planted(name, change, traced=traced))
    assert (found.verdict, found.causes) == ("deviation", [cause])
    assert found.explanation[0].remaining < 1e-6
    assert (found.first_divergence is not None) == traced


@pytest.mark.parametrize("traced", [False, True], ids=["outputs alone", "with traces"])
def test_two_planted_deviations_are_both_named(traced: bool) -> None:
    def change(case: Case) -> Case:
        return PLANTED["all media before"][2](PLANTED["gates wide open"][2](case))

    found = diagnose(planted("open-flamingo/gated_immediate", change, traced=traced))
    assert (found.verdict, sorted(found.causes)) == ("deviation", ["gate-missing", "media-mask"])


def taller(case: Case) -> Case:
    """Five layers in one block, their weights those of the first."""
    case = option(num_blocks=1, num_self_attends_per_block=5)(case)
    first = {n: a for n, a in case.params.items() if ".self_attends.0." in n}
    layers = {n.replace(".0.", f".{i}."): a + 0.01 * i for n, a in first.items() for i in range(5)}
    trace = {f"encoder.self_attends.{i}": np.zeros(()) for i in range(5)}
    return replace(case, params=case.params | layers, trace=trace)


def test_a_deviation_in_one_layer_among_many_is_found_where_it_is() -> None:
    """The layer before the point that differs is searched alone, whichever it is."""
    case = taller(case_of("hf/model_mask_holes"))
    name = "encoder.self_attends.2.attention.self.value.bias"
    wrong = outputs_of(replace(case, params=case.params | {name: 0 * case.params[name]}), traced=True)
    found = diagnose(replace(case, outputs=wrong.outputs, trace=wrong.trace))
    assert (found.verdict, found.causes) == ("deviation", ["bias-missing"])
    assert found.first_divergence == "encoder.self_attends.2"
    assert found.explanation[0].variant.endswith("in encoder.blocks.0.2")


heavy = pytest.mark.heavy
BRIEF = "4"
"""Seconds for a search that finds nothing anyway, and goes on as long as it may"""
SMALL = ["lucidrains-flamingo/resampler_4d", "open-flamingo/gated_immediate"]
LARGER = [pytest.param(name, marks=heavy) for name in ("hf/model_mask_holes", "hf/image_fourier_small", "hf/masked_lm")]


@pytest.mark.parametrize("name", [*SMALL, *LARGER])
def test_right_outputs_match_and_float32_is_rounding(name: str) -> None:
    case = case_of(name)
    assert diagnose(case).verdict == "match"
    found = diagnose(outputs_of(case, dtype=np.float32, traced=True))
    assert (found.verdict, found.dtype, found.causes) == ("rounding", "float32", [])


def test_a_case_in_float32_is_judged_as_float32() -> None:
    case = outputs_of(case_of("open-flamingo/gated_immediate"), dtype=np.float32)
    narrow = replace(
        case,
        meta={**case.meta, "dtype": "float32"},
        outputs={name: array.astype(np.float32) for name, array in case.outputs.items()},
    )
    assert diagnose(narrow).verdict == "rounding"
    wrong = planted("open-flamingo/gated_immediate", option(only_attend_immediate_media=False))
    narrow = replace(wrong, meta=narrow.meta, outputs={n: a.astype(np.float32) for n, a in wrong.outputs.items()})
    found = diagnose(narrow)
    assert (found.verdict, found.causes) == ("deviation", ["media-mask"])


def test_what_nothing_explains_is_unexplained_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = case_of("open-flamingo/gated_immediate")
    case.outputs["out"] = case.outputs["out"] + np.random.default_rng(0).normal(size=case.outputs["out"].shape)
    case.trace.clear()
    write_case(tmp_path / "port.npz", case)
    command = ["diagnose", str(tmp_path / "port.npz"), "--budget", BRIEF]
    assert main([*command, "--json", str(tmp_path / "found.json")]) == 1
    assert "no known deviation explains it" in capsys.readouterr().out
    excerpt = read_case(tmp_path / "port.excerpt.npz")
    assert excerpt.meta["excerpt"]["point"] == "output/out"
    np.testing.assert_array_equal(excerpt.outputs["out"], case.outputs["out"])
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["verdict"], found["causes"], found["first_divergence"]) == ("unexplained", [], None)
    assert found["error"] > 0.1 > found["expected_rounding"]["float32"] > 0


def test_what_an_operation_is_given_is_what_was_traced_before_it() -> None:
    """With traces what comes in is the point before, and without any the model's inputs."""
    case = outputs_of(taller(case_of("hf/model_mask_holes")), traced=True)
    given = list(subject_of(case).inputs_of("trace/encoder.self_attends.2").values())
    assert len(given) == 1
    np.testing.assert_allclose(given[0], case.trace["encoder.self_attends.1"], rtol=0, atol=support.ROUNDING)
    case.trace.clear()
    given = list(subject_of(case).inputs_of("output/last_hidden_state").values())
    assert any(np.array_equal(array, case.inputs["inputs"]) for array in given)


def test_a_diagnosis_is_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_case(tmp_path / "port.npz", planted(*PLANTED["all media before"][1:], traced=True))
    assert main(["diagnose", str(tmp_path / "port.npz"), "--html", str(tmp_path / "page.html")]) == 1
    page = (tmp_path / "page.html").read_text()
    assert "media-mask" in page
    assert "trace/ff" in page
    assert "media-mask" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["output/logits", "trace/perceiver.encoder"])
def test_an_array_of_another_shape_is_one_line(tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    case = read_case(PATHS["hf/sequence_classification"])
    arrays, name = (case.outputs if key.startswith("output") else case.trace), key.partition("/")[2]
    arrays[name] = arrays[name][..., 1:]
    case.cotangents.clear(), case.grad_params.clear(), case.grad_inputs.clear()
    write_case(tmp_path / "port.npz", case)
    assert main(["diagnose", str(tmp_path / "port.npz")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert f"{key} has shape {arrays[name].shape}, but the reference's has" in said[0]


@pytest.mark.parametrize("content", [b"", b"PK"], ids=["empty", "no archive"])
def test_a_file_that_is_no_case_is_one_line(tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "port.npz").write_bytes(content)
    assert main(["diagnose", str(tmp_path / "port.npz")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_causes_are_those_promised() -> None:
    assert set(NAMES.split()) <= set(CAUSES)


@pytest.mark.parametrize("format_", DIGITS)
def test_rounding_to_fewer_digits(format_: str) -> None:
    """Exact for representable numbers, and at most half a unit in the last place off for others."""
    digits = DIGITS[format_]
    x = np.random.default_rng(0).normal(size=1000) * 10.0 ** np.random.default_rng(1).integers(-5, 5, 1000)
    near = rounded(x, digits)
    assert (rounded(near, digits) == near).all()
    assert (np.abs(near - x) <= np.abs(x) * 2.0**-digits).all()
    if format_ == "float32":
        np.testing.assert_array_equal(near, x.astype(np.float32).astype(np.float64))
    if format_ == "float16":
        inside = (np.abs(x) > 1e-4) & (np.abs(x) < 6e4)  # float16's range without its subnormal numbers
        np.testing.assert_array_equal(near[inside], x[inside].astype(np.float16).astype(np.float64))
