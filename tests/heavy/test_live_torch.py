"""PyTorch's functions and optimizers, run live with sizes and options drawn at random: outputs and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from heavy.peer import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from perceiver_ref.porting import check_case
from perceiver_ref.porting.cases import Case

F = torch.nn.functional
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("default")]
Draw = st.DrawFn
Call = tuple[dict[str, Any], dict[str, Any]]
"""(arrays by argument, other options)."""
calls: dict[str, tuple[Callable[..., Any], st.SearchStrategy[Call]]] = {}


def drawn(*names: str) -> Callable[..., Any]:
    """Decorator: `make(draw, rng, name)` draws calls of these functions of torch.nn.functional."""

    def register(make: Callable[[Draw, Any, str], Call]) -> Callable[..., Any]:
        @st.composite
        def strategy(draw: Draw, name: str) -> Call:
            return make(draw, np.random.default_rng(draw(st.integers(0, 2**32))), name)

        for name in names:
            calls[name] = (getattr(F, name), strategy(name))
        return make

    return register


def some(draw: Draw, **options: st.SearchStrategy[Any]) -> dict[str, Any]:
    """Each option drawn, or left out."""
    return {name: draw(values) for name, values in options.items() if draw(st.booleans())}


def ints(low: int, high: int, axes: int) -> st.SearchStrategy[Any]:
    """A number, or one for each axis."""
    return st.integers(low, high) | st.lists(st.integers(low, high), min_size=axes, max_size=axes)


COUNTS = st.sampled_from([1, 2, 3, 5, 7])
"""Of heads."""


def grid(draw: Draw, axes: int, least: int = 4, most: int = 8) -> list[int]:
    return [draw(st.integers(least, most)) for _ in range(axes)]


def maybe(draw: Draw, **arrays: Any) -> dict[str, Any]:
    return {name: array for name, array in arrays.items() if draw(st.booleans())}


@drawn("conv1d", "conv2d", "conv3d")
def convolutions(draw: Draw, rng: Any, name: str) -> Call:
    axes, groups = int(name[-2]), draw(st.integers(1, 3))
    channels, outputs = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kernel = grid(draw, axes, 1, 3)
    o = some(draw, stride=ints(1, 3, axes), dilation=ints(1, 2, axes), padding=ints(0, 2, axes)) | {"groups": groups}
    if "stride" not in o and draw(st.booleans()):
        o["padding"] = draw(st.sampled_from(["same", "valid"]))
    lead = [draw(st.integers(1, 2))] if draw(st.booleans()) else []
    x = rng.standard_normal([*lead, channels, *grid(draw, axes, 1, 7)])
    weight = rng.standard_normal([outputs, channels // groups, *kernel])
    return {"input": x, "weight": weight, **maybe(draw, bias=rng.standard_normal(outputs))}, o


@drawn("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed(draw: Draw, rng: Any, name: str) -> Call:
    axes, groups = int(name[-2]), draw(st.integers(1, 3))
    channels, outputs = groups * draw(st.integers(1, 2)), draw(st.integers(1, 2))
    o = some(draw, stride=ints(2, 3, axes), dilation=ints(2, 3, axes), padding=ints(0, 1, axes)) | {"groups": groups}
    if "stride" in o or "dilation" in o:
        o |= some(draw, output_padding=ints(0, 1, axes))
    x = rng.standard_normal([draw(st.integers(1, 2)), channels, *grid(draw, axes, 1, 4)])
    weight = rng.standard_normal([channels, outputs, *grid(draw, axes, 1, 3)])
    return {"input": x, "weight": weight, **maybe(draw, bias=rng.standard_normal(groups * outputs))}, o


def pooled(draw: Draw, rng: Any, name: str, **extra: Any) -> Call:
    axes = int(name[-2])
    kernel = draw(ints(1, 4, axes))
    o = {"kernel_size": kernel} | some(draw, stride=ints(1, 3, axes), ceil_mode=st.booleans(), **extra)
    if draw(st.booleans()):
        widths = kernel if isinstance(kernel, list) else [kernel] * axes
        o["padding"] = [draw(st.integers(0, k // 2)) for k in widths]
    lead = [2] if draw(st.booleans()) else []
    values = rng.standard_normal([*lead, draw(st.integers(1, 2)), *grid(draw, axes, 1, 7)])
    return {"input": np.round(values, draw(st.sampled_from([0, 9])))}, o  # rounded: many ties


@drawn("max_pool1d", "max_pool2d", "max_pool3d")
def max_pools(draw: Draw, rng: Any, name: str) -> Call:
    arrays, o = pooled(draw, rng, name, dilation=st.integers(1, 2))
    return arrays, o | {"return_indices": True}


@drawn("avg_pool1d", "avg_pool2d", "avg_pool3d")
def average_pools(draw: Draw, rng: Any, name: str) -> Call:
    extra = {"count_include_pad": st.booleans()}
    return pooled(draw, rng, name, **extra, **({} if name == "avg_pool1d" else {"divisor_override": st.integers(1, 5)}))


@drawn("unfold")
def unfolds(draw: Draw, rng: Any, name: str) -> Call:
    o = {"kernel_size": draw(ints(1, 3, 2))}
    o |= some(draw, stride=ints(1, 3, 2), dilation=ints(1, 2, 2), padding=ints(0, 2, 2))
    return {"input": rng.standard_normal([draw(st.integers(1, 2)), draw(st.integers(1, 3)), *grid(draw, 2, 1, 7)])}, o


@drawn("interpolate")
def interpolations(draw: Draw, rng: Any, name: str) -> Call:
    modes = ["nearest", "nearest-exact", "area", "linear", "bilinear", "trilinear", "bicubic"]
    mode = draw(st.sampled_from(modes))
    axes = {"linear": 1, "bilinear": 2, "trilinear": 3, "bicubic": 2}.get(mode, draw(st.integers(1, 3)))
    x = rng.standard_normal([draw(st.integers(1, 2)), draw(st.integers(1, 3)), *grid(draw, axes, 1, 8)])
    o: dict[str, Any] = {"mode": mode}
    if draw(st.booleans()):
        o["size"] = grid(draw, axes, 1, 9)
    else:
        o["scale_factor"] = [draw(st.sampled_from([0.5, 0.7, 1.3, 2.0, 2.5])) for _ in range(axes)]
        o |= {} if mode == "area" else some(draw, recompute_scale_factor=st.booleans())
    if mode.endswith(("linear", "cubic")):
        o |= some(draw, align_corners=st.booleans())
    if mode in ("bilinear", "bicubic"):
        o |= some(draw, antialias=st.booleans())
        width = o["size"][-1] if "size" in o else int(x.shape[-1] * o["scale_factor"][-1])
        assume(width > 1 or not o.get("antialias"))  # PyTorch 2.13 then resizes the height wrongly
    return {"input": x}, o


SIDES = {1: 600, 2: 260, 3: 24}
"""The largest axis of a grid of so many axes: places near it are rounded to 1e-5 in float32."""


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "area", "linear", "bilinear", "trilinear", "bicubic"])
@settings(max_examples=80)
@given(data=st.data())
def test_interpolation_of_large_grids_in_float32(mode: str, data: st.DataObject) -> None:
    """Outputs and gradients to 1e-6 of the largest value, a few roundings of what is summed."""
    draw = data.draw
    axes = {"linear": 1, "bilinear": 2, "trilinear": 3, "bicubic": 2}.get(mode) or draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.standard_normal([1, draw(st.integers(1, 5)), *grid(draw, axes, 1, SIDES[axes])]).astype(np.float32)
    o: dict[str, Any] = {"mode": mode}
    if draw(st.booleans()):
        o["size"] = grid(draw, axes, 1, SIDES[axes])
    else:
        factors = st.sampled_from([0.3, 0.5, 1.0, 1.01, 2.0, 2.003]) | st.floats(0.2, 2.2)
        o["scale_factor"] = draw(factors | st.lists(factors, min_size=axes, max_size=axes))
        o |= {} if mode == "area" else some(draw, recompute_scale_factor=st.booleans())
    o |= some(draw, align_corners=st.booleans()) if mode.endswith(("linear", "cubic")) else {}
    o |= some(draw, antialias=st.booleans()) if mode in ("bilinear", "bicubic") else {}
    tensor = torch.tensor(x, requires_grad=True)
    try:
        out = F.interpolate(tensor, **o)
    except RuntimeError as error:  # nothing is left of an axis
        assume(not error)
    assume(out.numel() and (out.shape[-1] > 1 or not o.get("antialias")))
    cotangent = rng.standard_normal(out.shape).astype(np.float32)
    (out * torch.tensor(cotangent)).sum().backward()
    meta = {"peer": "torch", "class": "torch.nn.functional.interpolate", "config": {}, "call": o, "dtype": "float32"}
    many = float(np.prod(out.shape) / np.prod(x.shape))  # an input's gradient is a sum of so many, rounded one by one
    meta["tolerance"] = {"output": 1e-6, "gradient": 1e-6 + many * 2.0**-24}
    case = Case(
        meta,
        inputs={"input": x},
        outputs={"out": out.detach().numpy()},
        cotangents={"out": cotangent},
        grad_inputs={"input": tensor.grad.numpy()},
    )
    result = check_case(case)
    assert result.status == "pass", (result.worst, o, x.shape)


@drawn("layer_norm", "rms_norm")
def norms(draw: Draw, rng: Any, name: str) -> Call:
    shape = grid(draw, 3, 1, 5)
    last = shape[draw(st.integers(0, 2)) :]
    affine = maybe(draw, weight=rng.standard_normal(last))
    if name == "layer_norm":
        affine |= maybe(draw, bias=rng.standard_normal(last))
    o = {"normalized_shape": last} | some(draw, eps=st.sampled_from([1e-6, 1e-3]))
    return {"input": rng.standard_normal(shape), **affine}, o


@drawn("batch_norm")
def batch_norms(draw: Draw, rng: Any, name: str) -> Call:
    n = draw(st.integers(1, 4))
    o = some(draw, training=st.booleans(), momentum=st.floats(0.05, 0.9), eps=st.sampled_from([1e-5, 1e-2]))
    arrays = {"running_mean": rng.standard_normal(n), "running_var": rng.uniform(0.5, 2, n)}
    arrays |= maybe(draw, weight=rng.standard_normal(n), bias=rng.standard_normal(n))
    return {
        "input": rng.standard_normal([draw(st.integers(1, 4)), n, *grid(draw, draw(st.integers(0, 2)), 1)]),
        **arrays,
    }, o


@drawn("normalize")
def lengths(draw: Draw, rng: Any, name: str) -> Call:
    p = st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, -1.0, -2.5, float("inf"), float("-inf")])
    x = rng.standard_normal(grid(draw, 3, 1))
    x[0] = 0
    x *= rng.random(x.shape) < draw(st.sampled_from([0.6, 1.0]))
    axes = st.integers(-3, 2) | st.sampled_from([[0, 2], [1, 0], [-1, 1]])
    return {"input": np.round(x) if draw(st.booleans()) else x}, some(
        draw, p=p, dim=axes, eps=st.sampled_from([1e-8, 1.9])
    )


@drawn("cross_entropy")
def cross_entropies(draw: Draw, rng: Any, name: str) -> Call:
    classes = draw(st.integers(1, 5))
    rest = grid(draw, draw(st.integers(0, 2)), 1, 3)
    lead = [3] if rest or draw(st.booleans()) else []
    x = rng.standard_normal([*lead, classes, *rest])
    o = some(draw, label_smoothing=st.floats(0, 0.9), reduction=st.sampled_from(["mean", "sum", "none"]))
    weight = maybe(draw, weight=rng.uniform(0.1, 2, classes))
    if draw(st.booleans()):
        target = rng.dirichlet(np.ones(classes), [*lead, *rest])
        return {"input": x, "target": np.moveaxis(target, -1, len(lead)), **weight}, o
    target = np.asarray(rng.integers(0, classes, [*lead, *rest]))
    o |= some(draw, ignore_index=st.sampled_from([-100, 0, 1]))
    assume((target != o.get("ignore_index")).any())
    return {"input": x, "target": target, **weight}, o


@drawn("binary_cross_entropy_with_logits", "mse_loss", "l1_loss", "smooth_l1_loss")
def losses(draw: Draw, rng: Any, name: str) -> Call:
    shape = grid(draw, 2, 1, 5)
    o = some(draw, reduction=st.sampled_from(["mean", "sum", "none"]))
    if name == "smooth_l1_loss":
        o |= some(draw, beta=st.sampled_from([0.0, 0.3, 2.0]))
    return {"input": rng.standard_normal(shape), "target": rng.uniform(0, 1, shape)}, o


@drawn("softmax", "gelu", "relu", "linear", "embedding")
def pointwise(draw: Draw, rng: Any, name: str) -> Call:
    x = rng.standard_normal(grid(draw, 2, 1))
    if name == "softmax":
        return {"input": x}, {"dim": draw(st.integers(-2, 1)), "only": True}
    if name == "gelu":
        return {"input": x}, some(draw, approximate=st.sampled_from(["none", "tanh"]))
    if name == "linear":
        weight = rng.standard_normal((3, x.shape[-1]))
        return {"input": x, "weight": weight, **maybe(draw, bias=rng.standard_normal(3))}, {}
    if name == "embedding":
        ids = rng.integers(0, len(x), draw(st.lists(st.integers(1, 3), max_size=2)))
        return {"indices": np.asarray(ids), "weight": x}, some(draw, padding_idx=st.integers(-len(x), len(x) - 1))
    return {"input": x}, {}


@drawn("scaled_dot_product_attention")
def attentions(draw: Draw, rng: Any, name: str) -> Call:
    b, n, m, d, e = (draw(st.integers(1, 4)) for _ in range(5))
    h, shared = draw(COUNTS), draw(st.booleans())
    heads = h * draw(st.integers(1, 3)) if shared else h
    q, k, v = (rng.standard_normal(s) for s in ((b, heads, n, d), (b, h, m, d), (b, h, m, e)))
    o = some(draw, scale=st.floats(0.1, 2)) | ({"enable_gqa": True} if shared else {})
    kind = draw(st.sampled_from(["none", "causal", "bool", "float", "float -inf"]))
    arrays = {"query": q, "key": k, "value": v}
    if kind == "causal":
        return arrays, o | {"is_causal": True}
    shape = (draw(st.sampled_from([1, b])), draw(st.sampled_from([1, heads])), n, m)
    if kind == "bool":
        arrays["attn_mask"] = rng.random(shape) < 0.5
    elif kind != "none":
        arrays["attn_mask"] = rng.standard_normal(shape)
        if kind == "float -inf":
            arrays["attn_mask"][rng.random(shape) < draw(st.sampled_from([0.3, 0.8]))] = -np.inf
    return arrays, o


def outputs_of(name: str, result: Any) -> dict[str, Any]:
    if name.startswith("max_pool"):
        return {"out": result[0], "indices": result[1]}
    known = {"softmax": "softmax", "gelu": "gelu", "relu": "relu"}
    return {known.get(name, "loss" if name.endswith(("loss", "entropy", "logits")) else "out"): result}


@pytest.mark.parametrize("name", sorted(calls))
@settings(max_examples=120)
@given(data=st.data())
def test_a_function(name: str, data: st.DataObject) -> None:
    function, strategy = calls[name]
    arrays, options = data.draw(strategy)
    tensors = {key: torch.tensor(array) for key, array in arrays.items()}
    fixed = ("weight",) if name == "cross_entropy" else ("running_mean", "running_var")
    leaves = {key: t.requires_grad_() for key, t in tensors.items() if t.is_floating_point() and key not in fixed}
    given_options = {key: value for key, value in options.items() if key != "only"}
    if name == "embedding":
        result = function(tensors["indices"], tensors["weight"], **given_options)
    else:
        try:
            result = function(**tensors, **given_options)
        except (RuntimeError, ValueError) as error:  # a window that does not fit, and the like
            assume(not error)
    outputs = outputs_of(name, result)
    assume(all(t.numel() for t in outputs.values()))
    if name.startswith(
        "max_pool"
    ):  # of a dilated window beside the input, PyTorch 2.13's gradient is written beside it
        assume(torch.isfinite(outputs["out"]).all())
    statistics = {f"new_{key}": t for key, t in tensors.items() if key in fixed and options.get("training")}
    first = next(iter(outputs))
    rng = np.random.default_rng(0)
    cotangent = rng.standard_normal(outputs[first].shape)
    torch.sum(outputs[first] * torch.tensor(cotangent)).backward()
    case = Case(
        {"peer": "torch", "class": f"torch.nn.functional.{name}", "config": {}, "call": options, "dtype": "float64"},
        inputs=arrays,
        outputs={key: t.detach().numpy() for key, t in {**outputs, **statistics}.items()},
        cotangents={first: cotangent},
        grad_inputs={key: t.grad.numpy() for key, t in leaves.items() if t.grad is not None},
    )
    if name == "rms_norm" and "eps" not in options:
        case.meta["tolerance"] = {"gradient": 1e-6}  # no more than 2e-16 keeps a row near 0 from being divided by it
    result = check_case(case)
    assert [a for a in result.agreements if not a.passed] == []


@st.composite
def optimizers(draw: Draw) -> tuple[str, dict[str, Any]]:
    rates = {"lr": draw(st.floats(1e-3, 0.5)), **some(draw, weight_decay=st.floats(0, 0.3), maximize=st.booleans())}
    if draw(st.booleans()):
        config = some(draw, momentum=st.floats(0.1, 0.95), dampening=st.floats(0, 0.9))
        if "momentum" in config and "dampening" not in config:
            config |= some(draw, nesterov=st.booleans())
        return "SGD", rates | config
    betas = st.tuples(st.floats(0, 0.99), st.floats(0.5, 0.999))
    config = some(draw, betas=betas, eps=st.sampled_from([1e-8, 1e-3]), amsgrad=st.booleans())
    name = draw(st.sampled_from(["Adam", "AdamW"]))
    return name, rates | config | (some(draw, decoupled_weight_decay=st.booleans()) if name == "Adam" else {})


@settings(max_examples=200)
@given(chosen=optimizers(), seed=st.integers(0, 2**32), clip=st.none() | st.floats(0.1, 5), varying=st.booleans())
def test_an_optimizer(chosen: tuple[str, dict[str, Any]], seed: int, clip: float | None, varying: bool) -> None:
    name, config = chosen
    rng, steps = np.random.default_rng(seed), 6
    start = {"p0": rng.standard_normal((3, 2)), "p1": rng.standard_normal(4)}
    gradients = {key: rng.standard_normal((steps, *p.shape)) for key, p in start.items()}
    rates = rng.uniform(0.01, 0.1, steps)
    tensors = {key: torch.tensor(p, requires_grad=True) for key, p in start.items()}
    optimizer = getattr(torch.optim, name)(list(tensors.values()), **config)
    after: dict[str, list[Any]] = {key: [] for key in start}
    norms = []
    for step in range(steps):
        for key, t in tensors.items():
            t.grad = torch.tensor(gradients[key][step])
        if clip is not None:
            norms.append(float(torch.nn.utils.clip_grad_norm_(list(tensors.values()), clip)))
        if varying:
            optimizer.param_groups[0]["lr"] = float(rates[step])
        optimizer.step()
        for key, t in tensors.items():
            after[key].append(t.detach().numpy().copy())
    outputs = {f"{key}_after": np.array(values) for key, values in after.items()}
    for key, t in tensors.items():
        kept = {slot: value for slot, value in optimizer.state[t].items() if value is not None}
        outputs |= {f"{key}_state.{slot}": value.numpy() for slot, value in kept.items()}
    inputs = {**start, **{f"grad_{key}": g for key, g in gradients.items()}, **({"lr": rates} if varying else {})}
    call = {"steps": steps} if clip is None else {"steps": steps, "clip_grad_norm": clip}
    meta = {"peer": "torch", "class": f"torch.optim.{name}", "config": config, "call": call, "dtype": "float64"}
    result = check_case(
        Case(meta, inputs=inputs, outputs=outputs | ({} if clip is None else {"grad_norms": np.array(norms)}))
    )
    assert [a for a in result.agreements if not a.passed] == []


@st.composite
def multihead(draw: Draw) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """(configuration, arrays, options of the call)."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    heads = draw(COUNTS)
    batch, n, m = (draw(st.integers(1, 3)) for _ in range(3))
    width = heads * draw(st.integers(1, 3))
    flags = {name: st.booleans() for name in ("bias", "add_bias_kv", "add_zero_attn", "batch_first")}
    config = {"embed_dim": width, "num_heads": heads}
    config |= some(draw, **flags, kdim=st.integers(1, 4), vdim=st.integers(1, 4))
    single = draw(st.booleans())
    sizes = [(n, width), (m, config.get("kdim", width)), (m, config.get("vdim", width))]

    def shape(length: int, channels: int) -> tuple[int, ...]:
        if single:
            return length, channels
        return (batch, length, channels) if config.get("batch_first") else (length, batch, channels)

    arrays = {name: rng.standard_normal(shape(*size)) for name, size in zip(("query", "key", "value"), sizes)}
    maps = [(n, m), ((1 if single else batch) * heads, n, m)]
    masks = {"key_padding_mask": (m,) if single else (batch, m), "attn_mask": draw(st.sampled_from(maps))}
    for name, of in masks.items():
        blocked = rng.random(of) < draw(st.sampled_from([0.0, 0.4, 0.4, 0.8]))
        kinds = [blocked, rng.standard_normal(of), np.where(blocked, -np.inf, rng.standard_normal(of))]
        masks[name] = draw(st.sampled_from(kinds))
    arrays |= maybe(draw, **masks)
    return config, arrays, some(draw, average_attn_weights=st.booleans(), need_weights=st.booleans())


@settings(max_examples=200)
@given(drawn=multihead())
@pytest.mark.filterwarnings("ignore:Support for mismatched")
def test_multihead_attention(drawn: tuple[dict[str, Any], dict[str, Any], dict[str, Any]]) -> None:
    config, arrays, options = drawn
    module = torch.nn.MultiheadAttention(**config, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(generator=generator)
    assert_same(module, "torch.nn.MultiheadAttention", config, arrays, options, ("out", "attn"))


@settings(max_examples=60)
@given(inputs=st.integers(1, 4), hidden=st.integers(1, 4), bias=st.booleans(), given_state=st.booleans())
def test_gru_cell(inputs: int, hidden: int, bias: bool, given_state: bool) -> None:
    config = {"input_size": inputs, "hidden_size": hidden, "bias": bias}
    rng = np.random.default_rng(inputs + 10 * hidden)
    arrays = {"input": rng.standard_normal((3, inputs))}
    if given_state:
        arrays["hx"] = rng.standard_normal((3, hidden))
    module = torch.nn.GRUCell(**config, dtype=torch.float64)
    assert_same(module, "torch.nn.GRUCell", config, arrays, {}, ("out",))


def assert_same(module: Any, cls: str, config: Any, arrays: Any, options: Any, names: tuple[str, ...]) -> None:
    """The module's outputs and the gradients of all its parameters and inputs are the reference's."""
    tensors = {key: torch.tensor(array) for key, array in arrays.items()}
    leaves = {key: t.requires_grad_() for key, t in tensors.items() if t.is_floating_point()}
    result = module(**tensors, **options)
    outputs = dict(zip(names, result if isinstance(result, tuple) else (result,)))
    outputs = {key: t for key, t in outputs.items() if t is not None}
    rng = np.random.default_rng(1)
    cotangents = {key: rng.standard_normal(t.shape) for key, t in outputs.items()}
    sum(torch.sum(outputs[key] * torch.tensor(c)) for key, c in cotangents.items()).backward()
    parameters = dict(module.named_parameters())
    case = Case(
        {"peer": "torch", "class": cls, "config": config, "call": options, "dtype": "float64"},
        params={key: p.detach().numpy() for key, p in parameters.items()},
        inputs=arrays,
        outputs={key: t.detach().numpy() for key, t in outputs.items()},
        cotangents=cotangents,
        grad_params={key: p.grad.numpy() for key, p in parameters.items() if p.grad is not None},
        grad_inputs={key: t.grad.numpy() for key, t in leaves.items() if t.grad is not None},
    )
    assert [a for a in check_case(case).agreements if not a.passed] == []
