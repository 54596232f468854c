"""Golden reference of Perceiver, Perceiver IO, Perceiver AR and Flamingo on NumPy and CuPy.

import perceiver_ref as pr

model = pr.preset("perceiver-io/imagenet-fourier")
params = model.init(seed=0)
logits = model.apply(params, images)

models
    perceiver_io      Perceiver and Perceiver IO: inputs/, encoder, decoder with queries, outputs/
    autoregressive/   Perceiver AR
    flamingo/         Perceiver Resampler, GATED XATTN-DENSE, and a whole Flamingo
    attention, layers, position, rotary, modalities, masks, resize, tiling    what they are made of
    parameters, call  a model as a tree of parameters and a pure `apply`; what one call needs besides
    conventions       where implementations differ, each choice an option; differences/ shows each on cases
    published/        the published configurations; ledger/ has what they cost
other implementations
    peers/            their configurations, names and calls
    checkpoints       their weights, in the files of formats/, and our own
    vectors/          cases of theirs; export/ makes new ones
    crosscheck/       comparing with cases, and why something differs; testing, pytest_plugin for tests of ports
    tracing           names of intermediate values; variation exchanges layers, for `diagnose`
training
    autograd/         the engine: operations, gradients, optimizers, kernels
    training/         the loop; recipes/ have what it trains
    classification    labels and accuracy; sampling draws tokens from logits
for people
    cli/              the command `perceiver-ref`
    specification/    docs/SPEC.md and its diagrams
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .version import __version__

if not (Path(__file__).parent / "autograd").is_dir() and find_spec("perceiver_ref.autograd") is None:
    raise ImportError(
        "this is the source folder of perceiver_ref, whose part autograd/ only an installation puts in place: "
        "install it with `python -m pip install -e .`, or start Python in another folder"
    )

# name -> module that defines it; imported on first use, so that `import perceiver_ref` costs next to nothing
_PUBLIC = {
    "Conventions": ".conventions",
    "DIALECTS": ".conventions",
    "Flamingo": ".flamingo.model",
    "InputError": ".errors",
    "PerceiverAR": ".autoregressive",
    "PerceiverIO": ".perceiver_io",
    "load": ".checkpoints",
    "load_with_state": ".checkpoints",
    "preset": ".published",
    "presets": ".published",
    "trace": ".tracing",
    "variants": ".published",
}
_MODULES = ("autograd", "peers", "vectors", "crosscheck", "ledger")

__all__ = ["__version__", *_PUBLIC, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
