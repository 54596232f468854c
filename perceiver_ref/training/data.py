"""What `fit` is trained on: arrays by name, of one length or of many; functions that draw batches; streams of them.

Every batch is a function of the seed and of the number of its step, so that a run that was stopped goes on exactly.
"""

from __future__ import annotations

import inspect
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import InputError, shortened

Arrays = dict[str, Any]
"""By name: arrays with an axis of examples first, or lists of one array an example, of different lengths."""
Augment = Callable[[dict[str, np.ndarray], np.random.Generator], Mapping[str, np.ndarray]]

INPUTS, TARGETS, MASK = "inputs", "targets", "mask"
"""Names that `fit` and its losses know: what goes into the model, what should come out, and what of the inputs is real
(B, M)."""
IGNORED = -100
"""What targets of padding are, which losses leave out."""


class Batches(ABC):
    """Batches by the number of their step; `examples` is None where nobody knows how many there are."""

    examples: int | None = None

    @abstractmethod
    def batch(self, step: int) -> dict[str, np.ndarray]:
        """The batch of step 0, 1, ..."""

    def steps(self) -> int | None:
        """Steps of an epoch."""
        return None

    def described(self) -> dict[str, Any]:
        """What tells these data from others, as JSON."""
        return {}


@dataclass(frozen=True)
class Stored(Batches):
    """Arrays by name, in batches of `size`, in another order in each epoch unless `shuffle` is False.

    Lists of arrays of different lengths are filled up to the longest of a batch, or to the next multiple of `multiple`,
    with `mask` beside them. With `buckets` a batch has examples of like lengths.
    """

    arrays: Arrays
    size: int
    seed: int = 0
    shuffle: bool = True
    augment: Augment | None = None
    buckets: bool = False
    multiple: int = 1
    _orders: dict[int, list[np.ndarray]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def examples(self) -> int:  # type: ignore[override]
        """The number of examples."""
        return len(next(iter(self.arrays.values())))

    def steps(self) -> int:
        return -(-self.examples // self.size)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        epoch, number = divmod(step, self.steps())
        made = collated(self.arrays, self._order(epoch)[number], self.multiple)
        return augmented(made, self.augment, self.seed, step)

    def all(self) -> Iterator[dict[str, np.ndarray]]:
        """All of it once, in order."""
        for start in range(0, self.examples, self.size):
            yield collated(self.arrays, np.arange(start, min(start + self.size, self.examples)), self.multiple)

    def described(self) -> dict[str, Any]:
        return {"examples": self.examples, "arrays": ", ".join(self.arrays), "checksum": self._checksum}

    @cached_property
    def _checksum(self) -> int:
        values = (v if isinstance(v, list) else [v] for v in self.arrays.values())
        return checksum(array for value in values for array in value)

    def _order(self, epoch: int) -> list[np.ndarray]:
        """The examples of each batch of an epoch."""
        if epoch not in self._orders:
            self._orders.clear()
            self._orders[epoch] = self._drawn(epoch)
        return self._orders[epoch]

    def _drawn(self, epoch: int) -> list[np.ndarray]:
        count = self.examples
        rng = np.random.default_rng((self.seed, 1, epoch))
        order = rng.permutation(count) if self.shuffle else np.arange(count)
        lengths = _lengths(self.arrays) if self.buckets else None
        if lengths is None:
            return [order[i : i + self.size] for i in range(0, count, self.size)]
        window = _WINDOW * self.size  # sorted by length within a window, so that epochs differ
        sorted_ = np.concatenate(
            [
                part[np.argsort(lengths[part], kind="stable")]
                for part in (order[i : i + window] for i in range(0, count, window))
            ]
        )
        made = [sorted_[i : i + self.size] for i in range(0, count, self.size)]
        return [made[i] for i in rng.permutation(len(made))] if self.shuffle else made


_WINDOW = 50  # batches


def checksum(arrays: Iterable[np.ndarray]) -> int:
    """Of the bytes of arrays, one after the other."""
    sums = 0
    for array in arrays:
        data: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        sums = zlib.crc32(data, sums)
    return sums


@dataclass(frozen=True)
class Drawn(Batches):
    """`draw(rng)` makes each batch from its own stream of random numbers."""

    draw: Callable[[np.random.Generator], Any]
    seed: int
    augment: Augment | None = None

    def batch(self, step: int) -> dict[str, np.ndarray]:
        made = _batch(self.draw(np.random.default_rng((self.seed, 2, step))))
        return augmented(made, self.augment, self.seed, step)


@dataclass
class Stream(Batches):
    """Batches one after the other from an iterable, or from a function that begins one.

    A run that goes on draws those of earlier steps again. A stream that ends begins anew, if it can.
    """

    source: Any
    seed: int
    augment: Augment | None = None

    def __post_init__(self) -> None:
        self._iterator: Iterator[Any] | None = None
        self._next = 0

    def batch(self, step: int) -> dict[str, np.ndarray]:
        if self._iterator is None or step < self._next:
            if self._iterator is not None and isinstance(self.source, Iterator):
                raise InputError("an iterator cannot go back to an earlier batch; give the function that makes it")
            self._iterator, self._next = self._begun(), 0
        while True:
            found = self._following()
            self._next += 1
            if self._next > step:
                return augmented(_batch(found), self.augment, self.seed, step)

    def _begun(self) -> Iterator[Any]:
        return iter(self.source() if callable(self.source) else self.source)

    def _following(self) -> Any:
        assert self._iterator is not None
        found = next(self._iterator, _END)
        if found is _END and not isinstance(self.source, Iterator):
            self._iterator = self._begun()
            found = next(self._iterator, _END)
        if found is _END:
            raise InputError(f"the training data ended after {self._next} batches; give more, or a function of them")
        return found


_END = object()


def batches(
    data: Any,
    size: int,
    seed: int,
    *,
    shuffle: bool = True,
    augment: Augment | None = None,
    buckets: bool = False,
    multiple: int = 1,
    dtype: Any = np.float32,
) -> Batches:
    """`data` as batches, floating-point numbers of arrays in `dtype`.

    Arrays by name, or (inputs, targets): arrays, lists, data frames; lists of arrays of different lengths. A function
    `(rng) -> batch`, a function without arguments that gives an iterator of batches, or an iterator.
    """
    if isinstance(data, Batches):
        return data
    if isinstance(data, Mapping) or (isinstance(data, tuple) and len(data) == 2):
        return Stored(stored(data, dtype), size, seed, shuffle, augment, buckets, multiple)
    if callable(data):
        needed = [p for p in inspect.signature(data).parameters.values() if p.default is p.empty]
        return Drawn(data, seed, augment) if needed else Stream(data, seed, augment)
    if isinstance(data, Iterable) and not hasattr(data, "shape") and not hasattr(data, "to_numpy"):
        return Stream(data, seed, augment)
    raise InputError(
        f"data must be arrays by name, such as {{'inputs': x, 'targets': y}}, or a function of batches, got "
        f"{type(data).__name__}"
    )


def stored(data: Any, dtype: Any = np.float32) -> Arrays:
    """Arrays by name from what people have: a dict or (inputs, targets) of arrays, lists, data frames.

    Floating-point numbers become those of `dtype`. Raises `InputError` for lengths that differ, and what is no number.
    """
    given = dict(data) if isinstance(data, Mapping) else dict(zip((INPUTS, TARGETS), data))
    made = {str(name): _column(str(name), value, dtype) for name, value in given.items()}
    if not made:
        raise InputError("the data hold no arrays")
    lengths = {name: len(value) for name, value in made.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        raise InputError(f"arrays of the data have different numbers of examples: {found}")
    if not next(iter(lengths.values())):
        raise InputError("the data hold no examples")
    return made


def _column(name: str, value: Any, dtype: Any) -> Any:
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    if hasattr(value, "detach"):  # a tensor of PyTorch
        value = value.detach().cpu().numpy()
    if hasattr(value, "get") and hasattr(value, "device"):  # of a GPU
        value = value.get()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return _numbers(name, value, dtype)
    if not isinstance(value, (Sequence, np.ndarray)) or isinstance(value, (str, bytes)):
        raise InputError(f"{name} of the data must be an array, a list or a data frame, got {type(value).__name__}")
    parts = [np.asarray(part) for part in value]
    if not parts:
        raise InputError(f"{name} of the data holds no examples")
    if all(part.shape == parts[0].shape for part in parts):
        return _numbers(name, np.stack(parts), dtype)
    if len({part.shape[1:] for part in parts}) > 1 or not all(part.ndim for part in parts):
        raise InputError(f"examples of {name} may differ in their first axis alone, got {_shapes(parts)}")
    return [_numbers(name, part, dtype) for part in parts]


def _shapes(parts: Sequence[np.ndarray]) -> str:
    return shortened([part.shape for part in parts[:4]])


def _numbers(name: str, array: np.ndarray, dtype: Any = np.float32) -> np.ndarray:
    if array.dtype.kind == "f":
        return array.astype(dtype, copy=False)
    if array.dtype.kind not in "biu":
        kind = "text" if array.dtype.kind in "US" else str(array.dtype)
        raise InputError(
            f"{name} of the data holds {kind}; give numbers (of classes: "
            "classes, numbers = numpy.unique(labels, return_inverse=True))"
        )
    return array


def _lengths(arrays: Arrays) -> np.ndarray | None:
    """Of the examples of the first list of different lengths."""
    ragged = next((value for value in arrays.values() if isinstance(value, list)), None)
    return None if ragged is None else np.array([len(part) for part in ragged])


def collated(arrays: Arrays, chosen: np.ndarray, multiple: int = 1) -> dict[str, np.ndarray]:
    """The batch of these examples.

    Lists of different lengths are filled up, targets with `IGNORED` where they are integers, anything else with 0.
    `mask` (B, M), True where the first of them is real, is beside them; where another one has other lengths it has its
    own, `<name>_mask`.
    """
    made: dict[str, np.ndarray] = {}
    masks: dict[str, np.ndarray] = {}
    for name, value in arrays.items():
        if not isinstance(value, list):
            made[name] = value[chosen]
            continue
        parts = [value[i] for i in chosen]
        longest = -(-max(len(part) for part in parts) // multiple) * multiple
        fill = IGNORED if name in (TARGETS, "labels") and parts[0].dtype.kind in "iu" else 0
        dtype = np.result_type(*parts) if fill == 0 else np.int64
        whole = np.full((len(parts), longest, *parts[0].shape[1:]), fill, dtype)
        for row, part in zip(whole, parts):
            row[: len(part)] = part
        made[name] = whole
        masks[name] = np.arange(longest) < np.array([len(part) for part in parts])[:, None]
    first: np.ndarray | None = None
    for name, mask in masks.items():
        if first is None:
            first = mask
            made.setdefault(MASK, mask)
        elif mask.shape != first.shape or (mask != first).any():
            made[f"{name}_mask"] = mask
    return made


def augmented(batch: dict[str, np.ndarray], augment: Augment | None, seed: int, step: int) -> dict[str, np.ndarray]:
    """`augment(batch, rng)`, with random numbers of the step's own."""
    if augment is None:
        return batch
    dtype = next((array.dtype for array in batch.values() if array.dtype.kind == "f"), np.float32)
    return _batch(augment(batch, np.random.default_rng((seed, 3, step))), dtype)


def _batch(made: Any, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """A batch that a user's function made, as arrays by name."""
    given = dict(made) if isinstance(made, Mapping) else dict(zip((INPUTS, TARGETS), made)) if _is_pair(made) else None
    if given is None:
        raise InputError(f"a batch must be arrays by name, or (inputs, targets), got {type(made).__name__}")
    return {str(name): _numbers(str(name), np.asarray(value), dtype) for name, value in given.items()}


def _is_pair(made: Any) -> bool:
    return isinstance(made, tuple) and len(made) == 2


def divided(arrays: Arrays, share: float, seed: int) -> tuple[Arrays, Arrays]:
    """(training, validation): a share of the examples, drawn by the seed, is held out."""
    count = len(next(iter(arrays.values())))
    held = min(max(round(share * count), 1), count - 1)
    if not 0 < share < 1 or count < 2:
        raise InputError(f"a share to hold out must be between 0 and 1, of at least two examples, got {share:g}")
    order = np.random.default_rng((seed, 4)).permutation(count)
    parts = order[held:], order[:held]

    def taken(rows: np.ndarray) -> Arrays:
        rows = np.sort(rows)
        return {k: [v[i] for i in rows] if isinstance(v, list) else v[rows] for k, v in arrays.items()}

    return taken(parts[0]), taken(parts[1])
