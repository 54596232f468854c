"""What makes a source likely before any value has been looked at: names, order and what its neighbours were found in.

These only say what is tried first. Nothing is bound because of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from .sources import Source
from .views import View

_WORDS: dict[str, tuple[str, ...]] = {
    "query": ("q", "query", "queries", "wq", "toq", "qproj"),
    "key": ("k", "key", "keys", "wk", "tok", "kproj", "kv", "tokv"),
    "value": ("v", "value", "values", "wv", "tov", "vproj", "kv", "tokv"),
    "output": ("o", "out", "output", "wo", "proj", "toout", "dense", "fc2", "down", "outproj"),
    "hidden": ("fc1", "hidden", "up", "lin1", "dense1", "expand", "fc", "w1", "in"),
    "gate": ("gate", "w3", "gated"),
    "latents": ("latents", "latent", "lat", "bottleneck"),
    "norm": ("norm", "ln", "layernorm", "rmsnorm"),
    "scale": ("weight", "scale", "gamma", "g", "w"),
    "offset": ("bias", "offset", "beta", "b"),
    "bias": ("bias", "b"),
    "weight": ("weight", "kernel", "w"),
    "positions": ("pos", "position", "positions", "embed"),
}


def words(name: str) -> list[str]:
    """A name's words: parts between separators, and of CamelCase."""
    return [w for w in re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()) if w]


@lru_cache(maxsize=65536)
def parent(name: str) -> str:
    """The module of an array: its name without the last part."""
    return name.rpartition(".")[0] if "." in name else name.rpartition("/")[0]


class Hints:
    """Costs of sources for a parameter, given what others were bound to."""

    def __init__(self, order: Mapping[str, int], ours: list[str], transposed: bool) -> None:
        self.transposed = transposed
        """Whether the port keeps linear maps as (outputs, inputs)."""
        self.order, self.place = order, {path: i for i, path in enumerate(ours)}
        self.ours = ours
        self.near: dict[str, list[str]] = {}
        groups: dict[str, list[str]] = {}
        for path in ours:
            groups.setdefault(_outer(path), []).append(path)
        for path in ours:
            self.near[path] = [other for other in groups[_outer(path)] if other != path]
        self._words = {name: frozenset(words(name)) for name in order}
        self._static: dict[tuple[str, int], float] = {}

    def turn(self) -> None:
        """Take linear maps to be kept the other way round."""
        self.transposed = not self.transposed
        self._static.clear()

    def costs(self, path: str, sources: list[Source], bound: Mapping[str, Source]) -> list[float]:
        """Of each source, lower is likelier."""
        module, _, last = path.rpartition("/")
        beside = []
        for other in self.near[path]:
            found = bound.get(other)
            if found is not None and found.parts:
                own = other.rpartition("/")
                beside.append((found, found.parts[0].view, parent(found.names[0]), own[0] == module, own[2] == last))
        at, before = self.place[path], None
        for place in range(at - 1, max(at - 12, -1), -1):
            found = bound.get(self.ours[place])
            if found is not None and found.parts:
                before = self.order[found.names[-1]]
                break
        return [self._static_cost(path, source) + self._relative(source, beside, before) for source in sources]

    def best(self, path: str, sources: list[Source], count: int, names: set[str]) -> list[Source]:
        """The likeliest by themselves, and the parts of arrays of which others are bound."""
        kept = sorted(sources, key=lambda s: self._static_cost(path, s))[:count]
        known = set(map(id, kept))
        more = (s for s in sources if s.parts and s.names[0] in names and not s.parts[0].view.plain)
        return kept + [s for s in more if id(s) not in known]

    def _static_cost(self, path: str, source: Source) -> float:
        key = (path, id(source))
        if key not in self._static:
            self._static[key] = self._fixed(path, source)
        return self._static[key]

    def _fixed(self, path: str, source: Source) -> float:
        if not source.parts:
            return 4.0
        cost = 0.4 * (len(source.parts) > 1) + 2.0 * (source.parts[0].view.cut is not None)
        view = source.parts[0].view
        if not view.plain:
            cost += 0.6 + 0.5 * (view.shape is not None and len(view.take) > 0 and view.take[-1][0] > 0)
        if path.endswith("weight") and len(source.shape) == 2:
            cost += 2.0 * (view.moved != self.transposed)
        else:
            cost += 0.1 * view.moved
        said = self._words[source.names[0]]
        parts = path.split("/")
        for part in parts[-2:]:
            meant = next((key for key in _WORDS if part == key or part.endswith(f"_{key}")), None)
            if meant is None:
                continue
            if said & set(_WORDS[meant]):
                cost -= 0.6
            elif any(
                said & set(of) for key, of in _WORDS.items() if key in ("query", "key", "value", "output", "hidden")
            ):
                cost += 0.3
        ours, theirs = re.findall(r"\d+", path), re.findall(r"\d+", source.names[0])
        if ours and theirs and ours[-1] in theirs:
            cost -= 0.3
        return cost

    def _relative(
        self, source: Source, beside: list[tuple[Source, View, str, bool, bool]], before: int | None
    ) -> float:
        if not source.parts:
            return 0.0
        name, view, cost = source.names[0], source.parts[0].view, 0.0
        own = parent(name)
        for found, theirs, module, inside, alike in beside:
            if inside:
                cost += -0.8 if module == own else 0.4
                if view.fused or theirs.fused:
                    cost += 0.5 * (view.index != theirs.index) + 0.2 * (bool(view.fused) != bool(theirs.fused))
            else:
                cost -= 0.3 * _shared(module, own)
                if alike:
                    cost -= 0.9 * (found.names[0] == name and view.fused is not None and view.fused == theirs.fused)
                    cost += 0.3 * (view.moved != theirs.moved and view.plain and theirs.plain)
        if before is None:
            return cost + min(self.order[name], 8) * 0.05
        step = self.order[name] - before
        return cost + min(abs(step - 1) if step else 0.2, 8) * 0.08


def _outer(path: str) -> str:
    """The part around the module of a parameter."""
    return path.rpartition("/")[0].rpartition("/")[0]


@lru_cache(maxsize=65536)
def _shared(a: str, b: str) -> float:
    """The share of names' first parts that are the same."""
    x, y = re.split(r"[./]", a), re.split(r"[./]", b)
    count = 0
    for left, right in zip(x, y):
        if left != right:
            break
        count += 1
    return count / max(len(x), len(y), 1)
