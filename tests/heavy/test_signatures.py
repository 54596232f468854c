"""Every default of our tables of options is the one in the live signature, for all peers that can be installed."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from perceiver_ref.peers import PEERS, base
from perceiver_ref.peers.transformers.perceiver.config import activation
from perceiver_ref.porting.cases import PACKAGED, read_case
from perceiver_ref.porting.cases.execution import rebuild, run

torch = pytest.importorskip("torch", reason="needs the extra: perceiver-ref[peers]")
pytest.importorskip("transformers", reason="needs the extra: perceiver-ref[peers]")
pytest.importorskip("perceiver_pytorch", reason="needs the extra: perceiver-ref[peers]")
pytest.importorskip("flamingo_pytorch", reason="needs the extra: perceiver-ref[peers]")

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]
VECTORS = Path(__file__).resolve().parents[1] / "vectors"
LIVE = (
    *("torch", "hf", "lucidrains-perceiver", "lucidrains-flamingo", "idefics", "idefics2", "evolla", "mllama"),
    *("edgetam", "aurora", "perceiver-ar-pytorch"),
)
MODELS = "transformers.models"
MODULES = {
    "hf": [f"{MODELS}.perceiver.modeling_perceiver", f"{MODELS}.perceiver.configuration_perceiver"],
    "lucidrains-perceiver": [f"perceiver_pytorch.{name}" for name in ("perceiver_pytorch", "perceiver_io")],
    "lucidrains-flamingo": ["flamingo_pytorch.flamingo_pytorch", "flamingo_pytorch.flamingo_palm"],
    "idefics": [f"{MODELS}.idefics.{name}" for name in ("modeling_idefics", "perceiver", "configuration_idefics")],
    "idefics2": [f"{MODELS}.idefics2.{name}_idefics2" for name in ("modeling", "configuration")],
    "evolla": [f"{MODELS}.evolla.{name}_evolla" for name in ("modeling", "configuration")],
    "mllama": [f"{MODELS}.mllama.{name}_mllama" for name in ("modeling", "configuration")],
    "edgetam": [f"{MODELS}.edgetam_video.{name}_edgetam_video" for name in ("modeling", "configuration")],
    "aurora": ["aurora.model.perceiver"],
    "perceiver-ar-pytorch": ["perceiver_ar_pytorch.perceiver_ar_pytorch"],
    "torch": ["torch.nn.functional", "torch.optim", "torch.nn", f"{MODELS}.perceiver.modeling_perceiver"],
}
ALSO = {
    "fourier_position_encoding_kwargs": ["PerceiverFourierPositionEncoding"],
    "trainable_position_encoding_kwargs": ["PerceiverTrainablePositionEncoding"],
    "PerceiverLM": ["PerceiverIO"],  # which it passes its options on to
    "IdeficsGatedCrossAttentionLayer": ["IdeficsConfig"],
    **{
        f"Perceiver{kind}Decoder": ["PerceiverBasicDecoder"] for kind in ("Classification", "OpticalFlow", "Multimodal")
    },
    "PerceiverBasicVideoAutoencodingDecoder": ["PerceiverBasicDecoder"],
    "Conv2dSamePadding": ["Conv2d"],
}
"""Where more of a class's options are declared."""
SAME = {"stride": 1, "padding": 0, "dilation": 1, "output_padding": 0, "dim": 1, "inverted_cross_attn": False}
"""What our None stands for, where an option may be one number or several."""
OPEN = {"vision_config", "perceiver_config", "protein_encoder_config"}
"""Configurations in configurations: None, or all of their own defaults."""
OURS = {
    *("steps", "clip_grad_norm", "only", "method", "attn_implementation", "tokens_per_image", "num_vision_tokens"),
    *("fourier_position_encoding_kwargs", "trainable_position_encoding_kwargs", "config", "num_labels"),
    *("project_pos_dim", "out_channels", "interpolate_pos_encoding", "output_attentions"),
    *("vision_config", "qk_layer_norms"),  # IDEFICS reads them off its configuration
    "use_fp16_safe_attention",  # an attribute of Aurora's attention
}
"""Options that are a case's own, or that a class passes on through keywords."""


def signature(callable_: Any) -> dict[str, Any]:
    """Names with defaults (`inspect.Parameter.empty` without), from the docstring of what is not Python."""
    try:
        parameters = inspect.signature(callable_).parameters.values()
    except ValueError:
        text = re.search(r"\w+\((.*?)\)\s*->", callable_.__doc__, re.DOTALL)
        assert text is not None
        function = ast.parse(f"def f({text[1]}): pass").body[0]
        space: dict[str, Any] = {}
        exec(ast.unparse(function), space)
        parameters = inspect.signature(space["f"]).parameters.values()
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {p.name: p.default for p in parameters if p.kind not in kinds and p.name != "self"}


def found(peer: str, path: str) -> Iterator[Any]:
    """The live objects of a class's name, by its module path where it has one, else in the peer's modules."""
    path = path.split("(")[0]
    module, _, name = path.rpartition(".")
    paths = [f"perceiver_pytorch.{module}", module, *MODULES[peer]]
    for place in paths:
        try:
            live = getattr(importlib.import_module(place), name, None)
        except (ImportError, ValueError):
            continue
        if live is not None:
            inner = getattr(importlib.import_module(place), f"_{name}", None) if name.startswith("max_pool") else None
            yield inner or live
            if isinstance(live, type) and "forward" in vars(live):
                yield live.forward
            return


@pytest.fixture(scope="module")
def tables() -> dict[tuple[str, str, str], Mapping[str, Any]]:
    """(peer, class, of what) -> the options with defaults that were read while every recorded case ran."""
    seen: dict[tuple[str, str, str], dict[str, Any]] = {}
    current = ["", ""]
    original = base.options

    def watching(what: str, given: Any, known: Mapping[str, Any], *rest: Any, **named: Any) -> Any:
        table = seen.setdefault((current[0], current[1], what), {})
        if what.startswith("a part"):  # {"class", "kwargs"} of a case's own
            return original(what, given, known, *rest, **named)
        table |= {key: table.get(key) if value is None else value for key, value in known.items()}
        return original(what, given, known, *rest, **named)

    for name in PEERS:
        _ = PEERS[name]
    places = [module for name, module in sys.modules.items() if name.startswith("perceiver_ref.peers")]
    holders = [(module, key) for module in places for key, value in vars(module).items() if value is original]
    try:
        for module, key in holders:
            setattr(module, key, watching)
        for peer in LIVE:
            for file in sorted([*(VECTORS / peer).glob("*.npz"), *(PACKAGED / peer).glob("*.npz")]):
                case = read_case(file)
                current[:] = [peer, case.meta["class"]]
                rebuilt, arrays = rebuild(case)
                run(rebuilt, arrays, case.inputs, case.meta["call"], dtype=case.dtype)
    finally:
        for module, key in holders:
            setattr(module, key, original)
    return seen  # type: ignore[return-value]


def live_options(peer: str, cls: str, what: str) -> dict[str, Any]:
    """Every option that the live objects of a table take; one that has a default somewhere has it."""
    names = [what, *ALSO.get(what, [])] if what[:1].isupper() or what in ALSO else [cls]
    own = ("forward", "the function", "the optimizer", "EvollaConfig", cls.rpartition(".")[2])
    names += [cls] if what in own else []
    names += ALSO.get(cls.rpartition(".")[2], [])
    merged: dict[str, Any] = {}
    for name in dict.fromkeys(names):
        for live in found(peer, name):
            for key, default in signature(live).items():
                if merged.get(key, inspect.Parameter.empty) is inspect.Parameter.empty:
                    merged[key] = default
    return merged


def differs(key: str, ours: Any, theirs: Any) -> bool:
    if theirs is inspect.Parameter.empty:
        return False  # whether it is required is the model's to say
    value = None if isinstance(ours, base.Option) else ours
    if value is None and theirs is not None:
        return SAME.get(key) != theirs
    if key in OPEN or (isinstance(value, tuple) and value == tuple(theirs)):
        return False
    number = isinstance(value, (int, float)) and isinstance(theirs, (int, float))
    return (
        value != theirs
        or (not number and type(value) is not type(theirs))
        or isinstance(value, bool) != isinstance(theirs, bool)
    )


def test_every_default_is_the_live_one(tables: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> None:
    problems, compared = [], set()
    for (peer, cls, what), known in tables.items():
        theirs = live_options(peer, cls, what)
        for key, ours in known.items():
            if key not in theirs:
                if key not in OURS and theirs:
                    problems.append(f"{peer} {what} ({cls}): there is no option {key}")
            elif differs(key, ours, theirs[key]):
                problems.append(f"{peer} {what} ({cls}): {key} is {ours!r} here, {theirs[key]!r} there")
            else:
                compared.add((peer, what if what[:1].isupper() else cls, key))
    assert sorted(set(problems)) == []
    assert len(compared) > 250  # not a comparison of nothing


def test_the_default_call_of_multihead_attention_averages_its_maps() -> None:
    assert signature(torch.nn.MultiheadAttention.forward)["average_attn_weights"] is True


def test_every_activation_without_parameters_is_known() -> None:
    from transformers.activations import ACT2FN

    for name in ACT2FN:
        if not list(ACT2FN[name].parameters()):
            assert activation(name)
