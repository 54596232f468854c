"""Functions of the models that are exchanged by name for the length of a `with`, to see what a model then computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..autograd.handlers import Step, handle

Replacement = Callable[..., Any]
"""Called with the original and its arguments."""


@contextmanager
def exchanged_steps(replacements: Mapping[str, Replacement]) -> Iterator[None]:
    """Within this context these replacements are called in place of the `Step`s of these names."""

    def run(step: Step, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        made = replacements.get(step.name)
        return step(*arguments, **options) if made is None else made(step, *arguments, **options)

    with handle(run, steps=True):
        yield
