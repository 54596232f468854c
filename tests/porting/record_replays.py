"""Stand-ins for live modules, built of cases: parts by the names of their parameters, attributes by hand, and the
case's outputs in the place of a computation."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from porting.record_stand_in import Module, Tensor

from perceiver_ref.porting.cases import Case

Config = Mapping[str, Any]
Attributes = Callable[[Config], Mapping[str, Mapping[str, Any]]]
"""Configuration -> attributes by the paths (shell patterns) of the parts that have them, "" being the module; the
attribute "class" is the name of a part's class."""


class Part(Module):
    """A part of which parameters are known: those of a linear map, an embedding or a norm tell their sizes."""

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[i] for i in range(len(self))[place]]
        return vars(self)[str(place)]

    def __len__(self) -> int:
        return sum(name.isdigit() for name in vars(self))

    def __iter__(self) -> Iterator[Any]:
        return iter([self[i] for i in range(len(self))])

    def sized(self) -> None:
        """Sizes as PyTorch's modules have them."""
        weight = vars(self).get("weight")
        if weight is None:
            return
        if weight.ndim == 1:
            self.normalized_shape, self.eps = weight.shape, 1e-5
        else:
            self.out_features, self.in_features = weight.shape
            self.num_embeddings, self.embedding_dim = weight.shape
            vars(self).setdefault("bias", None)

    def forward(self, x: Any, out: Any = None) -> Any:
        return x if out is None else out


class Replay(Part):
    """The module itself; `calls` are paths of parts, in order, with what each is given and gives."""

    def __init__(self, case: Case, calls: Any = ()) -> None:
        super().__init__()
        self._case, self._calls = case, calls
        groups = (case.params, case.state)
        self._tensors = [{name: Tensor(np.asarray(array)) for name, array in group.items()} for group in groups]

    def named_parameters(self, remove_duplicate: bool = True) -> Iterator[tuple[str, Tensor]]:
        yield from self._tensors[0].items()

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._tensors[1].items()

    def forward(self, **arguments: Any) -> Any:
        for path, given, out in self._calls:
            found(self, path)(Tensor(given), Tensor(out))
        return {name: Tensor(array) for name, array in self._case.outputs.items()}


def found(module: Any, path: str) -> Any:
    """The part of this path."""
    for name in path.split(".") if path else ():
        module = vars(module)[name]
    return module


def replay(case: Case, path: str, attributes: Mapping[str, Mapping[str, Any]], calls: Any = ()) -> Replay:
    """A module of the class path, with the parts of the case's parameters and these attributes."""
    package, _, name = path.rpartition(".")
    module = type(name, (Replay,), {"__module__": package, "__qualname__": name})(case, calls)
    for full, array in {**case.params, **case.state}.items():
        *parts, last = full.split(".")
        part: Any = module
        for inner in parts:
            part = vars(part).setdefault(inner, Part())
        setattr(part, last, Tensor(np.asarray(array)))
    every = dict(module.named_modules())
    for part in every.values():
        part.sized()
    for pattern, values in attributes.items():
        for inner in [p for p in every if fnmatch.fnmatchcase(p, pattern)]:
            vars(every[inner]).update({name: value for name, value in values.items() if name != "class"})
            if "class" in values:
                every[inner].__class__ = type(values["class"], (Part,), {})
    return module
