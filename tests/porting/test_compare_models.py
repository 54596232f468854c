"""`compare` on the values of whole models: right ones under any names and in any order, and wrong ones among right."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from export.exported import subject_of
from hypothesis import given, settings
from hypothesis import strategies as st
from porting.cases import case_of

from perceiver_ref.porting.cases import write_case
from perceiver_ref.porting.cases.execution import rebuild, run
from perceiver_ref.porting.compare.dumps import Comparison, as_dump, compare_dumps, read_dump
from perceiver_ref.porting.export.adversarial import rows
from perceiver_ref.porting.export.make import ExportOptions, make

CASES = (
    "hf/sequence_classification",
    "hf/masked_lm",
    "idefics2/resampler_mqa_sdpa",
    "lucidrains-flamingo/resampler_4d",
    "lucidrains-perceiver/perceiver_2d",
)
Arrays = dict[str, np.ndarray]


@cache
def traced(name: str, changed: str | None = None) -> Arrays:
    """Every traced value and output of a case, where asked for with one parameter changed."""
    case = case_of(name)
    rebuilt, arrays = rebuild(case)
    if changed is not None:
        arrays[changed] = arrays[changed] * 1.5 + 0.1
    made = run(rebuilt, arrays, case.inputs, case.meta["call"], points=lambda point: True)
    return {f"trace/{n}": a for n, a in made.trace.items()} | {f"output/{n}": a for n, a in made.outputs.items()}


@cache
def parameters(name: str) -> list[str]:
    return [n for n, a in case_of(name).params.items() if a.ndim == 2]


def against(name: str, candidate: Arrays) -> Comparison:
    return compare_dumps(as_dump(traced(name), "reference"), as_dump(candidate, "candidate"))


def renamed(data: st.DataObject, arrays: Arrays, keys: list[str]) -> Arrays:
    """These arrays under names that mean nothing, in any order, some of them twice, some in another layout."""
    made = {}
    for i, key in enumerate(
        data.draw(st.permutations([*keys, *data.draw(st.lists(st.sampled_from(keys), max_size=3))]))
    ):
        array = arrays[key]
        layout = data.draw(st.sampled_from(["same", "same", "axis", "float32"]))
        array = array[None] if layout == "axis" else array.astype(np.float32) if layout == "float32" else array
        made[f"hook{i}"] = array
    return made


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_a_right_model_s_own_values_are_never_a_mismatch(name: str, data: st.DataObject) -> None:
    keys = data.draw(st.lists(st.sampled_from(list(traced(name))), min_size=1, max_size=12, unique=True))
    result = against(name, renamed(data, traced(name), keys))
    assert result.passed, result.first
    assert result.unmatched_candidate == []


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_a_wrong_value_among_right_ones_is_never_a_match(name: str, data: st.DataObject) -> None:
    """One parameter is another, so that everything behind it is wrong."""
    right, wrong = traced(name), traced(name, data.draw(st.sampled_from(parameters(name))))
    far = [key for key, a in right.items() if np.abs(a - wrong[key]).max(initial=0) > 1e-2 * np.abs(a).max(initial=1)]
    keys = data.draw(st.lists(st.sampled_from(list(right)), max_size=8, unique=True))
    keys = list(dict.fromkeys([*keys, data.draw(st.sampled_from(far))])) if far else keys
    result = against(name, renamed(data, wrong, keys))
    assert not far or not result.passed


def shifted(arrays: Arrays, name: str) -> Arrays:
    return {**arrays, name: arrays[name] + 1}


def layers(*order: str, **more: str) -> Arrays:
    """Values of the language model by short names."""
    named = {
        "logits": "output/logits",
        "layer0": "trace/encoder.blocks.0.0",
        "layer1": "trace/encoder.blocks.1.0",
        "norm": "trace/decoder.cross_attention.query_norm",
        "other norm": "trace/decoder.cross_attention.key_value_norm",
        "attention": "trace/decoder.cross_attention.attention",
        "mlp": "trace/encoder.blocks.0.0.mlp",
        **more,
    }
    return {name: traced(CASES[0])[named[name]] for name in order}


DUMPS: dict[str, tuple[Arrays, bool]] = {
    "outputs first, a layer wrong": (shifted(layers("logits", "layer0", "layer1"), "layer1"), False),
    "a layer wrong": (shifted(layers("layer0", "layer1", "logits"), "layer1"), False),
    "the last of all wrong": (shifted(layers("layer0", "logits", "layer1"), "layer1"), False),
    "the outputs wrong": (shifted(layers("logits", "layer0", "layer1"), "logits"), False),
    "outputs first": (layers("logits", "layer0", "layer1"), True),
    "norms in another order": (layers("layer1", "other norm", "norm", "attention"), True),
    "a container beside its last part": (layers("whole", "mlp", "layer0", whole="trace/encoder.blocks.0.0.mlp"), True),
    "three names of one value": (layers("a", "b", "mlp", a="trace/encoder", b="trace/encoder"), True),
    "most unknown": (layers("logits") | {"x": np.ones((7, 11)), "y": np.ones((13,))}, False),
    "one unknown": (layers("logits", "layer0") | {"x": np.ones((7, 11))}, True),
}


@pytest.mark.parametrize("kind", DUMPS)
def test_dumps_without_common_names(kind: str) -> None:
    arrays, right = DUMPS[kind]
    assert against(CASES[0], arrays).passed == right


@pytest.mark.parametrize("swapped", [False, True])
def test_values_side_by_side_are_told_apart(swapped: bool) -> None:
    """Keys and values of one linear map; with the two exchanged they are found all the same, and a wrong one is not."""
    one, other = (traced(CASES[0])[f"trace/encoder.blocks.0.0.attention.{part}"] for part in ("key", "value"))
    both = np.concatenate([other, one] if swapped else [one, other], axis=-1)
    result = against(CASES[0], {"kv": both, **layers("layer0")})
    assert result.passed
    assert [pair.other for pair in result.pairs if pair.other.startswith("kv")] == ["kv[..., 0:12]", "kv[..., 12:24]"][
        :: -1 if swapped else 1
    ]
    wrong = against(CASES[0], {"kv": both + 1, **layers("layer0", "layer1")})
    assert "kv" in wrong.unmatched_candidate


def test_own_names_are_aligned_behind_a_mistake_with_a_case_of_our_names(tmp_path: Path) -> None:
    """A port of an exported model, traced in the order of its course: the first wrong point is its own."""
    subject = subject_of("perceiver-io/language")
    case = make(subject, rows(subject)[0], ExportOptions())
    write_case(tmp_path / "reference.npz", case)
    rebuilt, arrays = rebuild(case)
    wrong = "encoder/cross_attention/attention/output/weight"
    arrays[wrong] = arrays[wrong] * 1.5 + 0.1
    made = run(rebuilt, arrays, case.inputs, {}, points=lambda point: True)
    mine = {f"trace/own.p{i}": array for i, array in enumerate(made.trace.values())}
    found = compare_dumps(
        read_dump(tmp_path / "reference.npz"),
        as_dump({**mine, **{f"output/{n}": a for n, a in made.outputs.items()}}, "candidate"),
    )
    names = dict(zip((f"own.p{i}" for i in range(len(mine))), made.trace))
    first = next(pair for pair in found.pairs if not pair.passed)
    assert (first.name, names[first.other]) == ("encoder.cross_attention.attention",) * 2
    matched = {pair.other: pair.name for pair in found.pairs}
    assert sum(matched.get(own) == name for own, name in names.items()) > 0.9 * len(names)
