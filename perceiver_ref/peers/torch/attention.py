"""PyTorch's attention: composed of operations, as one function, and as a module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...autograd import ops
from ...autograd.backend import xp
from ...autograd.core import array_of
from ...autograd.tree import Tree
from ...errors import InputError
from ...models.call import Call
from ..base import Arguments, Given, Option, Outputs, Rebuilt, options, read_call
from ..masks import spoilt
from ..names import Binding, same
from ..replay import Named
from .function import function
from .pointwise import linear

_TRIPLE = ("query", "key", "value")


def _composed(given: dict[str, Any], _: dict[str, Any]) -> Outputs:
    """Masked scores are the smallest number, so that a row without keys attends to all alike."""
    q, k, v = (given[name] for name in _TRIPLE)
    keep = array_of(given["mask"])  # True = attend
    return {
        "out": ops.attention(q, k, v, mask=keep, masked_rows="uniform"),
        "probs": ops.attention_weights(q, k, mask=keep, masked_rows="uniform"),
    }


def _sdpa(given: dict[str, Any], o: dict[str, Any]) -> Outputs:
    """Bool masks say what to attend to, others are added; a row without keys gives zeros (PyTorch 2.5 and later)."""
    q, k, v = (given[name] for name in _TRIPLE)
    if o["dropout_p"]:
        raise InputError("scaled_dot_product_attention with dropout is random; the reference has it only at 0")
    if o["enable_gqa"]:
        k, v = (_repeated(x, q.shape[-3]) for x in (k, v))
    mask = given["attn_mask"]
    if o["is_causal"]:
        if mask is not None:
            raise InputError("give attn_mask or is_causal, not both")
        mask = xp(array_of(q)).tri(q.shape[-2], k.shape[-2], dtype=bool)
    if mask is None or array_of(mask).dtype == bool:
        return {"out": ops.attention(q, k, v, mask=array_of(mask), scale=o["scale"], masked_rows="zero")}
    return {"out": ops.attention(q, k, v, mask, scale=o["scale"], masked_rows="zero")}


def _repeated(x: Any, heads: int) -> Any:
    """Keys or values whose heads each serve several consecutive heads of queries."""
    if heads % x.shape[-3]:
        raise InputError(f"{heads} heads of queries cannot share {x.shape[-3]} of keys")
    return ops.take(x, xp(array_of(x)).arange(heads) // (heads // x.shape[-3]), axis=-3)


def _multihead(given: Given) -> Rebuilt:
    """`torch.nn.MultiheadAttention`; a mask's True means "do not attend".

    The attention map is the mean of the heads', unless `average_attn_weights` is false, or is not given and the map
    that was recorded has the heads' axis.
    """
    known: dict[str, Any] = {"embed_dim": Option(int, required=True), "num_heads": Option(int, required=True)}
    known |= {"dropout": 0.0, "bias": True, "add_bias_kv": False}
    known |= {"add_zero_attn": False, "kdim": None, "vdim": None, "batch_first": False}
    o = options("MultiheadAttention", given.config, known)
    width, heads = o["embed_dim"], o["num_heads"]
    widths = (width, o["kdim"] or width, o["vdim"] or width)
    if not heads or width % heads:
        raise InputError(f"embed_dim {width} cannot be cut into {heads} heads")
    together = widths == (width,) * 3
    shapes: dict[str, tuple[int, ...]] = {"in_proj_weight": (3 * width, width)}
    if not together:
        shapes = {f"{name}_proj_weight": (width, size) for name, size in zip("qkv", widths)}
    shapes["out_proj.weight"] = (width, width)
    if o["bias"]:
        shapes |= {"in_proj_bias": (3 * width,), "out_proj.bias": (width,)}
    if o["add_bias_kv"]:
        shapes |= {"bias_k": (1, 1, width), "bias_v": (1, 1, width)}

    def run(model: Any, p: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        masks = {"key_padding_mask", "attn_mask"}
        defaults = {"need_weights": True, "average_attn_weights": True, "is_causal": False}
        values, wanted = read_call("MultiheadAttention", arguments, called, {*_TRIPLE, *masks}, defaults, _TRIPLE)
        sources = [values[name] for name in _TRIPLE]
        single = len(sources[0].shape) == 2
        if "average_attn_weights" not in called and len(given.outputs.get("attn", ())) == (3 if single else 4):
            wanted["average_attn_weights"] = False
        if single:
            sources = [x[None] for x in sources]
        elif not o["batch_first"]:
            sources = [ops.transpose(x, axes=(1, 0, 2)) for x in sources]
        third = (width,) * 3
        weights = ops.split(p["in_proj_weight"], sizes=third) if together else [p[f"{n}_proj_weight"] for n in "qkv"]
        biases = ops.split(p["in_proj_bias"], sizes=third) if o["bias"] else (None,) * 3
        q, k, v = (linear(x, w, b) for x, w, b in zip(sources, weights, biases))
        batch, extra = q.shape[0], 0
        if o["add_bias_kv"]:
            rows = (ops.broadcast_to(p[name], shape=(batch, 1, width)) for name in ("bias_k", "bias_v"))
            k, v = (ops.concatenate([x, row], axis=1) for x, row in zip((k, v), rows))
            extra += 1
        if o["add_zero_attn"]:
            k, v = (ops.pad(x, widths=((0, 0), (0, 1), (0, 0))) for x in (k, v))
            extra += 1
        q, k, v = (
            ops.transpose(ops.reshape(x, shape=(batch, x.shape[1], heads, width // heads)), axes=(0, 2, 1, 3))
            for x in (q, k, v)
        )
        mask, bias = _masks(values, batch, heads, extra)
        if wanted["need_weights"]:
            mask, bias = spoilt(mask, bias, array_of(q).dtype)
        biased = (q, k) if bias is None else (q, k, bias)
        mixed = ops.attention(q, k, v, *biased[2:], mask=mask, masked_rows="zero")
        mixed = ops.reshape(ops.transpose(mixed, axes=(0, 2, 1, 3)), shape=(batch, q.shape[2], width))
        out = linear(mixed, p["out_proj.weight"], p["out_proj.bias"] if o["bias"] else None)
        if not single and not o["batch_first"]:
            out = ops.transpose(out, axes=(1, 0, 2))
        outputs = {"out": out[0] if single else out}
        if wanted["need_weights"]:
            maps = ops.attention_weights(*biased, mask=mask, masked_rows="zero")
            maps = ops.mean(maps, axis=1) if wanted["average_attn_weights"] else maps
            outputs["attn"] = maps[0] if single else maps
        return outputs

    return Rebuilt(Named(tuple(shapes.items())), [Binding(n, s, n, same) for n, s in shapes.items()], run)


def _masks(values: Mapping[str, Any], batch: int, heads: int, extra: int) -> tuple[Any, Any]:
    """(what to attend to, what to add), of padding (B, M) and mask (N, M) or (B H, N, M); `extra` keys always count."""
    mask, bias = None, None
    for name in ("key_padding_mask", "attn_mask"):
        given = values.get(name)
        if given is None:
            continue
        *lead, keys = given.shape
        if name == "key_padding_mask":
            shape = (batch, 1, 1, keys)
        else:
            shape = (1, 1, *given.shape) if len(lead) == 1 else (batch, heads, lead[1], keys)
        widths = ((0, 0),) * 3 + ((0, extra),)
        if array_of(given).dtype == bool:
            attend = xp(given).pad(~given.reshape(shape), widths, constant_values=True)
            mask = attend if mask is None else mask & attend
        else:
            added = ops.pad(ops.reshape(given, shape=shape), widths=widths)
            bias = added if bias is None else ops.add(bias, added)
    return mask, bias


ATTENTION = {
    "softmax(masked_fill(q k^T / sqrt(d))) v, composed of torch ops": function(_composed, _TRIPLE, ("mask",)),
    "scaled_dot_product_attention": function(
        _sdpa, _TRIPLE, ("attn_mask",), dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
    ),
    "MultiheadAttention": _multihead,
}
