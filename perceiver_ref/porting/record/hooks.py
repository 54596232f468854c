"""A forward pass of a PyTorch module, and a backward pass through it, seen by the module's own hooks.

Nothing of PyTorch is imported: a module is what has `named_modules`, `named_parameters` and hooks, a tensor what has
`detach` and `register_hook`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ...errors import InputError, one_line
from ..cases.tensors import as_array, is_array
from .recognise import UNKNOWN, recognise
from .recorder import Recorder
from .structure import arguments, exchanged, outputs

_ENCODED = {"images": 2, "videos": 3}
"""Arguments that an image encoder is given, and how many of their axes it takes for one."""
_PLACED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_WRAPPERS = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel")


def is_module(value: Any) -> bool:
    """Whether hooks can be put on a value as on a module of PyTorch."""
    return not isinstance(value, type) and all(
        callable(getattr(value, name, None))
        for name in ("named_modules", "named_parameters", "register_forward_hook", "register_forward_pre_hook")
    )


def check_module(module: Any) -> None:
    """Raise `InputError` for a module whose hooks, or those of its parts, would not see what they compute."""
    _check(module)
    for path, part in parts_of(module):
        if hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None:
            raise InputError(f"the part {path} is compiled by torch.compile, which passes hooks over: leave that out")


def _check(module: Any) -> None:
    kind = type(module).__name__
    if hasattr(module, "_orig_mod"):
        raise InputError("the module is compiled by torch.compile, which passes hooks over: record module._orig_mod")
    if getattr(module, "_compiled_call_impl", None) is not None:
        raise InputError("the module was compiled by module.compile(): make it anew without that, and record it")
    if type(module).__module__.startswith("torch.jit"):
        raise InputError("a scripted or traced module has no hooks inside: record the module that it was made from")
    if kind in _WRAPPERS and hasattr(module, "module"):
        raise InputError(f"{kind} splits the call: record its inner module, module.module")


class Hooks:
    """The hooks of one recording. `call` says which of the calls of the module is recorded, the first being 0."""

    def __init__(self, module: Any, recorder: Recorder, *, call: int = 0, parameters: bool = True) -> None:
        check_module(module)
        self.module, self.recorder = module, recorder
        self.chosen, self.parameters = call, parameters
        self.calls = 0
        self._inside = 0
        self._recording = False
        self._done = False
        self._handles: list[Any] = []
        self._backward: list[Any] = []
        self._expected: dict[str, dict[str, Any]] = {"grad_param": {}, "grad_input": {}}
        self._elsewhere = False
        self._error: BaseException | None = None
        self._failed = False
        self._encoded: Any = None
        self._held: dict[str, Any] = {}
        self._seen: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}

    def __enter__(self) -> Hooks:
        recorder, module = self.recorder, self.module
        recorder.recognised, notes = recognise(module)
        recorder.notes += notes
        try:
            self._handles.append(module.register_forward_pre_hook(self._before, with_kwargs=True))
            for path, part in parts_of(module):
                if self._has_point(path):
                    self._handles.append(part.register_forward_hook(self._point(path)))
                if path in recorder.recognised.watched:
                    self._handles.append(part.register_forward_hook(self._watched(path)))
            self._handles.append(module.register_forward_hook(self._after, always_call=True))
        except BaseException:
            self.__exit__()
            raise
        return self

    def _has_point(self, path: str) -> bool:
        """Whether what a part returns is a point; parts of an encoder in front of the class are none of it."""
        row = self.recorder.recognised
        return path not in row.partial and not (row.encoder and path.startswith(f"{row.encoder}."))

    def __exit__(self, *exception: object) -> None:
        for handle in (*self._handles, *self._backward):
            handle.remove()
        self._handles.clear()
        self._backward.clear()
        self._given_back()

    def finish(self) -> None:
        """What is known when the block is over: gradients of what backward did not reach, and buffers after the call.

        Raises `InputError` when the module was not called, or when gradients are those of several calls.
        """
        recorder = self.recorder
        if self._failed:
            raise InputError("the call to record raised an error inside `with record(...)`; nothing was written")
        if not self._done:
            often = f"{self.calls} times" if self.calls else "never"
            raise InputError(
                f"the module was called {often} inside `with record(...)`, so there is no call {self.chosen} to "
                "record; call the module itself there, model(x), not its forward"
            )
        if recorder.has("cotangent"):
            if self._elsewhere:
                raise InputError(
                    "backward went through several calls of the module, so that its gradients are of no single one: "
                    "use one `with record(...)` for each call"
                )
            for group, values in self._expected.items():
                for name, like in values.items():
                    if group == "grad_input" and self._encoded is not None and name in _ENCODED:
                        continue  # the case has what was made of it
                    if not recorder.holds(group, name):
                        recorder.array(group, name, np.zeros(tuple(like.shape), _numpy_dtype(like)))
        if self._encoded is not None:
            recorder.replace(_ENCODED, self._encoded)
        if self.calls > 1:
            recorder.notes.append(f"call {self.chosen} of {self.calls} in the block")
        if getattr(self.module, "training", False):
            drops = any("Dropout" in type(part).__name__ and getattr(part, "p", 0) for _, part in parts_of(self.module))
            recorder.notes.append("recorded in training mode" + ", with dropout, which is random" * drops)
            self._buffers_after()

    def _before(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before the module's call: its parameters, buffers and arguments as they are now."""
        self._inside += 1
        if self._inside > 1:  # a module that calls itself
            return None
        self._error = sys.exc_info()[1]
        self.calls += 1
        if self.calls - 1 != self.chosen:
            return None
        self._recording = True
        if self.parameters:
            self._state()
        given = bound(module.forward, args, kwargs)
        for name, value in named(given).items():
            opened = self.recorder.recognised.opened.get(name) if value is not None else None
            for inner, part in (opened(value) if opened else {name: value}).items():
                self.recorder.argument(inner, part)
        for name in self.recorder.recognised.held:
            value = self._held[name] = getattr(module, name)
            self.recorder.argument(name, value)
            setattr(module, name, self._input(name, value))
        if not isinstance(given, inspect.BoundArguments):
            return None
        placed = [p for p in given.signature.parameters.values() if p.kind in _PLACED]
        rest = next((p.name for p in given.signature.parameters.values() if p.kind is p.VAR_POSITIONAL), "")
        names = [p.name for p in placed] + [f"{rest}.{i}" for i in range(len(args))]
        # by place or by name as they came: a wrapper of the forward may look for some by name
        return (
            tuple(self._input(name, value) for name, value in zip(names, args)),
            {name: self._input(name, value) for name, value in kwargs.items()},
        )

    def _input(self, name: str, value: Any) -> Any:
        """An argument as the module gets it: its tensors under another name, so that the gradient is that of this
        call alone, whatever else the caller does with them."""
        waiting: dict[int, list[str]] = {}
        for inner, part in arguments(name, value):
            waiting.setdefault(id(part), []).append(inner)

        def replace(tensor: Any) -> Any:
            if not getattr(tensor, "requires_grad", False) or not waiting.get(id(tensor)):
                return tensor
            alias = tensor.view_as(tensor)
            if not alias.requires_grad:  # without gradients, as in torch.no_grad
                return tensor
            self._watch(alias, "grad_input", waiting[id(tensor)].pop(0))
            return alias

        return exchanged(value, replace)

    def _given_back(self) -> None:
        """Attributes that are arguments, as they were before the call."""
        for name, value in self._held.items():
            setattr(self.module, name, value)
        self._held.clear()

    def _watched(self, path: str) -> Callable[..., None]:
        """The hook of a part that is given what chance gives the module, or makes something of it."""

        def keep(_: Any, args: Any, out: Any) -> None:
            if self._recording:
                self._seen.setdefault(path, []).append((as_array(args[0], path), as_array(out, path)))

        return keep

    def _by_chance(self) -> None:
        """Inputs that came about inside the call, found in the calls of its parts."""
        recorder = self.recorder
        if (chance := recorder.recognised.chance) is None:
            return
        stored = {
            name: array for name in recorder.names("input") if (array := recorder.stored("input", name)) is not None
        }
        try:
            recorder.arrays("input", chance(self.module, stored, self._seen))
        except Exception as error:  # parts that were called in another way than the class calls them
            recorder.notes.append(f"what chance gave the call is not known ({one_line(error, 80)})")
        self._seen.clear()

    def _point(self, path: str) -> Callable[..., None]:
        """The hook of one part. What it computes again for backward, under checkpointing, is not recorded again."""
        every = self.recorder.recognised.peer == UNKNOWN
        encoder = self.recorder.recognised.encoder == path

        def keep(_: Any, __: Any, out: Any) -> None:
            if self._recording and encoder:
                self._encoded = out
            elif self._recording:
                for name, value in points(path, out, every):
                    self.recorder.point(name, value)

        return keep

    def _after(self, module: Any, args: Any, out: Any) -> Any:
        """After the module's call: its outputs, and hooks for what backward sends into them."""
        self._inside -= 1
        if self._inside:
            return None
        self._given_back()
        if sys.exc_info()[1] is not self._error:  # the call raised
            self._failed = self._failed or self._recording
            self._recording = False
            return None
        if not self._recording:
            return self._apart(out)
        self._recording, self._done = False, True
        self._by_chance()
        waiting: dict[int, list[str]] = {}
        differentiable = False
        for name, value in outputs(out):
            self.recorder.array("output", name, value)
            waiting.setdefault(id(value), []).append(name)
            differentiable = differentiable or getattr(value, "requires_grad", False)
        if not differentiable:
            return None
        self._watch_parameters()

        def replace(value: Any) -> Any:
            """Another name of the tensor, so that what comes back is sent by the caller alone, and not by a part of
            the module that used the same tensor."""
            if not getattr(value, "requires_grad", False) or not waiting.get(id(value)):
                return value
            alias = value.view_as(value)
            self._watch(alias, "cotangent", waiting[id(value)].pop(0))
            return alias

        return exchanged(out, replace)

    def _apart(self, out: Any) -> Any:
        """Another call's outputs, watched for a backward pass that would mix its gradients with the recorded ones."""

        def replace(value: Any) -> Any:
            if getattr(value, "requires_grad", False):
                self._backward.append(value.register_hook(self._mixed))
            return value

        exchanged(out, replace)

    def _mixed(self, gradient: Any) -> None:
        self._elsewhere = True

    def _watch_parameters(self) -> None:
        """Gradients as they arrive, before they are added to those of other calls."""
        if not self.parameters:
            return
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                self._expected["grad_param"][name] = parameter
                self._watch(parameter, "grad_param", name)
        for alias, name in self.recorder.tied.items():
            if name in self._expected["grad_param"]:
                parameter = self._expected["grad_param"][name]
                self._expected["grad_param"][alias] = parameter
                self._watch(parameter, "grad_param", alias)

    def _watch(self, tensor: Any, group: str, name: str) -> None:
        if group == "grad_input":
            self._expected[group][name] = tensor

        def keep(gradient: Any) -> None:
            self.recorder.array(group, name, gradient, more=True)

        self._backward.append(tensor.register_hook(keep))

    def _state(self) -> None:
        module, recorder = self.module, self.recorder
        first: dict[int, str] = {}
        for name, parameter in module.named_parameters(remove_duplicate=False):
            if (canonical := first.setdefault(id(parameter), name)) != name:
                recorder.tied[name] = canonical
            recorder.array("param", name, parameter)
        saved = set(module.state_dict())
        for name, buffer in module.named_buffers():
            if buffer is not None and (name in saved or recorder.recognised.peer == UNKNOWN):
                recorder.array("state", name, buffer)

    def _buffers_after(self) -> None:
        """Running statistics after a call in training, where it changed them."""
        row = self.recorder.recognised
        for name, buffer in self.module.named_buffers():
            before = self.recorder.stored("state", name)
            if before is None or before.dtype.kind != "f" or not (row.peer == UNKNOWN or name in row.given):
                continue
            if not np.array_equal(as_array(buffer, name), before):
                self.recorder.array("state_out", name, buffer)


def parts_of(module: Any) -> list[tuple[str, Any]]:
    """(path, part) of every module inside one, each once."""
    return [(path, part) for path, part in module.named_modules() if path]


def bound(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> inspect.BoundArguments | dict[str, Any]:
    """Arguments by the names that the function gives them, or by their places where that cannot be told."""
    try:
        return inspect.signature(function).bind(*args, **kwargs)
    except (TypeError, ValueError):  # the call itself will say what is wrong with it
        return {**{f"argument{i}": value for i, value in enumerate(args)}, **kwargs}


def named(given: inspect.BoundArguments | dict[str, Any]) -> dict[str, Any]:
    """The same as a dict, with those of `**kwargs` by their own names."""
    if isinstance(given, dict):
        return given
    made: dict[str, Any] = {}
    for name, value in given.arguments.items():
        if given.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            made |= value
        else:
            made[name] = value
    return made


def points(path: str, out: Any, every: bool) -> Iterator[tuple[str, Any]]:
    """What a part returned, under its path: an array, the first of a tuple, entries of a dict as `path.name`, but for
    `last_hidden_state`, which is what there is to it.

    With `every`, the others of a tuple are `path.out1` and so on, and all entries of a dict have their names.
    """
    if is_array(out):
        yield path, out
    elif hasattr(out, "to_tuple"):  # an output of transformers
        yield from points(path, out.to_tuple(), every)
    elif not every and isinstance(out, Mapping) and "last_hidden_state" in out:
        yield from points(path, out["last_hidden_state"], every)
    elif isinstance(out, (tuple, list)):
        for i, part in enumerate(out if every else out[:1]):
            yield from points(f"{path}.out{i}" if i else path, part, every)
    elif isinstance(out, Mapping):
        for name, part in out.items():
            yield from points(f"{path}.{name}", part, every)


def _numpy_dtype(tensor: Any) -> str:
    kind = str(tensor.dtype).rpartition(".")[2]
    return kind if kind in ("float64", "float16") else "float32"
