"""For tests of a port: compare what it computed with a reference case, and say what differs, where and by how much.

from perceiver_ref.testing import assert_matches
assert_matches({"out": my_model(case.inputs)}, "vectors/language/plain.npz")
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from .errors import InputError, listed, one_of
from .host.files import AnyPath
from .porting.cases import TOLERANCES, Case, is_probe, read_case, sampled, write_case
from .porting.cases.compare import difference, distances, largest_difference
from .porting.cases.execution import spread
from .porting.cases.probe import kept
from .porting.cases.samples import disagreement
from .porting.tolerances import Scale, tolerances

What = Literal["outputs", "gradients", "trace"]
_WHAT = ("outputs", "gradients", "trace")
_SHOWN = 8
_Limit = Callable[[np.ndarray], float]
"""From the reference's array to the tolerance."""


def assert_matches(
    actual: Any,
    reference: Case | AnyPath,
    *,
    what: What = "outputs",
    dtype: str | None = None,
    names: Iterable[str] | None = None,
) -> None:
    """Fail unless the arrays of a port are those of a case, within the case's tolerance.

    `actual` is an array, where the case has only one to compare, or arrays by name; nested dicts have dotted names.
    Arrays may be anything that NumPy can read, and PyTorch's tensors on any device. `reference` is a case or its file.

    `what`: its outputs; its gradients, by the names of parameters and of inputs (or `grad_param/<name>` and
    `grad_input/<name>` where both have one of that name); or its traced values, of which some are enough. `names`
    compares these alone. `dtype` is the precision that was computed in, where it is not the case's: "float32" for a
    float64 case allows what float32 can reach.

    Of a probe the samples and the statistics of each array are compared.

    Raises `AssertionError` naming every array that is missing or differs, with its error, the tolerance and the place
    of the largest difference; `InputError` for unknown names and a case without what is compared.
    """
    case = reference if isinstance(reference, Case) else read_case(reference)
    if what not in _WHAT:
        raise one_of("what", str(what), _WHAT)
    if dtype is not None and dtype not in TOLERANCES:
        raise one_of("dtype", str(dtype), TOLERANCES)
    if is_probe(case):
        _assert_samples(actual, case, what, dtype, names)
        return
    wanted = _wanted(case, what)
    where = case.name
    if not wanted:
        raise InputError(f"{where} has no {what} to compare with")
    given = _given(actual, wanted, what, where)
    chosen = _chosen(names, wanted, given, what, where)
    usual, scale = tolerances(case, dtype)["output"], Scale(case, dtype)

    def limit(reference: np.ndarray) -> float:
        return scale.tolerance("grad", reference, reference) if what == "gradients" else usual

    problems = [line for name in chosen if (line := _problem(name, given.get(name), wanted[name], limit, what))]
    if problems:
        arrays = [a for a in given.values() if a.dtype.kind == "f"]
        raise AssertionError(_message(problems, case, what, where, len(chosen), dtype, arrays))


def _assert_samples(actual: Any, probe: Case, what: str, dtype: str | None, names: Iterable[str] | None) -> None:
    """`assert_matches` for a probe, whose arrays are samples and statistics."""
    groups = {"outputs": ("output",), "gradients": ("grad_param", "grad_input"), "trace": ("trace",)}[what]
    theirs = {key: value for key, value in kept(probe).items() if key.partition("/")[0] in groups}
    wanted = {key if what == "gradients" else key.partition("/")[2]: value for key, value in theirs.items()}
    stubs = {name: np.broadcast_to(np.zeros((), s.dtype), s.shape) for name, s in wanted.items()}
    if not stubs:
        raise InputError(f"{probe.name} has no {what} to compare with")
    given = _given(actual, stubs, what, probe.name)
    own, usual = probe.meta["probe"], tolerances(probe, dtype)["output"]
    ends = {name: s.ends for name, s in wanted.items()}
    scale = Scale(replace(probe, grad_params=ends if what == "gradients" else {}), dtype)
    problems = []
    for name in _chosen(names, stubs, given, what, probe.name):
        if name not in given:
            problems.append(f"{name}: missing")
            continue
        found = sampled(spread(given[name], stubs[name]), own["seed"], own["samples"])
        limit = scale.tolerance("grad", ends[name], ends[name]) if what == "gradients" else usual
        samples, numbers, note = disagreement(found, wanted[name])
        if not max(samples, numbers) <= limit:
            problems.append(
                f"{name}: {note or f'error {samples:.1e}, of statistics {numbers:.1e}, tolerance {limit:.0e}'}"
            )
    if problems:
        arrays = [array for array in given.values() if array.dtype.kind == "f"]
        raise AssertionError(_message(problems, probe, what, probe.name, len(wanted), dtype, arrays))


def save(path: AnyPath, actual: Any, reference: Case | AnyPath) -> None:
    """Write a case with a port's outputs in place of the reference's, for `perceiver-ref diagnose` to explain."""
    case = reference if isinstance(reference, Case) else read_case(reference)
    if is_probe(case):
        raise InputError(f"{case.name} is a probe, which holds samples: diagnose needs a case of whole arrays")
    outputs = _given(actual, case.outputs, "outputs", case.name)
    if missing := [name for name in case.outputs if name not in outputs]:
        raise InputError(f"outputs are missing: {', '.join(missing)}")
    write_case(path, dataclasses.replace(case, outputs=outputs, trace={}, grad_params={}, grad_inputs={}))


def to_numpy(array: Any) -> np.ndarray:
    """An array of any library on the host; `InputError` for what is none."""
    if hasattr(array, "detach"):  # PyTorch
        array = array.detach().cpu()
        if str(array.dtype) == "torch.bfloat16":  # which NumPy does not have
            array = array.float()
    elif hasattr(array, "get") and not isinstance(array, Mapping):  # CuPy
        array = array.get()
    made = np.asarray(array)
    if made.dtype.kind not in "biuf":
        raise InputError(f"expected an array of numbers, got {type(array).__name__}")
    return made


def _wanted(case: Case, what: str) -> dict[str, np.ndarray]:
    """What the case has, by the names that `actual` may use."""
    if what == "outputs":
        return case.outputs
    if what == "trace":
        return case.trace
    params = {f"grad_param/{name}": a for name, a in case.grad_params.items()}
    return params | {f"grad_input/{name}": a for name, a in case.grad_inputs.items()}


def _given(actual: Any, wanted: Mapping[str, np.ndarray], what: str, where: str) -> dict[str, np.ndarray]:
    """`actual` by the names of `wanted`."""
    if not isinstance(actual, Mapping):
        if len(wanted) > 1:
            raise InputError(f"{where} has several {what}: give a dict with {listed(wanted)}")
        return {next(iter(wanted)): to_numpy(actual)}
    found = {}
    for path, array in _leaves(actual, ()):
        found[_name(path, wanted, what)] = to_numpy(array)
    return found


def _leaves(values: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _leaves(value, (*path, str(key)))
    elif isinstance(values, (list, tuple)) and path:
        for i, value in enumerate(values):
            yield from _leaves(value, (*path, str(i)))
    elif values is not None:
        yield path, values


def _name(path: tuple[str, ...], wanted: Mapping[str, np.ndarray], what: str) -> str:
    """The name of `wanted` that a path stands for: joined by dots or slashes, with a group before it for gradients."""
    joined = [".".join(path), "/".join(path)]
    groups = ("grad_param/", "grad_input/") if what == "gradients" else ("",)
    candidates = dict.fromkeys([*joined, *(group + name for group in groups for name in joined)])
    found = [name for name in candidates if name in wanted]
    if len(found) > 1:
        raise InputError(f"{joined[0]!r} is a parameter and an input: write {' or '.join(found)}")
    if not found:
        raise one_of(f"name in {what}", joined[0], wanted)
    return found[0]


def _chosen(
    names: Iterable[str] | None,
    wanted: Mapping[str, np.ndarray],
    given: Mapping[str, np.ndarray],
    what: str,
    where: str,
) -> list[str]:
    """The names to compare: those asked for, else all; of traced values those that there are."""
    if names is not None:
        names = [names] if isinstance(names, str) else names
        return [_name((name,), wanted, what) for name in names]
    if what == "trace":
        if not given:
            raise InputError(f"no traced value was given; {where} has {listed(wanted)}")
        return [name for name in wanted if name in given]
    return list(wanted)


def _problem(name: str, ours: np.ndarray | None, reference: np.ndarray, limits: _Limit, what: str) -> str | None:
    """What is wrong with one array, in a line; None when nothing is."""
    if ours is None:
        return f"{name}: missing"
    if what == "trace":
        ours = spread(ours, reference)
    if ours.shape != reference.shape:
        turned = "; the reference's, transposed" if ours.shape == reference.shape[::-1] else ""
        return f"{name}: shape {ours.shape}, expected {reference.shape}{turned}"
    error, limit = difference(ours, reference), limits(reference)
    if error <= limit:
        return None
    place = largest_difference(reference, ours)
    at = f" at [{', '.join(map(str, place))}]" if place else ""
    a, b = float(ours[place]), float(reference[place])
    scale = max(float(np.abs(reference[np.isfinite(reference)]).max(initial=0)), 1.0)
    far = distances(reference, ours) > limit * scale
    return (
        f"{name}: error {error:.1e}, tolerance {limit:.0e}; largest{at}: {a:.9g}, expected {b:.9g}; "
        f"{far.sum():,} of {far.size:,} elements differ{_examples(far)}"
    )


def _examples(far: np.ndarray) -> str:
    """Which examples of the batch differ, where some do not."""
    if far.ndim < 2 or far.shape[0] < 2:
        return ""
    wrong = np.flatnonzero(far.reshape(len(far), -1).any(1))
    return "" if len(wrong) == len(far) else f", all at {', '.join(map(str, wrong[:_SHOWN]))} of the first axis"


def _message(
    problems: list[str],
    case: Case,
    what: str,
    where: str,
    count: int,
    dtype: str | None,
    arrays: list[np.ndarray],
) -> str:
    lines = [f"{what} of {where}: {len(problems)} of {count} arrays do not match the reference"]
    lines += [f"  {line}" for line in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"  and {len(problems) - _SHOWN} more")
    lines.append("error: max |actual - reference| / max(max |reference|, 1)")
    if case.meta.get("catches"):
        lines.append(f"this case catches {case.meta['catches']}")
    computed = case.dtype if dtype is None else np.dtype("float32" if dtype == "bfloat16" else dtype)
    coarser = {str(a.dtype) for a in arrays if a.dtype.itemsize < computed.itemsize}
    if name := next((name for name in TOLERANCES if name in coarser), None):
        lines.append(f'some arrays are {name}: with dtype="{name}" they are held to what {name} can reach')
    if what == "outputs" and all("error" in line for line in problems) and not is_probe(case):
        lines.append(
            'to find the cause: perceiver_ref.testing.save("mine.npz", actual, reference), then perceiver-ref diagnose '
            "mine.npz"
        )
    return "\n".join(lines)
