"""A step of the digits recipe, as its loop takes it, beside the same model written in PyTorch.

Both begin with one set of weights, see one batch again and again, and update by AdamW with weight decay of the weight
matrices alone, after clipping the gradients' norm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np

import perceiver_ref as pr
from perceiver_ref.autograd import backend as backends
from perceiver_ref.autograd import keep_memory, kernels, tree
from perceiver_ref.models.call import Call
from perceiver_ref.models.encoder import weights_of
from perceiver_ref.training.recipes.digits import RECIPES, SMOOTHING, Digits
from perceiver_ref.training.step import training_step

from .base import RATE, Built, MissingError, Spec
from .case import STEP
from .cases import case
from .memory import cupy_peak, process_peak, resident, torch_peak

_SETTINGS = replace(RECIPES[0].stages[0].settings, learning_rate=RATE, schedule="constant")


def build(spec: Spec) -> Built:
    """The recipe's model and batch at the case's size."""
    task = Digits(0, **case(spec.case).sizes(spec.quick))
    return _torch(spec, task) if spec.implementation == "torch" else _ours(spec, task)


def _ours(spec: Spec, task: Digits) -> Built:
    keep_memory()
    library = backends.module(spec.backend)
    structure = task.init()
    params = tree.map(library.asarray, tree.flatten(structure))
    optimizer = task.optimizer(_SETTINGS)
    state = optimizer.init(params)
    batch = task.batch(0)
    step = training_step(task, structure, optimizer, spec.backend)

    def run() -> Any:
        nonlocal params, state
        with kernels("plain") if spec.implementation == "plain" else nullcontext():
            params, state, loss, _ = step(params, state, batch, Call(training=True, key=(0, 0, 0)))
        return loss

    held = resident()
    on_gpu = spec.backend == "cupy"
    return Built(
        {STEP: run},
        {STEP: _number},
        library.cuda.get_current_stream().synchronize if on_gpu else lambda: None,
        cupy_peak(library) if on_gpu else process_peak(held),
        held,
        versions={"perceiver-ref": pr.__version__, "numpy": np.__version__},
    )


def _torch(spec: Spec, task: Digits) -> Built:
    try:
        torch: Any = import_module("torch")
    except ImportError as error:
        raise MissingError(f"{error.name} is not installed") from error
    if spec.backend == "cupy" and not torch.cuda.is_available():
        raise MissingError("PyTorch finds no GPU")
    device = torch.device("cuda" if spec.backend == "cupy" else "cpu")
    structure = task.init()
    params = {path: _turned(torch, path, p).to(device).requires_grad_() for path, p in tree.leaves(structure)}
    batch = {key: torch.from_numpy(a).to(device) for key, a in task.batch(0).items()}
    forward = _model(torch, task)
    positions = torch.from_numpy(_positions(task)).to(device)
    decayed = [p for path, p in params.items() if task.decays(path)]
    others = [p for path, p in params.items() if not task.decays(path)]
    groups = [{"params": decayed, "weight_decay": _SETTINGS.weight_decay}, {"params": others, "weight_decay": 0.0}]
    betas = (_SETTINGS.options.get("b1", 0.9), _SETTINGS.options.get("b2", 0.999))
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=betas)

    def run() -> Any:
        optimizer.zero_grad(set_to_none=True)
        logits = forward(params, batch["images"], positions)
        loss = torch.nn.functional.cross_entropy(logits, batch["labels"], label_smoothing=SMOOTHING)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params.values(), _SETTINGS.max_norm)
        optimizer.step()
        return loss.detach()

    on_gpu = device.type == "cuda"
    held = int(torch.cuda.memory_allocated()) if on_gpu else resident()
    return Built(
        {STEP: run},
        {STEP: _number},
        torch.cuda.synchronize if on_gpu else lambda: None,
        torch_peak(torch, held) if on_gpu else process_peak(held),
        held,
        versions={"torch": torch.__version__},
    )


def _turned(torch: Any, path: str, p: np.ndarray) -> Any:
    """A parameter as PyTorch has it: weights (outputs, inputs)."""
    return torch.from_numpy(p.T.copy() if path.endswith("/weight") else p)


def _positions(task: Digits) -> np.ndarray:
    """The encoding of the grid's positions (pixels, channels), which is constant."""
    grid: Any = task.model.preprocessor
    image = np.zeros((1, 8, 8, 1), np.float32)
    table: np.ndarray = grid.apply(grid.init(), image).inputs[0, :, image.shape[-1] :]
    return table


def _model(torch: Any, task: Digits) -> Callable[[Mapping[str, Any], Any, Any], Any]:
    """(parameters by path, images (B, 8, 8, 1), positions) -> logits, in PyTorch's own functions."""
    encoder = task.model.encoder
    f = torch.nn.functional
    crosses, block = ("encoder/cross_attention", "encoder/later_cross_attentions/0"), "encoder/block/0"

    def linear(p: Mapping[str, Any], name: str, x: Any) -> Any:
        return f.linear(x, p[f"{name}/weight"], p[f"{name}/bias"])

    def norm(p: Mapping[str, Any], name: str, x: Any) -> Any:
        return f.layer_norm(x, x.shape[-1:], p[f"{name}/scale"], p[f"{name}/offset"], encoder.conventions.norm_eps)

    def layer(p: Mapping[str, Any], name: str, x: Any, q: Any, kv: Any, heads: int) -> Any:
        def split(part: str, y: Any) -> Any:
            return linear(p, f"{name}/attention/{part}", y).unflatten(-1, (heads, -1)).transpose(1, 2)

        mixed = f.scaled_dot_product_attention(split("query", q), split("key", kv), split("value", kv))
        x = x + linear(p, f"{name}/attention/output", mixed.transpose(1, 2).flatten(2))
        hidden = f.gelu(linear(p, f"{name}/mlp/hidden", norm(p, f"{name}/mlp_norm", x)), approximate="tanh")
        return x + linear(p, f"{name}/mlp/output", hidden)

    def forward(p: Mapping[str, Any], images: Any, positions: Any) -> Any:
        batch = images.shape[0]
        inputs = torch.cat([images.flatten(1, 2), positions.expand(batch, -1, -1)], -1)
        x = p["encoder/latents"].expand(batch, -1, -1)
        for b in range(encoder.blocks):
            name = crosses[weights_of(b, encoder.shared_cross)]
            kv = norm(p, f"{name}/key_value_norm", inputs)
            x = layer(p, name, x, norm(p, f"{name}/query_norm", x), kv, encoder.cross_heads)
            normed = norm(p, f"{block}/norm", x)
            x = layer(p, block, x, normed, normed, encoder.self_heads)
        return linear(p, "decoder/output", x.mean(1))

    return forward


def _number(loss: Any) -> np.ndarray:
    """A loss as a vector."""
    return np.array([float(loss)])
