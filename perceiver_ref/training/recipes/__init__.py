"""Small models trained end to end: `perceiver-ref train NAME`.

What a recipe is stands in `training.recipe`.

data/     the data that the package ships; other data are made from a seed, by the module beside the recipe's
"""

from __future__ import annotations

from importlib import import_module

from ...errors import one_of
from ..recipe import Batch, Recipe, Settings, Stage, Task, arrays_like

MODULES = {
    "digits": "digits",
    "digits-permuted": "digits_permuted",
    "points": "points",
    "flow": "flow",
    "multimodal": "multimodal",
    "language": "language",
    "generate": "generate",
    "entities": "entities",
    "multitask": "multitask",
    "flamingo": "flamingo",
}
"""Recipe -> the module of this package that defines it, imported on first use."""


def recipe(name: str) -> Recipe:
    """The recipe of this name; `InputError` listing all for an unknown one."""
    if name not in MODULES:
        raise one_of("recipe", name, MODULES)
    defined: tuple[Recipe, ...] = import_module(f".{MODULES[name]}", __name__).RECIPES
    return next(made for made in defined if made.name == name)


__all__ = ["MODULES", "Batch", "Recipe", "Settings", "Stage", "Task", "arrays_like", "recipe"]
