"""Live modules of the PyTorch peers, each with what it is called with: what the tests of recording record."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from porting.cases import FILES

from perceiver_ref.porting.cases import Case, read_case

torch = pytest.importorskip("torch", reason="needs the extra: perceiver-ref[peers]")


class Live(NamedTuple):
    """A module, the arguments of its call, and the context that it is called in, with every step in float64."""

    module: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    context: AbstractContextManager[Any]


def cases(peer: str) -> list[Path]:
    return [path for path in FILES if path.parent.name == peer]


def tensors(case: Case) -> dict[str, Any]:
    return {k: torch.tensor(a, requires_grad=a.dtype.kind == "f") for k, a in case.inputs.items()}


def filled(module: Any, case: Case) -> Any:
    """The module in float64 with the case's parameters and buffers."""
    module = module.double().eval()
    given = {**case.params, **case.state}
    for name, tensor in module.state_dict().items():
        if name in given:
            tensor.copy_(torch.from_numpy(np.asarray(given[name])).to(tensor.dtype))
    return module


def hf(case: Case) -> Live | None:
    """transformers' Perceiver, whole and its parts."""
    from heavy import hf_configurations as peer
    from heavy.precision import promoted

    name, call = case.meta["class"].rpartition(".")[2], dict(case.meta["call"])
    positional = bool(call.pop("positional", False))
    if name == "PerceiverFourierPositionEncoding":
        kwargs = {key: call.pop(key) for key in ("num_bands", "max_resolution", "concat_pos", "sine_only")}
        call |= {"device": torch.device("cpu"), "dtype": torch.float64}
        return Live(peer.peer.PerceiverFourierPositionEncoding(**kwargs), (), call, promoted(peer.peer))
    if not isinstance(getattr(peer.peer, name), type):
        return None
    with promoted(peer.peer):
        module = filled(peer.model(name, case.meta["config"]), case)
    kwargs = peer._nested({**tensors(case), **call})
    args = (kwargs.pop("inputs"),) if positional and "inputs" in kwargs else ()
    return Live(module, args, kwargs, promoted(peer.peer))


def lucidrains(case: Case) -> Live | None:
    """perceiver-pytorch."""
    from heavy import lucidrains_configurations as peer

    path, _, name = case.meta["class"].rpartition(".")
    target = getattr(importlib.import_module(path), name)
    if not isinstance(target, type):
        return None
    with peer.float64_throughout():
        module = filled(target(**case.meta["config"]), case)
    return Live(module, (), {**peer._listed(tensors(case)), **case.meta["call"]}, peer.float64_throughout())


def open_flamingo(case: Case) -> Live | None:
    """open_flamingo's `helpers`, without the rest of the package, which needs much else."""
    _bare("open_flamingo", "open_flamingo.src")
    module = importlib.import_module("open_flamingo.src.helpers")
    made = getattr(module, case.meta["class"].rpartition(".")[2])(**case.meta["config"])
    return Live(filled(made, case), (), {**tensors(case), **case.meta["call"]}, nullcontext())


def krasserm(case: Case) -> Live | None:
    """perceiver-io's backends, without its training code, which needs much else."""
    model = "perceiver.model"
    _bare("perceiver", model, *(f"{model}.{part}" for part in ("text", "vision", "audio")))
    tasks = ("text.common", "text.mlm", "text.classifier", "vision.image_classifier", "vision.optical_flow")
    _bare(*(f"{model}.{task}" for task in tasks))
    text = importlib.import_module(f"{model}.text.common.backend")
    vars(sys.modules[f"{model}.text.common"]).update(vars(text))
    call = {key: value for key, value in case.meta["call"].items() if key != "positional"}
    if call.pop("method", "") == "kv_cache":
        return None
    inputs = tensors(case)
    if "frq_q" in inputs:
        turn = importlib.import_module(f"{model}.core.position").RotaryPositionEmbedding
        right = call.pop("right_align", False)
        angles = {key: inputs.pop(key).detach() for key in ("frq_q", "frq_k")}
        inputs |= {f"rot_pos_emb_{key[-1]}": turn(value, right_align=right) for key, value in angles.items()}
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        module = filled(_krasserm(case, text), case)
    finally:
        torch.set_default_dtype(default)
    return Live(module, (), {**inputs, **call}, nullcontext())


def _krasserm(case: Case, text: Any) -> Any:
    core = importlib.import_module("perceiver.model.core")
    path, _, name = case.meta["class"].rpartition(".")
    module = importlib.import_module(path)
    config = {key: value for key, value in case.meta["config"].items() if key not in ("class", "model")}
    if name == "PerceiverEncoder":
        adapter = type("Adapter", (core.InputAdapter,), {"forward": lambda self, x: x})
        return module.PerceiverEncoder(input_adapter=adapter(config.pop("num_input_channels")), **config)
    if name == "PerceiverDecoder":
        adapter = type("Adapter", (core.OutputAdapter,), {"forward": lambda self, x: x})
        queries = core.TrainableQueryProvider(config.pop("num_queries"), config.pop("num_query_channels"))
        return module.PerceiverDecoder(output_adapter=adapter(), output_query_provider=queries, **config)
    if name == "CausalSequenceModel":
        return module.CausalSequenceModel(_data(core.CausalSequenceModelConfig, config))
    if name in ("MultiHeadAttention", "FourierPositionEncoding"):
        return getattr(module, name)(**config)
    encoders = {"ImageClassifier": "ImageEncoderConfig", "OpticalFlow": "OpticalFlowEncoderConfig"}
    decoders = {"OpticalFlow": "OpticalFlowDecoderConfig", "MaskedLanguageModel": "TextDecoderConfig"}
    into = getattr(module, encoders[name]) if name in encoders else text.TextEncoderConfig
    out = getattr(module, decoders[name]) if name in decoders else core.ClassificationDecoderConfig
    sizes = (config["num_latents"], config["num_latent_channels"])
    parts = (_data(into, config["encoder"]), _data(out, config["decoder"]))
    return getattr(module, name)(core.PerceiverIOConfig(*parts, *sizes))


def _data(cls: Any, values: dict[str, Any]) -> Any:
    known = {field.name for field in dataclasses.fields(cls)}
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known})


def _bare(*packages: str) -> None:
    """Packages whose own code is not run, so that only the files that are asked for are imported."""
    for name in packages:
        if name in sys.modules:
            continue
        parent, _, last = name.rpartition(".")
        folders = sys.modules[parent].__path__ if parent else sys.path
        found = [str(Path(folder) / last) for folder in folders if (Path(folder) / last / "__init__.py").is_file()]
        if not found:
            pytest.skip(f"needs {name}")
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = found[:1]


PEERS = {"hf": hf, "lucidrains-perceiver": lucidrains, "open-flamingo": open_flamingo, "krasserm": krasserm}


def paths() -> Iterator[tuple[str, Path]]:
    """Every case of these peers, which says how a live module is made and called."""
    for peer in PEERS:
        yield from ((peer, path) for path in cases(peer))


def live(peer: str, path: Path) -> Live:
    made = PEERS[peer](read_case(path))
    if made is None:
        pytest.skip("no single call of a module")
    return made
