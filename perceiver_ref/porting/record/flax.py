"""Flax: Linen's modules by their interceptor of methods, NNX's by their calls."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from ...errors import InputError
from .called import Outermost, Parts
from .recognise import UNKNOWN, Recognised, class_path, own_configuration
from .recorder import Recorder
from .structure import leaves


def watcher(module: Any, recorder: Recorder, **options: Any) -> Linen | NNX:
    """Of a module of Linen or of NNX."""
    if hasattr(module, "apply") and hasattr(module, "clone"):
        return Linen(module, recorder, **options)
    if "flax.nnx" in sys.modules and isinstance(module, sys.modules["flax.nnx"].Module):
        return NNX(module, recorder, **options)
    raise InputError(f"a {class_path(module)} is no module of flax.linen or flax.nnx")


class Linen(Outermost):
    """`model.apply(variables, x)`: every method that is called, as `capture_intermediates=True` keeps them.

    Points have the paths of modules (`encoder.Dense_0`), with the name of a method other than `__call__` behind it.
    Parameters are `encoder.Dense_0.kernel`; other collections are buffers, `batch_stats.BatchNorm_0.mean`.
    """

    def __init__(self, module: Any, recorder: Recorder, **options: Any) -> None:
        super().__init__(recorder, **options)
        self._class = type(module)
        fields = {f.name: getattr(module, f.name, None) for f in dataclasses.fields(module) if f.name != "parent"}
        config = {key: value for key, value in own_configuration(_Fields(fields)).items() if key != "name"}
        recorder.recognised = Recognised(UNKNOWN, class_path(module), config)
        self._open = ExitStack()

    def __enter__(self) -> Linen:
        self._open.enter_context(sys.modules["flax.linen"].intercept_methods(self._intercepted))
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def _intercepted(self, call: Any, args: tuple[Any, ...], kwargs: dict[str, Any], context: Any) -> Any:
        module, method = context.module, context.method_name
        outside = not self._depth and (type(module) is not self._class or module.path)
        if method == "setup" or outside or module.is_initializing():
            return call(*args, **kwargs)
        path = ".".join([*module.path, *([] if method == "__call__" else [method])])
        function = getattr(module, method)

        def begin() -> None:
            if not self.parameters:
                return
            for collection, values in module.variables.items():
                for name, value in leaves(values):
                    if collection == "params":
                        self.recorder.array("param", name, value)
                    elif collection != "intermediates":
                        self.recorder.array("state", f"{collection}.{name}", value)

        return self.seen(path, function, call, args, kwargs, begin)


class NNX(Parts):
    """`model(x)`: the modules inside have the names of their attributes (`encoder.layers.0.linear`)."""

    def __init__(self, module: Any, recorder: Recorder, **options: Any) -> None:
        self._nnx = sys.modules["flax.nnx"]
        self._graph = [(".".join(map(str, path)), node) for path, node in self._nnx.iter_graph(module)]
        parts = {path: node for path, node in self._graph if isinstance(node, self._nnx.Module)}
        super().__init__({"": module, **parts}, recorder, **options)
        recorder.recognised = Recognised(UNKNOWN, class_path(module), own_configuration(module))

    def begin(self) -> None:
        """Variables of the type Param are parameters, others buffers, but for the state of random generators."""
        for name, node in self._graph if self.parameters else ():
            if isinstance(node, self._nnx.Variable) and not isinstance(node, self._nnx.RngState):
                group = "param" if isinstance(node, self._nnx.Param) else "state"
                self.recorder.array(group, name, node[...])


class _Fields:
    """Attributes, for `own_configuration`."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        vars(self).update(fields)
