"""PyTorch's own modules, most of which are a function of `torch.nn.functional` with its arrays and options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .base import Row, Unread, no_options

_WEIGHTS = {"weight": "weight", "bias": "bias"}
_F = "torch.nn.functional"
_ACTIVATIONS = "torch.nn.functional.{gelu,silu}, torch.{sigmoid,tanh,erf}"


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _options(*names: str) -> Callable[[Any], dict[str, Any]]:
    """These attributes of a module, of which None is as good as absent."""

    def read(module: Any) -> dict[str, Any]:
        values = {name: _listed(getattr(module, name)) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    return read


def _filter(module: Any) -> dict[str, Any]:
    if module.padding_mode != "zeros":
        raise Unread(f"padding_mode {module.padding_mode!r}")
    return _options("stride", "padding", "dilation", "groups")(module)


def _transposed(module: Any) -> dict[str, Any]:
    return {**_filter(module), "output_padding": _listed(module.output_padding)}


def _batch_norm(module: Any) -> dict[str, Any]:
    if module.momentum is None:
        raise Unread("momentum None, a mean over all batches")
    trained = bool(module.training or module.running_mean is None)
    return {"training": trained, "momentum": module.momentum, "eps": module.eps}


def _attention(module: Any) -> dict[str, Any]:
    return {
        "embed_dim": module.embed_dim,
        "num_heads": module.num_heads,
        "dropout": module.dropout,
        "bias": module.in_proj_bias is not None,
        "add_bias_kv": module.bias_k is not None,
        "add_zero_attn": bool(module.add_zero_attn),
        "kdim": module.kdim,
        "vdim": module.vdim,
        "batch_first": bool(module.batch_first),
    }


def _gru(module: Any) -> dict[str, Any]:
    return {"input_size": module.input_size, "hidden_size": module.hidden_size, "bias": bool(module.bias)}


def _softmax(module: Any) -> dict[str, Any]:
    return {**_options("dim")(module), "only": True}


def _function(
    name: str,
    call: Callable[[Any], Mapping[str, Any]] = no_options,
    given: Mapping[str, str] | None = None,
    out: str = "out",
    **more: Any,
) -> Row:
    """A module that is a function; `given` are its parameters and buffers that are the function's arguments."""
    name = name if "." in name else f"{_F}.{name}"
    outputs = {"out": out, "out0": out, "out1": "indices"}
    return Row("torch", distribution="torch", call=call, name=name, given=given or {}, outputs=outputs, **more)


_MODULES: dict[str, Row] = {
    "linear.Linear": _function("linear", given=_WEIGHTS),
    "sparse.Embedding": _function(
        "embedding",
        _options("padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse"),
        {"weight": "weight"},
        arguments={"input": "indices"},
    ),
    "normalization.LayerNorm": _function("layer_norm", _options("normalized_shape", "eps"), _WEIGHTS),
    "normalization.RMSNorm": _function(
        "rms_norm", _options("normalized_shape", "eps"), {"weight": "weight"}, arguments={"x": "input"}
    ),
    **{
        f"batchnorm.BatchNorm{n}d": _function(
            "batch_norm",
            _batch_norm,
            {**_WEIGHTS, "running_mean": "running_mean", "running_var": "running_var"},
            without=("num_batches_tracked", "running_mean", "running_var"),
        )
        for n in (1, 2, 3)
    },
    **{f"conv.Conv{n}d": _function(f"conv{n}d", _filter, _WEIGHTS) for n in (1, 2, 3)},
    **{f"conv.ConvTranspose{n}d": _function(f"conv_transpose{n}d", _transposed, _WEIGHTS) for n in (1, 2, 3)},
    **{
        f"pooling.MaxPool{n}d": _function(
            f"max_pool{n}d",
            _options("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
        )
        for n in (1, 2, 3)
    },
    **{
        f"pooling.AvgPool{n}d": _function(
            f"avg_pool{n}d",
            _options(
                "kernel_size",
                "stride",
                "padding",
                "ceil_mode",
                "count_include_pad",
                *(("divisor_override",) if n > 1 else ()),
            ),
        )
        for n in (1, 2, 3)
    },
    "fold.Unfold": _function("unfold", _options("kernel_size", "dilation", "padding", "stride")),
    "upsampling.Upsample": _function(
        "interpolate", _options("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor")
    ),
    "activation.GELU": _function("gelu", _options("approximate"), out="gelu"),
    "activation.ReLU": _function("relu", out="relu"),
    "activation.SiLU": _function(_ACTIVATIONS, out="silu"),
    "activation.Sigmoid": _function(_ACTIVATIONS, out="sigmoid"),
    "activation.Tanh": _function(_ACTIVATIONS, out="tanh"),
    "activation.Softmax": _function("softmax", _softmax, out="softmax"),
    "activation.MultiheadAttention": Row(
        "torch",
        _attention,
        "torch",
        name="torch.nn.MultiheadAttention",
        outputs={"out0": "out", "out1": "attn"},
    ),
    "rnn.GRUCell": Row("torch", _gru, "torch", name="torch.nn.GRUCell"),
    "loss.CrossEntropyLoss": _function(
        "cross_entropy", _options("ignore_index", "label_smoothing", "reduction"), {"weight": "weight"}, "loss"
    ),
    "loss.BCEWithLogitsLoss": _function(
        "binary_cross_entropy_with_logits",
        _options("reduction"),
        {"weight": "weight", "pos_weight": "pos_weight"},
        "loss",
    ),
    "loss.MSELoss": _function("mse_loss", _options("reduction"), out="loss"),
    "loss.SmoothL1Loss": _function("smooth_l1_loss", _options("reduction", "beta"), out="loss"),
    "loss.L1Loss": _function("l1_loss", _options("reduction"), out="loss"),
}
ROWS = {f"torch.nn.modules.{path}": row for path, row in _MODULES.items()}
