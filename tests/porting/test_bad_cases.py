"""A case that cannot be run is an error that names what is wrong with it, never a pass, a mismatch or a traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from porting.cases import case_of

from perceiver_ref import InputError
from perceiver_ref.porting import check_case, check_file
from perceiver_ref.porting.cases import Case, write_case

LATENTS, KEY = "perceiver.embeddings.latents", "perceiver.encoder.cross_attention.attention.self.key.weight"


def message(case: Case, tmp_path: Path, backend: str) -> str:
    """What is wrong with the case, which must be an error: one line that names its file."""
    path = tmp_path / "case.npz"
    write_case(path, case)
    result = check_file(path, backend=backend)
    assert result.status == "error", result
    assert result.message.startswith(str(path))
    assert len(result.message.splitlines()) == 1
    return result.message


def without(*names: str) -> Callable[[Case], None]:
    def spoil(case: Case) -> None:
        for name in names:
            del case.params[name]
            case.grad_params.pop(name, None)

    return spoil


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Case], None]:
    def spoil(case: Case) -> None:
        case.params[name] = change(case.params[name])
        case.grad_params.pop(name)

    return spoil


def with_entry(array: np.ndarray, value: float) -> np.ndarray:
    array = array.copy()
    array.flat[-1] = value
    return array


def extra(case: Case) -> None:
    case.params["surplus.weight"] = np.zeros(3)


PARAMETERS = {
    "missing": (without(LATENTS, KEY), [f"missing: {LATENTS}, {KEY}"]),
    "unused": (extra, ["unused: surplus.weight"]),
    "transposed": (changed(KEY, lambda a: a[:, :-1]), [f"{KEY} has shape", "expected"]),
    "flat": (changed(KEY, np.ravel), [f"{KEY} has shape"]),
    "scalar": (changed(KEY, np.sum), [f"{KEY} has shape ()"]),
    "nan": (changed(KEY, lambda a: with_entry(a, np.nan)), [f"parameter {KEY!r} holds a NaN"]),
    "infinite": (changed(KEY, lambda a: with_entry(a, np.inf)), [f"parameter {KEY!r} holds an infinity"]),
    "integer": (changed(KEY, lambda a: a.astype(np.int64)), [f"{KEY} has dtype int64, expected floating point"]),
    "bool": (changed(KEY, lambda a: a > 0), [f"{KEY} has dtype bool, expected floating point"]),
}


@pytest.mark.parametrize("fault", PARAMETERS)
def test_wrong_parameters_are_listed(backend: str, fault: str, tmp_path: Path) -> None:
    spoil, texts = PARAMETERS[fault]
    case = case_of("hf/masked_lm")
    spoil(case)
    said = message(case, tmp_path, backend)
    for text in texts:
        assert text in said


def test_many_missing_parameters_are_counted(backend: str) -> None:
    case = case_of("hf/masked_lm")
    total = len(case.params)
    case.params, case.grad_params = {}, {}
    with pytest.raises(InputError, match=rf"and {total - 8} more"):
        check_case(case, backend=backend)


def set_meta(key: str, value: Any) -> Callable[[Case], None]:
    return lambda case: case.meta.__setitem__(key, value)


def set_config(key: str, value: Any) -> Callable[[Case], None]:
    return lambda case: case.meta["config"]["config"].__setitem__(key, value)


def rename_input(case: Case) -> None:
    case.inputs["attention_masks"] = case.inputs.pop("attention_mask")


def set_beside(key: str, value: Any) -> Callable[[Case], None]:
    return lambda case: case.meta["config"].__setitem__(key, value)


UNKNOWN = {
    "peer": (set_meta("peer", "hff"), "unknown peer 'hff'; did you mean 'hf'?"),
    "class": (set_meta("class", "PerceiverForMaskedLMs"), "did you mean 'PerceiverForMaskedLM'?"),
    "option": (
        set_config("num_latent", 6),
        "unknown option of PerceiverConfig 'num_latent'; did you mean 'num_latents'?",
    ),
    "call": (set_meta("call", {"output_attention": True}), "did you mean 'output_attentions'?"),
    "argument": (rename_input, "unknown argument of forward 'attention_masks'; did you mean 'attention_mask'?"),
    "activation": (set_config("hidden_act", "gelus"), "unknown hidden_act 'gelus'; did you mean 'gelu'?"),
    "beside a config": (set_beside("hidden_act", "relu"), "option 'hidden_act' beside 'config' is not used"),
    "part beside a config": (set_beside("decoder", {"class": "x"}), "option 'decoder' beside 'config' is not used"),
    "kwargs beside a config": (set_beside("kwargs", {}), "option 'kwargs' beside 'config' is not used"),
    "dtype": (set_meta("dtype", "float65"), "unknown dtype 'float65'; did you mean 'float64'?"),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_unknown_names_get_the_nearest_known_one(backend: str, what: str, tmp_path: Path) -> None:
    spoil, text = UNKNOWN[what]
    case = case_of("hf/masked_lm")
    spoil(case)
    assert text in message(case, tmp_path, backend)


def drop_inputs(case: Case) -> None:
    del case.inputs["inputs"]


def more_outputs(case: Case) -> None:
    case.outputs["pooled"] = np.zeros(3)


def odd_cotangent(case: Case) -> None:
    case.cotangents["logits"] = case.cotangents["logits"][:, :-1]


def float_tokens(case: Case) -> None:
    case.inputs["inputs"] = case.inputs["inputs"].astype(float)


def large_token(case: Case) -> None:
    case.inputs["inputs"] = np.full_like(case.inputs["inputs"], 31)


def integer_gradient(case: Case) -> None:
    case.grad_inputs["inputs"] = np.zeros(case.inputs["inputs"].shape)


def alias_of_nothing(case: Case) -> None:
    case.meta["tied"] = {"head.weight": "nothing"}
    case.params["head.weight"] = case.grad_params["head.weight"] = np.zeros(3)


CONTENTS = {
    "no inputs": (drop_inputs, "give exactly one of the arguments inputs, input_ids, pixel_values"),
    "an output that there is not": (more_outputs, "the reference gives no output pooled"),
    "a cotangent of another shape": (odd_cotangent, "cotangent/logits has shape"),
    "tokens that are no integers": (float_tokens, "token ids must be integers"),
    "a token out of range": (large_token, "token ids must be in [0, 31), got 31 to 31"),
    "a gradient of integers": (integer_gradient, "the reference gives no grad_input inputs"),
    "an alias of nothing": (alias_of_nothing, "nothing"),
    "heads that do not divide": (
        set_config("num_self_attention_heads", 3),
        "must be divisible by the number of heads (3)",
    ),
    "no heads": (set_config("num_cross_attention_heads", 0), "number of heads (0)"),
    "text for a number": (set_config("num_latents", "six"), "num_latents"),
    "a fraction of a layer": (set_config("num_self_attends_per_block", 1.5), "num_self_attends_per_block"),
    "a negative size": (set_config("d_latents", -20), "d_latents"),
    "tolerance that is no number": (set_meta("tolerance", {"output": "loose"}), "tolerance"),
    "a config that is no object": (set_meta("config", 3), "config"),
    "a call that is no object": (set_meta("call", [1]), "call"),
    "ties that are no object": (set_meta("tied", "all"), "tied"),
}


@pytest.mark.parametrize("what", CONTENTS)
def test_what_cannot_be_run_is_said(backend: str, what: str, tmp_path: Path) -> None:
    spoil, text = CONTENTS[what]
    case = case_of("hf/masked_lm")
    spoil(case)
    assert text in message(case, tmp_path, backend)


small_json = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 20) | st.floats(-2, 20) | st.sampled_from(["", "kv", "gelu", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["class", "kwargs", "a"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=50)
@given(data=st.data(), value=small_json)
def test_whatever_the_meta_holds_there_is_a_verdict(
    backend: str, tmp_path: Path, data: st.DataObject, value: Any
) -> None:
    case = case_of(data.draw(st.sampled_from(["hf/masked_lm", "hf/image_fourier_small", "hf/image_fourier"])))
    places = [case.meta, case.meta["config"], case.meta["config"].get("config", {})]
    for part in ("input_preprocessor", "decoder"):
        if part in case.meta["config"]:
            kwargs = case.meta["config"][part]["kwargs"]
            places += [case.meta["config"][part], kwargs]
            places += [v for v in kwargs.values() if isinstance(v, dict)]
    place = data.draw(st.sampled_from(places))
    place[data.draw(st.sampled_from(sorted(place)))] = value
    path = tmp_path / "case.npz"
    write_case(path, case)
    result = check_file(path, backend=backend)
    assert result.status in ("pass", "fail", "error")
    if result.status == "error":
        assert result.message.startswith(str(path))
