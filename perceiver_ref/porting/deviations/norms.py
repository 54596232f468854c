"""Deviations of norms: their epsilon, their absence, their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from ...autograd import ops
from ...autograd.backend import xp
from ...autograd.core import Op, array_of
from ...autograd.tree import Tree
from ...models.tracing import point, where
from ...peers.lucidrains.perceiver.quirks import NormedProjection
from .base import Candidate, Change, Exchange, OpReplacement, Survey, edited, exchanged, groups, module_of

NORMS = ("layer_norm", "rms_norm")
_EPS = (0.0, 1e-12, 1e-10, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)


def layer_norm_eps(found: Survey) -> Iterator[Candidate]:
    """Another epsilon; or epsilon added to the standard deviation; or the unbiased variance."""
    modules = _norm_paths(found)
    functions: dict[str, OpReplacement] = {f"epsilon {eps:g}": _with_eps(eps) for eps in _EPS}
    functions["epsilon added to the standard deviation"] = _eps_outside
    functions["epsilon with the unbiased variance"] = _unbiased
    for name, roles in (("everywhere", None), *_NORMS_OF.items()):
        chosen = [
            m
            for m in modules
            if roles is None or (m.rpartition("/")[2] in roles and _is_final(found, m) == (name == _LAST))
        ]
        if not chosen or (roles is not None and len(chosen) == len(modules)):
            continue
        for label, match, single in groups(chosen):
            if single:
                continue
            meant = {module for module in chosen if match(module)}
            for variant, function in functions.items():
                change = Change(ops=partial(_of_norms, meant, function))
                yield Candidate("layer-norm-eps", f"{variant}: {name}, {label}", change, label != "everywhere")


_LAST = "the last norm"
_NORMS_OF = {
    "norms before attention": {"norm", "query_norm", "key_value_norm", "features_norm", "latents_norm"},
    "norms before MLPs": {"mlp_norm"},
    "norms of keys and values": {"key_value_norm", "features_norm"},
    "norms of queries": {"query_norm", "latents_norm"},
    _LAST: {"norm", "final_norm"},
}


def _with_eps(eps: float) -> OpReplacement:
    return lambda op, arguments, static: op(*arguments, **{**static, "eps": eps})


def _of_norms(modules: set[str], function: OpReplacement, path: Callable[[Any], str]) -> Mapping[str, OpReplacement]:
    """These norms computed otherwise."""

    def run(op: Op, arguments: Any, static: Any) -> Any:
        meant = module_of(path(arguments[1])) in modules
        return function(op, arguments, static) if meant else op(*arguments, **static)

    return dict.fromkeys(NORMS, run)


def _normalised(arguments: Any, inverse: Any, centred: Any) -> Any:
    return ops.add(ops.multiply(ops.multiply(centred, inverse), arguments[1]), arguments[2])


def _centred(x: Any) -> tuple[Any, Any]:
    centred = ops.subtract(x, ops.mean(x, axis=-1, keepdims=True))
    return centred, ops.mean(ops.multiply(centred, centred), axis=-1, keepdims=True)


def _eps_outside(op: Op, arguments: Any, static: Any) -> Any:
    if op.name == "rms_norm":
        x = arguments[0]
        size = ops.sqrt(ops.mean(ops.multiply(x, x), axis=-1, keepdims=True))
        return ops.multiply(ops.divide(x, ops.add(size, static.get("eps", 1e-6))), arguments[1])
    centred, variance = _centred(arguments[0])
    return _normalised(arguments, ops.divide(1.0, ops.add(ops.sqrt(variance), static.get("eps", 1e-5))), centred)


def _unbiased(op: Op, arguments: Any, static: Any) -> Any:
    if op.name == "rms_norm":
        return op(*arguments, **static)
    centred, variance = _centred(arguments[0])
    n = arguments[0].shape[-1]
    variance = ops.add(ops.multiply(variance, n / max(n - 1, 1)), static.get("eps", 1e-5))
    return _normalised(arguments, ops.divide(1.0, ops.sqrt(variance)), centred)


def _norm_paths(found: Survey) -> list[str]:
    return sorted({module_of(path) for name in NORMS for path in found.used.get(name, ())})


def _is_final(found: Survey, module: str) -> bool:
    """Whether a norm has no attention beside it: it ends a model, and is not the first step of a layer."""
    parent = module.rpartition("/")[0]
    prefix = f"{parent}/" if parent else ""
    return module.rpartition("/")[2] in ("norm", "final_norm") and not any(
        path.startswith((f"{prefix}attention/", f"{prefix}mixer/")) for path in found.paths
    )


def norm_missing(found: Survey) -> Iterator[Candidate]:
    """A norm left out: of one role, of all roles, of one role in one part of the model."""
    modules = [module for module in _norm_paths(found) if not _is_final(found, module)]
    roles = sorted({module.rpartition("/")[2] for module in modules})
    pairs = {"attention": {"query_norm", "norm", "key_value_norm", "features_norm", "latents_norm"}}
    sets = [(role, {role}) for role in roles] + [
        (f"{label}'s norms", wanted) for label, wanted in pairs.items() if len(wanted & set(roles)) > 1
    ]
    if len(roles) > 1:
        sets.append(("every norm", set(roles)))
    for name, wanted in sets:
        chosen = [module for module in modules if module.rpartition("/")[2] in wanted]
        for label, match, rare in groups(chosen):
            meant = {module for module in chosen if match(module)}
            yield Candidate("norm-missing", f"{name} left out, {label}", _skipped(meant), rare)
            yield Candidate("norm-missing", f"{name} without scale and offset, {label}", _plain(meant), rare=True)
    for module in modules:
        yield Candidate("norm-missing", f"{module} left out", _skipped({module}), rare=True)


def final_norm(found: Survey) -> Iterator[Candidate]:
    """The norm at the end of a model left out."""
    for module in _norm_paths(found):
        if _is_final(found, module):
            yield Candidate("final-norm", f"{module} left out", _skipped({module}))
            for names in (("scale", "offset"), ("scale",), ("offset",)):
                variant = f"{module} without {' and '.join(names)}"
                yield Candidate("final-norm", variant, _plain({module}, names))
    yield Candidate(
        "final-norm", "before the mean over latents", exchanged({NormedProjection.apply: _normed_before_mean})
    )
    yield Candidate(
        "final-norm", "after the last linear map", exchanged({NormedProjection.apply: _unnormed_projection})
    )


def _normed_before_mean(original: Any, layer: Any, p: Tree, latents: Any, **_: Any) -> Any:
    normed = layer.norm.apply(p["norm"], latents)
    return point("decoder", layer.output.apply(p["output"], ops.mean(normed, axis=1)))


def _unnormed_projection(original: Any, layer: Any, p: Tree, latents: Any, **_: Any) -> Any:
    out = layer.output.apply(p["output"], ops.mean(latents, axis=1))
    if out.shape[-1] != p["norm"]["scale"].shape[0]:
        raise ValueError("a norm of another width")
    return layer.norm.apply(p["norm"], out)


def _plain(modules: set[str], names: tuple[str, ...] = ("scale", "offset")) -> Change:
    """These norms with scale 1, offset 0, or both."""

    def edit(path: str, array: Any) -> Any:
        if module_of(path) not in modules or path.split("/")[-1] not in names:
            return array
        return xp(array).ones_like(array) if path.endswith("scale") else xp(array).zeros_like(array)

    return Change(params=lambda params: edited(params, edit))


def _skipped(modules: set[str]) -> Change:
    """These norms left out."""

    def table(path: Callable[[Any], str]) -> Mapping[str, OpReplacement]:
        def run(op: Op, arguments: Any, static: Any) -> Any:
            return arguments[0] if module_of(path(arguments[1])) in modules else op(*arguments, **static)

        return dict.fromkeys(NORMS, run)

    return Change(ops=table)


_BEFORE = {"attention": {"norm", "query_norm", "latents_norm"}, "mlp": {"mlp_norm"}}


def norm_after(found: Survey) -> Iterator[Candidate]:
    """Norms after the residual sums in place of before the layers (post-norm)."""
    modules = [module for module in _norm_paths(found) if not _is_final(found, module)]
    for name, roles in (("all", _BEFORE["attention"] | _BEFORE["mlp"]), *_BEFORE.items()):
        chosen = [module for module in modules if module.rpartition("/")[2] in roles]
        for label, match, rare in groups(chosen) if chosen else []:
            meant = {module for module in chosen if match(module)}
            after = Change(ops=_post(meant, set()), keeps=True)
            yield Candidate("norm-after", f"norms after the sums: {name}, {label}", after, rare)
            yield Candidate("norm-after", f"norms of what is added: {name}, {label}", _of_branches(meant), rare)
            others = {m for m in modules if m.rpartition("/")[2] in ("key_value_norm", "features_norm") and match(m)}
            if others and name != "mlp":
                variant = f"norms after the sums: {name}, and none of keys and values, {label}"
                yield Candidate("norm-after", variant, Change(ops=_post(meant, others), keeps=True), rare)


def _of_branches(modules: set[str]) -> Change:
    """A norm's input passes through it, and what attention or the MLP gives is normed, before any gate and sum."""
    waiting: dict[str, Callable[[Any], Any]] = {}
    applying: list[Op] = []

    def applied(op: Op, arguments: Any, static: Any) -> Any:
        applying.append(op)
        return op(*arguments, **static)

    def layers() -> Exchange:
        waiting.clear()

        def named(original: Any, name: str, value: Any) -> Any:
            if name == "" and (norm := waiting.pop(where(), None)) is not None:
                value = norm(value)
            return original(name, value)

        return {"point": named}

    def table(path: Callable[[Any], str]) -> Mapping[str, OpReplacement]:
        def run(op: Op, arguments: Any, static: Any) -> Any:
            module = module_of(path(arguments[1]))
            if applying or module not in modules:
                applying.clear()
                return op(*arguments, **static)
            branch = "mlp" if module.endswith("mlp_norm") else "attention"
            place = f"{where()}.{branch}" if where() else branch
            waiting[place] = lambda value: applied(op, (value, *arguments[1:]), static)
            return arguments[0]

        return dict.fromkeys(NORMS, run)

    return Change(parts=layers, ops=table, keeps=True)


def _post(modules: set[str], skipped: set[str]) -> Callable[[Any], Mapping[str, OpReplacement]]:
    """A norm's input passes through it, and the next sum with that input is normed."""

    def table(path: Callable[[Any], str]) -> Mapping[str, OpReplacement]:
        waiting: dict[int, tuple[Any, Op, Any, Any]] = {}

        def norm(op: Op, arguments: Any, static: Any) -> Any:
            module = module_of(path(arguments[1]))
            if module in skipped:
                return arguments[0]
            if module not in modules:
                return op(*arguments, **static)
            waiting[id(array_of(arguments[0]))] = (arguments[0], op, arguments[1:], static)
            return arguments[0]

        def add(op: Op, arguments: Any, static: Any) -> Any:
            kept = waiting.pop(id(array_of(arguments[0])), None)
            if kept is None:
                return op(*arguments, **static)
            return kept[1](op(*arguments, **static), *kept[2], **kept[3])

        return {**dict.fromkeys(NORMS, norm), "add": add}

    return table
