"""Deviations of norms, linear maps, activations and residuals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ...autograd import ops
from ...autograd.backend import xp
from ...autograd.engine import Op
from ...autograd.tensor import array_of
from ...autograd.tree import Tree
from ...tracing import where
from ...variation import Replacement
from .base import Candidate, Change, Match, OpReplacement, Survey, edited, groups, module_of, role_of

NORMS = ("layer_norm", "rms_norm")
_EPS = (0.0, 1e-12, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)


def _quick_gelu(x: Any) -> Any:
    return ops.multiply(x, ops.sigmoid(ops.multiply(x, 1.702)))


_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    **ops.activations,
    "quick_gelu": _quick_gelu,
    "tanh": ops.tanh,
    "sigmoid": ops.sigmoid,
    "identity": lambda x: x,
    "leaky_relu": lambda x: ops.maximum(x, ops.multiply(x, 0.01)),
    "elu": lambda x: ops.where(ops.greater(x, 0.0), x, ops.subtract(ops.exp(ops.minimum(x, 0.0)), 1.0)),
}


def activation(found: Survey) -> Iterator[Candidate]:
    """Another activation in the MLPs; or, where they are gated, the gate and what it multiplies swapped."""
    for used in ops.activations:
        for label, match in groups(found.ops.get(used, [])):
            for other, function in _ACTIVATIONS.items():
                if other != used and used in found.ops:
                    change = Change(ops=_at({used: _other(function)}, match))
                    yield Candidate("activation", f"{other} in place of {used}, {label}", change)
    if any("/gate/" in f"/{path}" for path in found.paths):
        yield Candidate("activation", "the gate and what it multiplies are swapped", Change(params=_gates_swapped))


def _other(function: Callable[[Any], Any]) -> OpReplacement:
    return lambda op, arguments, static: function(arguments[0])


def _at(table: Mapping[str, OpReplacement], match: Match) -> Callable[[Any], Mapping[str, OpReplacement]]:
    """The replacements, in the scopes that match."""

    def here(replacement: OpReplacement) -> OpReplacement:
        def run(op: Op, arguments: tuple[Any, ...], static: dict[str, Any]) -> Any:
            return replacement(op, arguments, static) if match(where()) else op(*arguments, **static)

        return run

    return lambda path: {name: here(replacement) for name, replacement in table.items()}


def _gates_swapped(params: Tree) -> Tree:
    if isinstance(params, dict):
        swapped = {name: _gates_swapped(part) for name, part in params.items()}
        if {"gate", "hidden"} <= set(swapped):
            swapped["gate"], swapped["hidden"] = swapped["hidden"], swapped["gate"]
        return swapped
    return [_gates_swapped(part) for part in params] if isinstance(params, list) else params


def layer_norm_eps(found: Survey) -> Iterator[Candidate]:
    """Another epsilon; or epsilon added to the standard deviation; or the unbiased variance."""
    places = [place for name in NORMS for place in found.ops.get(name, [])]
    for label, match in groups(places):
        for eps in _EPS:

            def with_eps(op: Op, arguments: Any, static: Any, eps: float = eps) -> Any:
                return op(*arguments, **{**static, "eps": eps})

            change = Change(ops=_at(dict.fromkeys(NORMS, with_eps), match))
            yield Candidate("layer-norm-eps", f"epsilon {eps:g}, {label}", change, rare=label != "everywhere")
        for variant, function in (
            ("added to the standard deviation", _eps_outside),
            ("with the unbiased variance", _unbiased),
        ):
            yield Candidate(
                "layer-norm-eps",
                f"epsilon {variant}, {label}",
                Change(ops=_at({"layer_norm": function}, match)),
                rare=label != "everywhere",
            )


def _normalised(arguments: Any, inverse: Any, centred: Any) -> Any:
    return ops.add(ops.multiply(ops.multiply(centred, inverse), arguments[1]), arguments[2])


def _centred(x: Any) -> tuple[Any, Any]:
    centred = ops.subtract(x, ops.mean(x, axis=-1, keepdims=True))
    return centred, ops.mean(ops.multiply(centred, centred), axis=-1, keepdims=True)


def _eps_outside(op: Op, arguments: Any, static: Any) -> Any:
    centred, variance = _centred(arguments[0])
    return _normalised(arguments, ops.divide(1.0, ops.add(ops.sqrt(variance), static.get("eps", 1e-5))), centred)


def _unbiased(op: Op, arguments: Any, static: Any) -> Any:
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
        for label, match in groups(chosen):
            meant = {module for module in chosen if match(module)}
            yield Candidate("norm-missing", f"{name} left out, {label}", _skipped(meant))
    for module in modules:
        yield Candidate("norm-missing", f"{module} left out", _skipped({module}), rare=True)


def final_norm(found: Survey) -> Iterator[Candidate]:
    """The norm at the end of a model left out."""
    for module in _norm_paths(found):
        if _is_final(found, module):
            yield Candidate("final-norm", f"{module} left out", _skipped({module}))


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
        for label, match in groups(chosen) if chosen else []:
            meant = {module for module in chosen if match(module)}
            yield Candidate("norm-after", f"norms after the sums: {name}, {label}", Change(ops=_post(meant, set())))
            others = {m for m in modules if m.rpartition("/")[2] in ("key_value_norm", "features_norm") and match(m)}
            if others and name != "mlp":
                variant = f"norms after the sums: {name}, and none of keys and values, {label}"
                yield Candidate("norm-after", variant, Change(ops=_post(meant, others)))


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
            total = op(*arguments, **static)
            kept = waiting.pop(id(array_of(arguments[0])), None)
            return total if kept is None else kept[1](total, *kept[2], **kept[3])

        return {**dict.fromkeys(NORMS, norm), "add": add}

    return table


def weight_transposed(found: Survey) -> Iterator[Candidate]:
    """A square weight used transposed: of one role, of all roles."""
    square = [
        path
        for path, array in found.paths.items()
        if path.endswith("/weight") and array.ndim == 2 and array.shape[0] == array.shape[1] > 1
    ]
    for name, chosen in _by_role(square):
        for label, match in groups(chosen):
            meant = {path for path in chosen if match(path)}
            yield Candidate(
                "weight-transposed",
                f"weights of {name}, {label}",
                _edited(meant, _transposed),
            )
    for path in square:
        yield Candidate(
            "weight-transposed",
            path,
            _edited({path}, _transposed),
            rare=True,
        )


def bias_missing(found: Survey) -> Iterator[Candidate]:
    """A bias, or a norm's offset, left out: of one role, of attention, of MLPs, of all."""
    for kind, ending in (("bias", "bias"), ("offset", "offset")):
        paths = [p for p in found.paths if p.split("/")[-1] == ending]
        for name, chosen in _by_role(paths):
            for label, match in groups(chosen):
                meant = {path for path in chosen if match(path)}
                yield Candidate(
                    "bias-missing",
                    f"{kind} of {name}, {label}",
                    _edited(meant, _zeros),
                    rare=kind == "offset",
                )


def _zeros(array: Any) -> Any:
    return xp(array).zeros_like(array)


def _transposed(array: Any) -> Any:
    return array.T


def _edited(meant: set[str], edit: Callable[[Any], Any]) -> Change:
    """The parameters at these paths edited."""
    return Change(params=lambda params: edited(params, lambda path, a: edit(a) if path in meant else a))


def _by_role(paths: list[str]) -> Iterator[tuple[str, list[str]]]:
    roles: dict[str, list[str]] = {}
    for path in paths:
        roles.setdefault(role_of(path), []).append(path)
    sets = {
        "queries, keys and values": {"attention/query", "attention/key", "attention/value"},
        "queries and keys": {"attention/query", "attention/key"},
        "attention": {"attention/query", "attention/key", "attention/value", "attention/output"},
        "the MLP": {"mlp/hidden", "mlp/output", "mlp/gate"},
        "everything": set(roles),
    }
    yield from roles.items()
    for name, wanted in sets.items():
        if len(wanted & set(roles)) > 1:
            yield name, [path for role in roles if role in wanted for path in roles[role]]


def query_residual(found: Survey) -> Iterator[Candidate]:
    """The residual around attention left out where there is one, added where there is none."""
    crosses = [place for place in found.ops.get("attention", []) if "cross_attention" in place]
    for label, match in groups(crosses) if crosses else []:

        def flipped(original: Any, layer: Any, *arguments: Any, match: Match = match, **options: Any) -> Any:
            if match(f"{where()}.attention"):
                layer = replace(layer, query_residual=not layer.query_residual)
            return original(layer, *arguments, **options)

        yield Candidate(
            "query-residual",
            f"of cross-attention missing or extra, {label}",
            Change(layers=lambda flipped=flipped: {"CrossAttention": flipped}),
        )
    others = [p for p in found.ops.get("attention", []) if "cross_attention" not in p]
    if others:
        yield Candidate(
            "query-residual",
            "around attention missing",
            Change(layers=_without("attention_residual", lambda place: "cross_attention" not in place)),
        )


def mlp_residual(found: Survey) -> Iterator[Candidate]:
    """The residual around the MLP left out."""
    places = [p.rpartition(".")[0] for p in found.ops.get("linear", []) if p.split(".")[-1] == "mlp"]
    for label, match in groups(places) if places else []:
        yield Candidate("mlp-residual", f"missing {label}", Change(layers=_without("", match)))


def _without(sum_point: str, match: Match) -> Callable[[], Mapping[str, Replacement]]:
    """A residual sum is only what was to be added: the newest branch of the same layer."""
    branch = "mlp" if sum_point == "" else "attention"

    def made() -> Mapping[str, Replacement]:
        newest: dict[str, Any] = {}

        def point(original: Any, name: str, value: Any) -> Any:
            place = where()
            if name == "" and place.split(".")[-1] == branch:
                newest[place.rpartition(".")[0]] = value
            elif name in (f"{branch}_gated", f"{branch}_seen"):
                newest[place] = value
            elif name == sum_point and match(place) and (added := newest.pop(place, None)) is not None:
                return original(name, added)
            return original(name, value)

        return {"point": point}

    return made
