"""The reference: with fast kernels, with the plain definitions, with layers computed again going back, and recorded."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

import perceiver_ref as pr
from perceiver_ref.autograd import backend as backends
from perceiver_ref.autograd import keep_memory, kernels, ops, optim, products, recorded, tree, value_and_grad
from perceiver_ref.autograd.observing import Event, observe
from perceiver_ref.models.call import Call
from perceiver_ref.models.ledger.costs import linear_flops, mixed_flops, weights_flops
from perceiver_ref.peers.transformers.perceiver.forward import channels_last

from .base import BACKWARD_FLOPS, RATE, Built, Spec, sample, with_gradients
from .case import BOTH, FORWARD, STEP
from .cases import case
from .memory import cupy_peak, process_peak, resident
from .subjects import Workload, cotangent, nested, subject, weights

MODES: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "plain": lambda: kernels("plain"),
    "recorded 3xtf32": lambda: products("3xtf32"),
}
"""What an implementation of ours computes within."""


def build(spec: Spec) -> Built:
    """The model of a case."""
    keep_memory()
    row = case(spec.case)
    made = subject(row.kind, row.sizes(spec.quick))

    def mode() -> AbstractContextManager[None]:
        return MODES.get(spec.implementation, nullcontext)()

    rebuilt = made.rebuild()
    model = _recomputing(rebuilt.model) if spec.implementation == "checkpointed" else rebuilt.model
    library = backends.module(spec.backend)

    def moved(array: Any) -> Any:
        return backends.to_backend(array, spec.backend)

    params = tree.map(moved, weights(model))
    run = _caller(made, model, rebuilt, tree.map(moved, dict(made.inputs)))
    passes: dict[str, Callable[[], Any]] = {}
    cotangents: dict[str, Any] = {}

    def forward() -> Any:
        with mode():
            return caller(params)

    def loss(p: Any) -> Any:
        outputs = run(p)
        for name, out in outputs.items():
            if name not in cotangents:
                cotangents[name] = moved(cotangent(name, tuple(out.shape)))
        return total(ops.sum(ops.multiply(out, cotangents[name])) for name, out in outputs.items()), outputs

    gradients = value_and_grad(loss, has_aux=True)

    def both() -> Any:
        with mode():
            return gradients(params)

    def count(name: str) -> int:
        return _count(lambda: run(params)) * (1 if name == FORWARD else BACKWARD_FLOPS)

    replayed = spec.implementation.startswith("recorded")
    caller, gradients = (recorded(run), recorded(gradients)) if replayed else (run, gradients)
    if FORWARD in row.passes and spec.implementation != "checkpointed":
        passes[FORWARD] = forward
    if BOTH in row.passes:
        passes[BOTH] = both
    if STEP in row.passes:
        passes[STEP] = _stepper(made, run, params, mode)

    def wait() -> None:
        if spec.backend == "cupy":
            library.cuda.get_current_stream().synchronize()

    wait()
    held = resident() if spec.backend == "numpy" else int(library.get_default_memory_pool().used_bytes())
    return Built(
        passes,
        {FORWARD: _host_sample, BOTH: _host_both, STEP: lambda out: np.array([float(out)])},
        wait,
        # a recording's memory is taken before it is called
        None if replayed else process_peak(held) if spec.backend == "numpy" else cupy_peak(library),
        held,
        count,
        {"perceiver-ref": pr.__version__, "numpy": np.__version__, **_cupy(spec, library)},
    )


def _recomputing(model: Any) -> Any:
    return replace(model, encoder=replace(model.encoder, recompute=True))


def _caller(made: Workload, model: Any, rebuilt: Any, inputs: dict[str, Any]) -> Callable[[Any], dict[str, Any]]:
    """params -> outputs by name. transformers' arguments are laid out as ours beforehand, once."""
    if made.peer != "hf":
        return lambda p: rebuilt.run(rebuilt.model, p, inputs, {}, Call())
    given = nested(inputs)
    x = channels_last(model.preprocessor, given["inputs"])
    mask = None if "attention_mask" not in given else given["attention_mask"] != 0
    options = dict(made.ours)
    if "subsampled_output_points" in given:
        options["points"] = given["subsampled_output_points"]

    def run(p: Any) -> dict[str, Any]:
        out = model.apply(p, x, mask=mask, **options)
        return dict(out) if isinstance(out, dict) else {"out": out}

    return run


def total(values: Any) -> Any:
    """The sum of 0-d values."""
    result = None
    for value in values:
        result = value if result is None else ops.add(result, value)
    return result


def _stepper(made: Workload, run: Any, params: Any, mode: Any) -> Callable[[], Any]:
    """One step of AdamW after the other, as the recipes' loop takes them: flat trees, the loss before the update."""
    optimizer = optim.adamw(RATE, weight_decay=0.01)
    flat = tree.flatten(params)
    state = optimizer.init(flat)

    def loss(p: Any) -> Any:
        (logits,) = run(tree.unflatten_like(params, list(p.values()))).values()
        return ops.cross_entropy(logits, made.labels)

    gradients = value_and_grad(loss)

    def step() -> Any:
        nonlocal flat, state
        with mode():
            value, grads = gradients(flat)
            flat, state = optimizer.step(flat, grads, state)
        return value

    return step


def _host_sample(outputs: dict[str, Any]) -> np.ndarray:
    return sample({name: backends.to_host(out) for name, out in outputs.items()})


def _host_both(result: Any) -> np.ndarray:
    (_, outputs), gradients = result
    squares = sum(float((backends.to_host(g).astype(np.float64) ** 2).sum()) for _, g in tree.leaves(gradients))
    return with_gradients(_host_sample(outputs), squares)


def _count(forward: Callable[[], Any]) -> int:
    """FLOPs of what runs, by the ledger's rule."""
    found = 0

    def watch(event: Event) -> None:
        nonlocal found
        found += linear_flops(event)
        if event.op.name == "attention":
            found += weights_flops(event) + mixed_flops(event)

    with observe(watch):
        forward()
    return found


def _cupy(spec: Spec, library: Any) -> dict[str, str]:
    if spec.backend != "cupy":
        return {}
    return {"cupy": f"{library.__version__}, CUDA {library.cuda.runtime.runtimeGetVersion()}"}
