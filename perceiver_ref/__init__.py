"""Golden reference of Perceiver, Perceiver IO, Perceiver AR and Flamingo on NumPy and CuPy.

import perceiver_ref as pr

model = pr.preset("perceiver-io/imagenet-fourier")
params = model.init(seed=0)
logits = model.apply(params, images)

    plain.py    the architectures in plain NumPy, on two screens: begin here
    autograd/   the engine: operations, gradients, optimizers, kernels
    models/     Perceiver, Perceiver IO, Perceiver AR, Flamingo; the published configurations and what they cost
    peers/      other implementations: their configurations, names and calls
    weights/    their weights, in the files that they come in, and our own
    porting/    cases of other implementations, checking, comparing, diagnosing; making cases of a model
    testing.py, pytest_plugin.py  the same in the tests of a port
    training/   the loop, and the recipes that it trains
    cli/        the command `perceiver-ref`
    host/       files, signals and memory of the machine that all of it runs on
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
    "Conventions": ".models.conventions",
    "DIALECTS": ".models.conventions",
    "Flamingo": ".models.flamingo.model",
    "InputError": ".errors",
    "PerceiverAR": ".models.perceiver_ar",
    "PerceiverIO": ".models.perceiver_io",
    "bind": ".porting.bind.bind",
    "load": ".weights.checkpoints",
    "load_with_state": ".weights.checkpoints",
    "preset": ".models.published",
    "presets": ".models.published",
    "record": ".porting.record.session",
    "save": ".weights.saving",
    "trace": ".models.tracing",
    "variants": ".models.published",
}
_MODULES = {
    "autograd": ".autograd",
    "peers": ".peers",
    "vectors": ".porting.cases",
    "crosscheck": ".porting",
    "ledger": ".models.ledger",
    "training": ".training",
}

__all__ = ["__version__", *_PUBLIC, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(_MODULES[name], __name__)
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
