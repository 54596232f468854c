"""Models of a person's own files, without Python: `perceiver-ref train classify --data FILE` and its like.

    classify   rows, sequences or images with labels, in .npz or CSV
    language   a text whose masked bytes are filled in
    generate   a text that is gone on with

    saved      such a model in use; `pictures` reads images for it, `examples` and `texts` what is trained on

Each of the first three makes a recipe of what was given: the loop, the output and the files are those of recipes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from ...host.files import AnyPath
from ..recipe import Recipe


@dataclass(frozen=True)
class Chosen:
    """What a person chose; None is the kind's own choice, which depends on the data.

    `data` is the file, `test` another one to evaluate on, `label` the column of labels.
    """

    data: AnyPath
    test: AnyPath | None = None
    label: str | None = None
    latents: int | None = None
    channels: int | None = None
    layers: int | None = None
    heads: int | None = None
    length: int | None = None
    steps: int | None = None
    batch: int | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class Kind:
    """A kind of model: the option that names its file, the options that it knows, and the recipe that it makes."""

    option: str
    known: tuple[str, ...]
    module: str

    def recipe(self, chosen: Chosen) -> Recipe:
        """The recipe; its data are read here. Raises `InputError` for files and sizes that do not fit."""
        make: Callable[[Chosen], Recipe] = import_module(f".{self.module}", __name__).recipe
        return make(chosen)


_SIZES = ("latents", "channels", "layers", "steps", "batch", "learning_rate")
KINDS: dict[str, Kind] = {
    "classify": Kind("data", ("test", "label", "heads", *_SIZES), "classify"),
    "language": Kind("text", ("test", "length", *_SIZES), "language"),
    "generate": Kind("text", ("test", "length", *_SIZES), "generate"),
}
"""By the word after `train`; "language" and "generate" are recipes too, of the package's own text."""
