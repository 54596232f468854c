"""Several modalities as one set of elements (Perceiver IO, sections 3.2 and 4.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...autograd import ops
from ...autograd.backend import xp
from ...autograd.core import array_of
from ...autograd.tree import Tree
from ...errors import InputError
from ..call import Call
from ..constraints import Count, Share
from ..modalities import Modalities
from ..module import Parameter, truncated_normal
from ..tracing import point, scope
from .base import Preprocessed
from .grid import GridInput
from .sets import OneHotInput, PointInput, VectorInput
from .text import TextInput

Modality = GridInput | OneHotInput | PointInput | VectorInput | TextInput


@dataclass(frozen=True)
class MultimodalInput(Modalities):
    """Each modality's elements, padded to a common width by a trainable vector, one after the other by name.

    The common width is the largest plus `min_padding`. `mask_probabilities` names modalities of which each element is
    replaced by a trainable mask vector with that probability: 0 never, 1 always, otherwise drawn from the call's key.
    """

    modalities: Mapping[str, Modality]
    min_padding: Count = 2
    mask_probabilities: Mapping[str, Share] | None = None

    def __post_init__(self) -> None:
        for name in self.mask_probabilities or {}:
            if name not in self.modalities:
                raise InputError(f"mask_probabilities names {name!r}; the modalities are {', '.join(self.names)}")

    def parameters(self) -> Tree:
        vector = truncated_normal(0.02)
        masks = {name: Parameter((1, self.channels), vector) for name in sorted(self.mask_probabilities or {})}
        return {**super().parameters(), "mask": masks}

    def state(self) -> Tree:
        return {name: self.modalities[name].state() for name in self.names}

    def apply(self, p: Tree, x: Mapping[str, Any], call: Call | None = None, *, pos: Any = None) -> Preprocessed:
        """x by modality -> elements (B, sum of the modalities' elements, channels); `pos` by modality."""
        if sorted(x) != self.names:
            got = ", ".join(sorted(x))
            raise InputError(f"inputs must be given for the modalities {', '.join(self.names)}; got {got}")
        call = call or Call()
        padded, features, sizes = [], {}, {}
        for name in self.names:
            with scope(name):
                part = self.modalities[name].apply(
                    p["modalities"][name], x[name], call.at(name), pos=None if pos is None else pos.get(name)
                )
                whole = self._padded(p, name, part.inputs)
                padded.append(point("padded", self._masked(p, name, whole, call)))
            features[name], sizes[name] = part.features, part.inputs.shape[1]
        return Preprocessed(point("", ops.concatenate(padded, axis=1)), features, sizes)

    def _masked(self, p: Tree, name: str, x: Any, call: Call) -> Any:
        probability = (self.mask_probabilities or {}).get(name)
        if probability is None:
            return x
        mask = point("mask", p["mask"][name])
        if probability == 0.0:
            return x
        mask = ops.broadcast_to(mask, shape=tuple(x.shape))
        if probability == 1.0:
            return mask
        key = call.at(name).key
        if key is None:
            raise InputError(f"elements of {name!r} are masked with probability {probability}: give the call a key")
        drawn = np.random.default_rng(key).random((*x.shape[:2], 1)) < probability
        return ops.where(xp(array_of(x)).asarray(drawn), mask, x)
