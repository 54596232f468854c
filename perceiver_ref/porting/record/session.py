"""`record`: the context manager around a call, whatever computes it, and the points of NumPy code inside."""

from __future__ import annotations

import functools
import inspect
import json
import math
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from ...autograd.scoped import Scoped
from ...errors import InputError, shortened
from ...host.files import AnyPath, check_writable
from ..cases.samples import MOST
from ..cases.tensors import is_array
from .choose import Choice, Points
from .hooks import Hooks, bound, is_module, named
from .keep import Keep, Samples, whole
from .probe import Probe
from .recognise import UNKNOWN, Recognised, class_path
from .recorder import Recorder
from .spool import Spool
from .structure import arguments, outputs

F = TypeVar("F", bound=Callable[..., Any])


class Watcher(Protocol):
    """What sees the calls of one framework's models: it is entered and left with the block."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *exception: object) -> None: ...

    def finish(self) -> None:
        """The block is over without an error: what is known only now; `InputError` where there is nothing."""


_active: Scoped[record] = Scoped("_active_recordings")


class record(AbstractContextManager["record"]):  # noqa: N801 - used as `with record(module, "case.npz"):`
    """Records one call of a live model as a case, which `check`, `diagnose`, `compare` and `bind` read.

        with pr.record(module, "case.npz"):
            module(x).sum().backward()

    A PyTorch module: its parameters and buffers, arguments, outputs, what every part of it returned and, where a
    backward pass is inside the block, what was sent into each output and the gradients of parameters and arguments.
    Peer, class and configuration are recognised where the module is of a known class; any other has the peer
    "unknown", and its names are found by `perceiver-ref bind`. Flax, Haiku and MLX modules the same, without gradients.

    Of several calls in a block the first is recorded, or number `call`. Gradients are those of the recorded call:
    backward through several calls is refused.

    NumPy code: `record("case.npz", inputs=..., params=...)`, in it `record.point(name, array)` for intermediate values
    (free where nothing records), and `outputs(...)` of what `with` gives.

    module      what is called inside the block; for NumPy code left out, or the path in its place
    path        the file to write, at the end and whole; what is there is replaced
    points      which intermediate values: shell patterns or regular expressions of their names, a set, a predicate
    largest     the most elements of one that is kept
    first       how many of them, those computed first
    statistics  only their statistics, `statistics/trace/<path>`, in place of the values (`cases.samples`)
    samples     besides, so many elements of each, from all over it, `sample/trace/<path>`
    probe       a probe: of outputs and gradients samples, too (16, or `samples`), and of parameters and buffers a
                fingerprint, so that the file is small and `check --weights FILE` runs it. Or options by name: `seed`,
                `samples`, and `inputs` and `cotangents`, how those are made that the generator made (docs/VECTORS.md)
    parameters  whether parameters, buffers and their gradients are kept, without which `check` cannot run
    call        which call inside the block, from 0
    inputs, params, state   arrays by name, for code that has no module
    meta        entries of the case's `meta` that are known better: peer, class, config, call, notes, seed, ...
    keep        another way to keep a point (`keep.Keep`)

    Arrays are written aside as they come: memory is that of the largest, and disk space twice that of the case until
    the end. Tensors may be on any device and of any dtype and layout; bfloat16 and float8 are stored as float32.
    Raises `InputError` at the end of the block when there was no call to record; nothing is written then, nor when the
    block raises.
    """

    def __init__(
        self,
        module: Any = None,
        path: AnyPath | None = None,
        *,
        points: Points = None,
        largest: int | None = None,
        first: int | None = None,
        statistics: bool = False,
        samples: int = 0,
        probe: bool | Mapping[str, Any] = False,
        parameters: bool = True,
        call: int = 0,
        inputs: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        state: Mapping[str, Any] | None = None,
        meta: Mapping[str, Any] | None = None,
        keep: Keep | None = None,
    ) -> None:
        if path is None and isinstance(module, (str, os.PathLike)):
            module, path = None, module
        if path is None or not isinstance(path, (str, os.PathLike)):
            raise InputError(f"record needs the path of the case to write, record(module, 'case.npz'); got {path!r}")
        for name, number, most in (("samples", samples, MOST), ("call", call, math.inf)):
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= most:
                least = f" up to {MOST:,}" if name == "samples" else ""
                raise InputError(f"{name} must be a whole number{least}, got {shortened(number)}")
        self.path = check_writable(path)
        try:
            json.dumps(meta)
        except (TypeError, ValueError) as error:
            raise InputError(f"meta must be what JSON holds: {error}") from None
        self.meta: dict[str, Any] = dict(meta or {})
        """What is written as `meta`; complete after the block."""
        self._given = {"input": inputs or {}, "param": params or {}, "state": state or {}}
        made = _probe(probe, samples, statistics=statistics, parameters=parameters, keep=keep)
        kept = Samples(made.samples, made.seed) if made else Samples(samples) if statistics or samples else whole
        self._recorder = Recorder(Spool(path), Choice(points, largest=largest, first=first), keep or kept, made)
        self._watcher = _watcher(module, self._recorder, call, parameters)
        self._open = ExitStack()

    def __enter__(self) -> record:
        with ExitStack() as stack:
            stack.enter_context(self._recorder.spool)
            if self._watcher is not None:
                stack.enter_context(self._watcher)
            stack.enter_context(_active.entered(self))
            for group, values in self._given.items():
                for name, value in values.items():
                    self._add(group, name, value)
            self._open = stack.pop_all()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        with self._open:
            if kind is None:
                if self._watcher is not None:
                    self._watcher.finish()
                self._recorder.choice.check()
                self.meta = self._recorder.write(self.meta)

    def inputs(self, **values: Any) -> None:
        """Arguments of the code that is recorded: arrays, dicts and lists of them; numbers, texts and flags."""
        for name, value in values.items():
            self._recorder.argument(name, value)

    def outputs(self, *value: Any, **values: Any) -> None:
        """What it returned, by name, or as it is: `out` for an array, `out0`, `out1` for a tuple."""
        for name, part in [*(("", part) for part in value), *values.items()]:
            for inner, array in outputs(part, name):
                self._recorder.array("output", inner, array)

    def cotangents(self, **values: Any) -> None:
        """What each output was multiplied by to make the loss whose gradients these are."""
        self._recorder.arrays("cotangent", values)

    def gradients(self, params: Mapping[str, Any] | None = None, inputs: Mapping[str, Any] | None = None) -> None:
        """Gradients of that loss, by the names of parameters and inputs."""
        for group, values in (("grad_param", params), ("grad_input", inputs)):
            for name, value in (values or {}).items():
                self._add(group, name, value)

    def _add(self, group: str, name: str, value: Any) -> None:
        """An array, or a tree of them, by names joined by dots."""
        if group == "input":
            self._recorder.argument(name, value)
            return
        for inner, part in arguments(name, value):
            self._recorder.array(group, inner, part)

    @staticmethod
    def point(name: str, value: Any) -> Any:
        """Record an intermediate value, an array, dict, list or tuple, in every recording under way; returns it."""
        for active in _active.values():
            for inner, part in arguments(name, value):
                if is_array(part):
                    active._recorder.point(inner, part)
        return value

    @staticmethod
    def traced(name: str | Callable[..., Any]) -> Any:
        """A decorator: what the function returns is a point of this name, or of the function's own name.

        The first function that is called inside a recording of NumPy code without inputs and outputs of its own is the
        one that the case is of: its arguments become inputs, what it returns the outputs.
        """
        if callable(name):
            return _traced(name, name.__name__)
        return lambda function: _traced(function, name)

    def _begin(self, function: Any, args: Any, kwargs: Any) -> bool:
        """Whether the function is the one that the case is of; then its arguments are noted."""
        if self._watcher is not None or self._recorder.has("output") or self._recorder.has("input") or self._calls:
            return False
        self._calls = 1
        self._recorder.recognised = Recognised(UNKNOWN, f"{function.__module__}.{function.__qualname__}", {})
        for name, value in named(bound(function, args, kwargs)).items():
            self._recorder.argument(name, value)
        return True

    _calls = 0


def _traced(function: F, name: str) -> F:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        active = _active.values()
        if not active:
            return function(*args, **kwargs)
        begun = [one for one in active if one._begin(function, args, kwargs)]
        made = function(*args, **kwargs)
        for one in active:
            if one in begun:
                one.outputs(made)
            else:
                for inner, part in arguments(name, made):
                    if is_array(part):
                        one._recorder.point(inner, part)
        return made

    return run  # type: ignore[return-value]


def _probe(given: Any, samples: int, *, statistics: bool, parameters: bool, keep: Any) -> Probe | None:
    """What is said of a probe; `InputError` for what contradicts it."""
    made = Probe.of(given)
    if made is None:
        return None
    for name, wrong in (("statistics", statistics), ("parameters", not parameters), ("keep", keep is not None)):
        if wrong:
            raise InputError(f"a probe has samples, statistics and a fingerprint of the parameters: leave {name} out")
    return replace(made, samples=samples) if samples else made


def _watcher(module: Any, recorder: Recorder, call: int, parameters: bool) -> Watcher | None:
    """What sees the calls of a module; None for code without one."""
    if module is None:
        recorder.recognised = Recognised(UNKNOWN, "function", {})
        return None
    if inspect.isclass(module):
        raise InputError(f"{module.__name__} is a class; make one, and record that")
    if is_module(module):
        return Hooks(module, recorder, call=call, parameters=parameters)
    package = type(module).__module__.partition(".")[0]
    bases = {cls.__module__.partition(".")[0] for cls in type(module).__mro__}
    if "flax" in bases:
        from .flax import watcher

        return watcher(module, recorder, call=call, parameters=parameters)
    if "haiku" in bases or package == "haiku":
        from .haiku import Haiku

        return Haiku(module, recorder, call=call, parameters=parameters)
    if "mlx" in bases:
        from .mlx import MLX

        return MLX(module, recorder, call=call, parameters=parameters)
    raise InputError(
        f"a {class_path(module)} cannot be recorded: expected a module of PyTorch, Flax, Haiku or MLX; for other code "
        "record(path, inputs=...) with record.point(name, array) inside"
    )
