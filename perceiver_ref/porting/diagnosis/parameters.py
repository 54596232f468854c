"""The parameters of a case: what they are, whether an operation is given them, and how wrong their gradients are."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...autograd import tree
from ...autograd.backend import is_array
from ...autograd.observing import Event, observe
from ...models.tracing import trace
from ..gradients.diagnose import GradientDiagnosis
from ..subject import Subject


class ParameterUse(NamedTuple):
    """One parameter by the peer's name; `used`: whether an operation of the reference's forward pass is given it or a
    part of it; `gradient_error`: of its gradient, None where none was compared."""

    name: str
    shape: tuple[int, ...]
    used: bool
    gradient_error: float | None


def parameters_of(subject: Subject, gradients: GradientDiagnosis | None) -> list[ParameterUse]:
    """Every parameter of the case, in its order; a tied one is used where its other name is."""
    given = {id(_whole(array)): path for path, array in tree.leaves(subject.params) if array is not None}
    used: set[str] = set()

    def watch(event: Event) -> None:
        for argument in event.arguments:
            if is_array(argument) and (path := given.get(id(_whole(argument)))):
                used.add(path)

    with trace(lambda name: False), observe(watch), np.errstate(all="ignore"):
        subject.run(subject.params, subject.inputs)
    names = {subject.survey.bound[path][0] for path in used if path in subject.survey.bound}
    aliases = subject.case.meta.get("tied", {})
    errors = {} if gradients is None else gradients.errors
    return [
        ParameterUse(name, array.shape, aliases.get(name, name) in names, errors.get(f"grad_param/{name}"))
        for name, array in subject.case.params.items()
    ]


def _whole(array: Any) -> Any:
    """The array that a view is a part of."""
    while getattr(array, "base", None) is not None and is_array(array.base):
        array = array.base
    return array
