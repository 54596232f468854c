"""Haiku: modules exist only while a transformed function runs, so they are seen by Haiku's interceptor of methods."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

from .called import Outermost
from .recognise import UNKNOWN, Recognised, class_path
from .recorder import Recorder

_OWN = ("__init__", "params_dict", "state_dict", "name_scope")
"""Methods of every module that compute nothing."""


class Haiku(Outermost):
    """`f.apply(params, rng, x)` of what `hk.transform` gave: the outermost call of a module in it is recorded.

    Points have the names of modules (`mlp/~/linear_0`), with the name of a method other than `__call__` behind it;
    parameters are `mlp/~/linear_0/w`, as in Haiku's own dictionaries.
    """

    def __init__(self, function: Any, recorder: Recorder, **options: Any) -> None:
        super().__init__(recorder, **options)
        self._open = ExitStack()

    def __enter__(self) -> Haiku:
        self._open.enter_context(sys.modules["haiku"].intercept_methods(self._intercepted))
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def _intercepted(self, call: Any, args: tuple[Any, ...], kwargs: dict[str, Any], context: Any) -> Any:
        module, method = context.module, context.method_name
        if method in _OWN or sys.modules["haiku"].running_init():
            return call(*args, **kwargs)
        path = module.module_name if method == "__call__" else f"{module.module_name}/{method}"

        def begin() -> None:
            self.recorder.recognised = Recognised(UNKNOWN, class_path(module), {})

        def called(*args: Any, **kwargs: Any) -> Any:
            out = call(*args, **kwargs)
            if self._recording and self.parameters:
                self._take(module)
            return out

        function = context.orig_method
        named = getattr(function, "__get__", lambda *_: function)(module)
        return self.seen(path, named, called, args, kwargs, begin)

    def _take(self, module: Any) -> None:
        """Parameters and state of a module and those made in its methods; ones made outside are not among its own."""
        for group, values in (("param", module.params_dict()), ("state", module.state_dict())):
            for name, value in values.items():
                if not self.recorder.holds(group, name):
                    self.recorder.array(group, name, value)
