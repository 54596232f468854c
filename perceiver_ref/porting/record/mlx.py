"""MLX: a module is a dict of its parts, and is called as any object is."""

from __future__ import annotations

from typing import Any

from .called import Parts
from .recognise import UNKNOWN, Recognised, class_path, own_configuration
from .recorder import Recorder
from .structure import leaves


class MLX(Parts):
    """`model(x)`: modules inside have the paths that `named_modules` gives, parameters those of `parameters`
    (`layers.0.linear.weight`)."""

    def __init__(self, module: Any, recorder: Recorder, **options: Any) -> None:
        super().__init__({"": module, **dict(module.named_modules())}, recorder, **options)
        self._module = module
        recorder.recognised = Recognised(UNKNOWN, class_path(module), own_configuration(module))

    def begin(self) -> None:
        """The module's arrays; those that are frozen are parameters, too."""
        if self.parameters:
            self.recorder.arrays("param", dict(leaves(self._module.parameters())))
