"""MiniCPM-V's resamplers: vLLM's classes, and OpenBMB's, which transformers imports from a model's own folder.

Those have one name, `Resampler`, in every version, and are told apart by their attributes. The name of their module has
the model's and a commit's in it, of which only the last part is looked at (`class_path` in the rows).
"""

from __future__ import annotations

import math
from typing import Any

from .base import Row, Unread

_EPS = 1e-6


def kind(module: Any) -> str:
    """Which of the peer's classes a module is: by time, by the image's own grid, or by one square grid."""
    if hasattr(module, "max_temporal_size"):
        return "Resampler4_5"
    return "Resampler2_5" if hasattr(module, "max_size") else "Resampler2"


def resampler(module: Any) -> dict[str, Any]:
    """The options of any of them."""
    count, width = module.query.shape
    norms = [getattr(module, name, None) for name in ("ln_q", "ln_kv", "ln_post")]
    if any(norm is not None and not math.isclose(norm.eps, _EPS) for norm in norms):
        raise Unread(f"norms whose eps is not {_EPS}")
    weight = getattr(module.kv_proj, "weight", None)
    made: dict[str, Any] = {
        "embed_dim": width,
        "num_heads": module.attn.num_heads,
        "kv_dim": width if weight is None else weight.shape[1],
    }
    which = kind(module)
    if which == "Resampler2":
        side = math.isqrt(count)
        if side * side != count or tuple(module.pos_embed.shape) != (count, width):
            raise Unread(f"{count} queries, which are no square grid")
        post = [getattr(module, name, None) is not None for name in ("ln_post", "proj")]
        if len(set(post)) > 1:
            raise Unread("a last norm without a last map, or the reverse")
        return {**made, "grid_size": side, "adaptive": bool(module.adaptive), "do_post_projection": post[0]}
    made |= {"num_queries": count, "max_size": [int(n) for n in module.max_size]}
    return {**made, "max_temporal_size": int(module.max_temporal_size)} if which == "Resampler4_5" else made


def _times(value: Any) -> dict[str, Any]:
    """Times of frames, of any kind of numbers."""
    return {"temporal_ids": [[int(time) for time in group] for group in value]}


def _in_pieces(module: Any) -> frozenset[str]:
    """OpenBMB's attention gives its output map rows of all images in one; without a projection there is no value."""
    own = "transformers_modules" in type(module).__module__
    found = {"attn.out_proj"} if own else set()
    return frozenset(found if hasattr(module.kv_proj, "weight") else {*found, "kv_proj"})


def _row(name: str) -> Row:
    return Row(
        "minicpmv",
        resampler,
        "vllm",
        name=name,
        arguments={"tgt_size": "tgt_sizes"},
        opened={"temporal_ids": _times},
        without=("pos_embed",) if name != "Resampler2" else (),
        which=kind,
        partial=_in_pieces,
        float32=lambda module: True,  # its table of sines, whatever its dtype
        angles=lambda module: float(max(getattr(module, "max_size", (0,)))),
    )


_MODELS = "vllm.model_executor.models.minicpmv"
ROWS: dict[str, Row] = {
    "vllm.model_executor.layers.resampler.Resampler2": _row("Resampler2"),
    **{f"{_MODELS}.{name}": _row(name) for name in ("Resampler2", "Resampler2_5", "Resampler4_5")},
    "transformers_modules.resampler.Resampler": _row("Resampler2_5"),
}
