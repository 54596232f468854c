"""Calls of models whose framework has no hooks: the outermost call in a block, and those of its parts inside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...errors import InputError
from .hooks import bound, named, points
from .recorder import Recorder
from .structure import outputs

Call = Callable[..., Any]


class Outermost:
    """Records the outermost call, or number `chosen` of them, and what the calls inside it return."""

    def __init__(self, recorder: Recorder, *, call: int = 0, parameters: bool = True) -> None:
        self.recorder, self.chosen, self.parameters = recorder, call, parameters
        self.calls = 0
        self._depth = 0
        self._recording = False
        self._done = False
        self._failed = False

    def seen(
        self, path: str, function: Call, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], begin: Call
    ) -> Any:
        """A call, made here: `function` names the arguments, `begin` is called before the one that is recorded."""
        outer = self._depth == 0
        if outer:
            self.calls += 1
            self._recording = self.calls - 1 == self.chosen
        if outer and self._recording:
            begin()
            for name, value in named(bound(function, args, kwargs)).items():
                self.recorder.argument(name, value)
        self._depth += 1
        try:
            out = call(*args, **kwargs)
        except BaseException:
            self._failed = self._failed or (outer and self._recording)
            raise
        finally:
            self._depth -= 1
        if self._recording and outer:
            for name, value in outputs(out):
                self.recorder.array("output", name, value)
            self._recording, self._done = False, True
        elif self._recording:
            for name, value in points(path, out, True):
                self.recorder.point(name, value)
        return out

    def finish(self) -> None:
        """Raise `InputError` when there was no such call."""
        if self._failed:
            raise InputError("the call to record raised an error inside `with record(...)`; nothing was written")
        if not self._done:
            often = f"{self.calls} times" if self.calls else "never"
            raise InputError(
                f"the model was called {often} inside `with record(...)`, so there is no call {self.chosen} to record"
            )
        if self.calls > 1:
            self.recorder.notes.append(f"call {self.chosen} of {self.calls} in the block")


class Parts(Outermost):
    """Calls of these objects, path -> part, the model itself having the path "".

    `__call__` is looked up in an object's class: there it is exchanged while the block lasts, for these objects alone.
    """

    def __init__(self, parts: Mapping[str, Any], recorder: Recorder, **options: Any) -> None:
        super().__init__(recorder, **options)
        self._paths: dict[int, str] = {}
        for path, part in parts.items():
            self._paths.setdefault(id(part), path)
        self._parts = list(parts.values())  # kept, so that no other object gets one of these ids
        self._own: dict[type, Any] = {}
        self._under_way: set[int] = set()

    def begin(self) -> None:
        """Before the call that is recorded: parameters and buffers."""

    def __enter__(self) -> Parts:
        inherited = {cls: _call_of(cls) for cls in map(type, self._parts)}
        for cls, original in inherited.items():
            if original is not None:
                self._own[cls] = vars(cls).get("__call__")
                setattr(cls, "__call__", self._exchanged(original))  # noqa: B010
        return self

    def __exit__(self, *exception: object) -> None:
        for cls, own in self._own.items():
            if own is None:
                delattr(cls, "__call__")
            else:
                setattr(cls, "__call__", own)  # noqa: B010
        self._own.clear()

    def _exchanged(self, original: Call) -> Call:
        def run(part: Any, /, *args: Any, **kwargs: Any) -> Any:
            path = self._paths.get(id(part))
            if path is None or id(part) in self._under_way or (path and not self._depth):
                return original(part, *args, **kwargs)
            function = original.__get__(part, type(part))
            self._under_way.add(id(part))
            try:
                return self.seen(path, function, function, args, kwargs, self.begin)
            finally:
                self._under_way.discard(id(part))

        return run


def _call_of(cls: type) -> Any:
    """What is called when an object of a class is; None where it cannot be, and `cls.__call__` would be its type's."""
    return next((vars(base)["__call__"] for base in cls.__mro__ if "__call__" in vars(base)), None)
