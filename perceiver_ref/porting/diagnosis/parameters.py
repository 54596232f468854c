"""The parameters of a case: what they are, whether an operation is given them, and how wrong their gradients are."""

from __future__ import annotations

from typing import NamedTuple

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
    used = subject.survey.given
    names = {subject.survey.bound[path][0] for path in used if path in subject.survey.bound}
    aliases = subject.case.meta.get("tied", {})
    errors = {} if gradients is None else gradients.errors
    return [
        ParameterUse(name, array.shape, aliases.get(name, name) in names, errors.get(f"grad_param/{name}"))
        for name, array in subject.case.params.items()
    ]
