"""transformers' Perceiver with random weights: what the heavy tests run the reference against."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra: perceiver-ref[peers]")
transformers = pytest.importorskip("transformers", reason="needs the extra: perceiver-ref[peers]")


def randomise(model: Any, seed: int) -> None:
    """Random weights with which no part is idle, in place.

    transformers' own initial ones (deviation 0.02, biases 0) give small logits from almost uniform attention.
    Here linear maps keep the size of what goes through; queries and keys are half as large again, so that attention
    logits have a deviation near 2.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(generator=generator)
            if "layernorm" in name:
                p.mul_(0.2)
                if name.endswith("weight"):
                    p.add_(1.0)
            elif name.endswith("bias"):
                p.mul_(0.2)
            elif p.ndim == 2 and not name.endswith(("embeddings.weight", "latents", "position_embeddings")):
                p.mul_((1.5 if ".query." in name or ".key." in name else 1.0) / p.shape[1] ** 0.5)


@contextmanager
def float64_throughout() -> Iterator[None]:
    """Promote the steps that transformers computes in float32 whatever the model's dtype: the grid of positions, which
    names torch.float32, and the Fourier frequencies, which take the default dtype."""
    modeling = transformers.models.perceiver.modeling_perceiver
    original = modeling.build_linear_positions

    def build_linear_positions(index_dims: Any, output_range: Any = (-1.0, 1.0), device: Any = None) -> Any:
        axes = [torch.linspace(*output_range, n) for n in index_dims]  # in the default dtype
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)

    default = torch.get_default_dtype()
    modeling.build_linear_positions = build_linear_positions
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(default)
        modeling.build_linear_positions = original
