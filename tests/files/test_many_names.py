"""Work that grows with the number of names, and not with its square: twice the names are about twice the steps."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import perceiver_ref as pr
from perceiver_ref.autograd import tree
from perceiver_ref.errors import InputError
from perceiver_ref.models.tracing import point, scope
from perceiver_ref.peers import Given, peer
from perceiver_ref.porting.compare.dumps import compare_files
from perceiver_ref.weights.checkpoints import read_checkpoint
from perceiver_ref.weights.formats.fit import fit
from perceiver_ref.weights.formats.npz import write_npz
from perceiver_ref.weights.formats.state_dict import find_state_dict

CONFIG = {"vocab_size": 11, "max_position_embeddings": 7, "num_latents": 3, "d_latents": 8, "d_model": 8}
HEADS = {"num_self_attention_heads": 2, "num_cross_attention_heads": 2, "qk_channels": 8, "v_channels": 8}
CLASS = "PerceiverForMaskedLM"


def configuration(layers: int) -> dict[str, Any]:
    return {**CONFIG, **HEADS, "num_blocks": 1, "num_self_attends_per_block": layers}


def arrays_of(layers: int) -> dict[str, np.ndarray]:
    """Random ones: none is equal to another."""
    rng = np.random.default_rng(0)
    rebuilt = peer("hf").rebuild(CLASS, Given(configuration(layers)))
    return {b.name: rng.normal(size=b.view(np.zeros(b.shape)).shape) for b in rebuilt.bindings}


def extra(count: int) -> dict[str, np.ndarray]:
    """Arrays of no parameter, of the shape of its biases."""
    rng = np.random.default_rng(1)
    return {f"extra.{i}": rng.normal(size=8) for i in range(count)}


def fitting(n: int, folder: Path) -> Callable[[], object]:
    arrays = {**arrays_of(n // 20), **extra(n)}
    return lambda: fit(
        lambda found: peer("hf").rebuild(CLASS, Given(configuration(n // 20))), arrays, "here", allow_unused=True
    )


def refusing(n: int, folder: Path) -> Callable[[], object]:
    write_npz(folder / f"{n}.npz", {**arrays_of(n // 20), **extra(n)})

    def refused() -> None:
        with pytest.raises(InputError, match=r"unused: extra.0, .* and \d+ more"):
            pr.load("hf", folder / f"{n}.npz", CLASS, config=configuration(n // 20))

    return refused


def aliases(n: int, folder: Path) -> Callable[[], object]:
    """Names that all are tied to one parameter."""
    arrays = arrays_of(1)
    first = next(name for name in arrays if name.endswith("key.weight"))
    arrays |= {f"alias.{i}": arrays[first] + (i % 2 * 0.0) for i in range(n)}
    write_npz(folder / f"{n}.npz", arrays)

    def read() -> None:
        checkpoint = read_checkpoint("hf", folder / f"{n}.npz", CLASS, config=configuration(1))
        assert set(checkpoint.fitted.tied.values()) == {first}
        assert len(checkpoint.fitted.tied) == n

    return read


def searching(n: int, folder: Path) -> Callable[[], object]:
    content = {"model": {f"a.{i}": np.zeros(1) for i in range(n)}, "other": {str(i): i for i in range(n)}}
    return lambda: find_state_dict("here", content, lambda value: isinstance(value, np.ndarray), lambda value: True)


def repeating(n: int, folder: Path) -> Callable[[], object]:
    """A point that a loop passes again and again."""
    value = np.zeros(1)

    def traced() -> None:
        with pr.trace() as made:
            for _ in range(n):
                with scope("loop"):
                    point("value", value)
        assert list(made)[-1] == f"loop.value@{n - 1}"

    return traced


def comparing(n: int, folder: Path) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    dump = {f"layers.{i}": rng.normal(size=(2, 2)) for i in range(n)}
    write_npz(folder / f"{n}.a.npz", dump)
    write_npz(folder / f"{n}.b.npz", dump)
    return lambda: compare_files(folder / f"{n}.a.npz", folder / f"{n}.b.npz", None)


def flattening(n: int, folder: Path) -> Callable[[], object]:
    spec = {f"a{i}": [np.zeros(1), {"b": np.zeros(1)}] for i in range(n)}
    return lambda: tree.unflatten_like(spec, list(tree.flatten(spec).values()))


def steps(work: Callable[[], object]) -> int:
    """Lines of Python that the work runs."""
    made = [0]

    def count(frame: Any, event: str, argument: Any) -> Any:
        made[0] += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        work()
    finally:
        sys.settrace(before)
    return made[0]


KINDS = (fitting, refusing, aliases, searching, repeating, comparing, flattening)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_twice_the_names_are_twice_the_steps(tmp_path: Path, kind: Callable[[int, Path], Callable[[], object]]) -> None:
    """Three times would allow for n log n; what is quadratic takes four."""
    kind(20, tmp_path)()  # imports and caches
    few, many = (steps(kind(n, tmp_path)) for n in (200, 400))
    assert many < 3 * few
