"""The table by which a live module is known: class path -> peer, class and configuration.

Each file has the `ROWS` of one package, by class path; a new peer is a row there, or a file and a line of `_FILES`.

base                  what a row says
transformers          rows of transformers, whose modules keep their configuration
transformers_poolers  those that attend once: SigLIP, Kosmos-2, Aria; and EdgeTAM
perceiver_parts       its Perceiver's preprocessors, decoders and postprocessors, read off their attributes
lucidrains            perceiver-pytorch and flamingo-pytorch, which keep no configuration: read off shapes
perceiver_ar          the same for perceiver-ar-pytorch
open_flamingo         the same for open_flamingo
krasserm              perceiver-io
adapters              ip-adapter, PuLID and diffusers
poolers               timm and open_clip
speech                coqui-tts, naturalspeech2-pytorch, chatterbox-tts and NeMo
minicpmv              MiniCPM-V's own files and vLLM
sets                  3DShape2VecSet and VecSetX
aurora                microsoft-aurora
torch_nn              PyTorch's own modules
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module, metadata
from typing import Any

from ....errors import one_line
from ...cases.compare import TOLERANCES
from .base import UNKNOWN, Recognised, Row, Unread

__all__ = ["UNKNOWN", "Recognised", "Row", "Unread", "class_path", "recognise", "rows"]

_FILES = {
    "transformers": "transformers",
    "perceiver_pytorch": "lucidrains",
    "flamingo_pytorch": "lucidrains",
    "open_flamingo": "open_flamingo",
    "perceiver": "krasserm",
    "perceiver_ar_pytorch": "perceiver_ar",
    **dict.fromkeys(("ip_adapter", "pulid", "diffusers"), "adapters"),
    **dict.fromkeys(("timm", "open_clip"), "poolers"),
    **dict.fromkeys(("TTS", "naturalspeech2_pytorch", "chatterbox", "nemo"), "speech"),
    **dict.fromkeys(("vllm", "transformers_modules"), "minicpmv"),
    **dict.fromkeys(("models_ae", "vecset"), "sets"),
    "aurora": "aurora",
    "torch": "torch_nn",
}
"""Top-level package of a class -> the file of this folder that has its rows."""
_REMOTE = "transformers_modules"


def class_path(module: Any) -> str:
    """The module path and name of an object's class."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _key(path: str) -> tuple[str | None, str]:
    """The file that may have the row of a class path, and the path there: of a module that transformers imported from
    a model's folder without what names that folder."""
    package, *_ = parts = path.split(".")
    return _FILES.get(package), ".".join((package, *parts[-2:])) if package == _REMOTE else path


def rows() -> Iterator[tuple[str, Row]]:
    """Every row with its class path."""
    for file in dict.fromkeys(_FILES.values()):
        yield from _rows(file).items()


def recognise(module: Any) -> tuple[Recognised, list[str]]:
    """Which peer's class a module is, and notes; `UNKNOWN` for any other, of which its own configuration is kept."""
    path = class_path(module)
    file, key = _key(path)
    row = _rows(file).get(key) if file else None
    if row is None:
        return Recognised(UNKNOWN, path, own_configuration(module)), _ancestor(module)
    try:
        config, call, partial = dict(row.config(module)), dict(row.call(module)), row.partial(module)
        name = row.which(module) if row.which else row.name or path
        json.dumps([config, call])
    except Exception as error:  # a class of the same name in another version has other attributes
        why = f"{path} of {row.peer} is built in a way that is not known ({one_line(error, 80)})"
        return Recognised(UNKNOWN, path, own_configuration(module)), [why]
    made = Recognised(
        row.peer,
        name,
        config,
        call,
        row.arguments,
        row.given,
        row.outputs,
        row.without,
        row.encoder,
        row.opened,
        partial,
        row.held,
        row.watched,
        row.chance,
        _version(row.distribution, path),
        row.inside,
        _tolerance(module, row),
    )
    return made, []


def _tolerance(module: Any, row: Row) -> dict[str, float] | None:
    """That of what is computed inside, and more where that takes sines of large angles, which are off by a rounding or
    two, 2e-7 of the angle; of Fourier positions up to pi times half the resolution. None where all is in the module's
    own dtype."""
    parts = [part for _, part in module.named_modules()]
    if callable(row.float32):
        coarse = row.float32(module)
    else:
        coarse = any(type(part).__name__ in row.float32 for part in parts)
    if not coarse:
        return None
    angles = [size for part in parts for size in getattr(part, "max_resolution", ())]
    more = max(2e-7 * size / TOLERANCES["float32"]["output"] for size in (row.angles(module), *angles))
    return {kind: limit * max(more, 1.0) for kind, limit in TOLERANCES[row.inside].items()}


def own_configuration(module: Any) -> dict[str, Any]:
    """What an unknown module says of itself: its `config`, as far as JSON holds it, else such attributes."""
    given: Any = getattr(module, "config", None)
    if hasattr(given, "to_dict"):
        given = given.to_dict()
    if not isinstance(given, Mapping):
        given = vars(given) if given is not None and hasattr(given, "__dict__") else vars(module)
    names = [key for key in given if isinstance(key, str) and not key.startswith("_") and key != "training"]
    kept = {name: given[name] for name in names if _simple(given[name])}
    return copy.deepcopy(kept)  # the module may change them


def _simple(value: Any, depth: int = 0) -> bool:
    """Whether a value is a number, a text or a flag, or a short list or dict of them."""
    if isinstance(value, (list, tuple)):
        return depth < 4 and len(value) <= 100 and all(_simple(part, depth + 1) for part in value)
    if isinstance(value, dict):
        return depth < 4 and all(isinstance(k, str) and _simple(part, depth + 1) for k, part in value.items())
    if isinstance(value, float):
        return value == value and abs(value) != float("inf")
    return value is None or isinstance(value, (bool, int, str))


def _ancestor(module: Any) -> list[str]:
    """A note where a module's class is derived from a known one, whose configuration need not tell what it does."""
    for cls in type(module).__mro__[1:]:
        path = f"{cls.__module__}.{cls.__qualname__}"
        file, key = _key(path)
        if file and key in _rows(file):
            return [f"the class is derived from {path}, which may say something else of it"]
    return []


def _rows(file: str) -> Mapping[str, Row]:
    made: Mapping[str, Row] = import_module(f".{file}", __name__).ROWS
    return made


def _version(distribution: str, path: str) -> str:
    """The version that is installed; "" where that cannot be told."""
    package = path.partition(".")[0]
    try:
        return metadata.version(distribution or package)
    except metadata.PackageNotFoundError:
        return str(getattr(sys.modules.get(package), "__version__", ""))
