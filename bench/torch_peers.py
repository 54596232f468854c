"""transformers, perceiver-pytorch and flamingo-pytorch: eager, or after `torch.compile`."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

from .base import RATE, Built, MissingError, Spec, sample, with_gradients
from .case import BOTH, FORWARD, STEP
from .cases import case
from .memory import process_peak, resident, torch_peak
from .subjects import Workload, cotangent, nested, subject, weights

PACKAGES = {
    "hf": "transformers",
    "lucidrains-perceiver": "perceiver_pytorch",
    "lucidrains-flamingo": "flamingo_pytorch",
}


def build(spec: Spec) -> Built:
    """The peer's class of a case, with our weights."""
    row = case(spec.case)
    made = subject(row.kind, row.sizes(spec.quick))
    try:
        import torch

        package = importlib.import_module(PACKAGES[made.peer])
    except ImportError as error:
        raise MissingError(f"{error.name} is not installed") from error
    if spec.backend == "cupy" and not torch.cuda.is_available():
        raise MissingError("PyTorch finds no GPU")
    device = torch.device("cuda" if spec.backend == "cupy" else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = spec.tf32
    torch.manual_seed(0)
    model = _model(package, made).to(device).eval()
    _load(torch, model, made)
    compiled = torch.compile(model) if spec.implementation.endswith(" compiled") else model
    arguments = nested({name: torch.from_numpy(a).to(device) for name, a in made.inputs.items()} | dict(made.call))
    positional = () if made.peer == "hf" else tuple(arguments.pop(name) for name in ("data", "x") if name in arguments)

    def run() -> dict[str, Any]:
        out = compiled(*positional, **arguments)
        out = out.logits if made.peer == "hf" else out
        return dict(out) if isinstance(out, dict) else {"out": out}

    def forward() -> Any:
        with torch.inference_mode():
            return run()

    cotangents: dict[str, Any] = {}

    def both() -> Any:
        model.zero_grad(set_to_none=True)
        outputs = run()
        for name, out in outputs.items():
            if name not in cotangents:
                cotangents[name] = torch.from_numpy(cotangent(name, tuple(out.shape))).to(device)
        sum((out * cotangents[name]).sum() for name, out in outputs.items()).backward()
        return {name: out.detach() for name, out in outputs.items()}

    def summary(outputs: Any) -> np.ndarray:
        return sample({name: out.cpu().numpy() for name, out in outputs.items()})

    def summary_both(outputs: Any) -> np.ndarray:
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        return with_gradients(summary(outputs), sum(float((g.double() ** 2).sum()) for g in grads))

    passes: dict[str, Callable[[], Any]] = {FORWARD: forward, BOTH: both}
    if STEP in row.passes:
        passes[STEP] = _stepper(torch, model, run, torch.from_numpy(made.labels).to(device))
    on_gpu = device.type == "cuda"
    held = int(torch.cuda.memory_allocated()) if on_gpu else resident()
    return Built(
        {name: call for name, call in passes.items() if name in row.passes},
        {FORWARD: summary, BOTH: summary_both, STEP: lambda loss: np.array([float(loss)])},
        torch.cuda.synchronize if on_gpu else lambda: None,
        torch_peak(torch, held) if on_gpu else process_peak(held),
        held,
        versions={"torch": torch.__version__, package.__name__: version(package.__name__.replace("_", "-"))},
    )


def _model(package: Any, made: Workload) -> Any:
    if made.peer == "hf":
        package.logging.set_verbosity_error()
        return getattr(package, made.cls)(package.PerceiverConfig(**made.config))
    return getattr(package, made.cls)(**made.config)


def _load(torch: Any, model: Any, made: Workload) -> None:
    """Our weights, by the peer's names; every parameter must get some."""
    shapes = {name: tuple(a.shape) for name, a in model.state_dict().items()}
    rebuilt = made.rebuild(shapes)
    arrays = rebuilt.store(weights(rebuilt.model), shapes)
    own = dict(model.named_parameters())
    if missing := sorted(set(own) - set(arrays)):
        raise MissingError(f"no weights for {', '.join(missing[:3])}")
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(torch.from_numpy(np.ascontiguousarray(arrays[name])))


def _stepper(torch: Any, model: Any, run: Callable[[], Any], labels: Any) -> Callable[[], Any]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        logits = run()["out"]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


warnings.filterwarnings("ignore")  # of the peers' own code; failures are exceptions
