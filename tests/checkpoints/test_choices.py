"""Which arrays of a file are meant: keys, prefixes, what is left over; each choice is told, and can be made."""

from __future__ import annotations

import json
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints.real import REAL, RESAMPLER
from files.torch_files import Called, Global, ordered, save, storage, tensor, tensors, zipped
from support import assert_close

import perceiver_ref as pr
from perceiver_ref.weights.checkpoints import Choice, read_checkpoint, read_weights
from perceiver_ref.weights.formats.npz import write_npz
from perceiver_ref.weights.formats.read import read_arrays
from perceiver_ref.weights.formats.safetensors_file import write_safetensors
from perceiver_ref.weights.formats.state_dict import KEYS

PEER, CLASS = "lucidrains-flamingo", "PerceiverResampler"
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    """The resampler's, by the rule of `real`."""
    return dict(read_weights(REAL / "accuracy_beside.pt"))


def file_of(folder: Path, arrays: Arrays, wrap: Callable[..., Any] = ordered) -> Path:
    path = folder / "weights.pt"
    path.write_bytes(save(arrays, wrap))
    return path


def load(path: Path, **choice: Any) -> Any:
    return read_checkpoint(PEER, path, CLASS, config=RESAMPLER, choice=Choice(**choice))


def two(made: dict[str, Any], first: str, second: str, **beside: Any) -> dict[str, Any]:
    """Two state dicts of a file: what begins with "a:" and what begins with "b:"."""
    parts = ({n[2:]: t for n, t in made.items() if n.startswith(start)} for start in ("a:", "b:"))
    return {first: ordered(next(parts)), second: ordered(next(parts)), **beside}


def both(arrays: Arrays) -> Arrays:
    return {f"a:{n}": a for n, a in arrays.items()} | {f"b:{n}": a + 1 for n, a in arrays.items()}


PREFERRED = [
    ("state_dict", "ema"),
    ("state_dict", "teacher"),
    ("model_state_dict", "model"),
    ("model", "ema"),
    ("model", "model_ema"),
    ("module", "optimizer"),
    ("net", "ema_net"),
    ("params", "params_ema"),
    ("network", "optimizer_state"),
    ("student", "lr_schedule"),
    ("ema", "discriminator"),
]


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(("wanted", "other"), PREFERRED)
def test_the_well_known_key_wins_and_another_can_be_named(
    tmp_path: Path, arrays: Arrays, wanted: str, other: str, order: int
) -> None:
    def wrap(made: dict[str, Any]) -> dict[str, Any]:
        parts = two(made, wanted, other)
        return dict([*parts.items()][::order])

    path = file_of(tmp_path, both(arrays), wrap)
    found = load(path)
    assert_close(found.arrays, arrays, tolerance=0)
    assert found.notes == (f"{path}: took the weights of {wanted!r}; it also holds {other} (--key chooses)",)
    named = load(path, key=other)
    assert_close(named.arrays, {n: a + 1 for n, a in arrays.items()}, tolerance=0)
    assert named.notes == (f"{path}: took the weights of {other!r}; it also holds {wanted} (--key chooses)",)


BESIDE: dict[str, Callable[[dict[str, Any], Any, Any], Any]] = {
    "an accuracy": lambda d, scalar, vector: {"state_dict": ordered(d), "best_acc1": scalar},
    "before it": lambda d, scalar, vector: {"loss": scalar, "state_dict": ordered(d)},
    "losses": lambda d, scalar, vector: {"model": ordered(d), "losses": vector, "rng_state": vector},
    "an unknown key": lambda d, scalar, vector: {"resampler": ordered(d), "loss": scalar, "losses": vector},
    "two levels down": lambda d, scalar, vector: {"checkpoint": {"model": ordered(d), "loss": scalar}, "step": scalar},
    "callbacks": lambda d, scalar, vector: {"state_dict": ordered(d), "callbacks": {"stop": {"best": scalar}}},
    "an optimizer by name": lambda d, scalar, vector: {"mine": ordered(d), "optimizer": {"x": {"m": vector}}},
    "a key of a number": lambda d, scalar, vector: {"model": ordered(d), 3: scalar, "loss": scalar},
}  # fmt: skip


@pytest.mark.parametrize("old", [False, True], ids=["zip", "older"])
@pytest.mark.parametrize("what", BESIDE)
def test_arrays_beside_the_weights_do_not_hide_them(tmp_path: Path, arrays: Arrays, what: str, old: bool) -> None:
    beside = {"scalar": np.array(71.25), "vector": np.arange(3.0)}

    def wrap(made: dict[str, Any]) -> Any:
        scalar, vector = made.pop("scalar"), made.pop("vector")
        return {**BESIDE[what](made, scalar, vector), "history": [scalar, vector]}

    path = tmp_path / "weights.pt"
    path.write_bytes(save({**arrays, **beside}, wrap, old))
    found = load(path)
    assert_close(found.arrays, arrays, tolerance=0)
    assert "--key" in found.notes[0]


def test_an_inner_dict_does_not_hide_the_outer_weights(tmp_path: Path, arrays: Arrays) -> None:
    """As a layer's own extra state is."""

    def wrap(made: dict[str, Any]) -> Any:
        return {**made, "layers.0._extra_state": {"scale": made["latents"]}}

    found = load(file_of(tmp_path, arrays, wrap))
    assert_close(found.arrays, arrays, tolerance=0)
    assert found.notes == (f"{tmp_path / 'weights.pt'}: left out what are no tensors: layers.0._extra_state",)


def test_a_key_that_is_not_there_or_holds_none(tmp_path: Path, arrays: Arrays) -> None:
    path = file_of(tmp_path, arrays, lambda d: {"a": {"model": ordered(d)}, "step": 3})
    assert_close(load(path, key="a").arrays, arrays, tolerance=0)
    assert_close(load(path, key="a.model").arrays, arrays, tolerance=0)
    with pytest.raises(pr.InputError, match=r"has no key 'b'; it holds a \(dict\), step \(int\)$"):
        load(path, key="b")
    with pytest.raises(pr.InputError, match=r"holds no state dict under 'step', .*; it holds a int$"):
        load(path, key="step")
    assert_close(load(file_of(tmp_path, arrays, dict), key=".").arrays, arrays, tolerance=0)


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_a_key_is_for_files_that_hold_more(tmp_path: Path, arrays: Arrays, ending: str) -> None:
    path = tmp_path / f"weights{ending}"
    {".npz": write_npz, ".safetensors": write_safetensors}[ending](path, arrays)
    with pytest.raises(pr.InputError, match="holds arrays by name and nothing else"):
        load(path, key="model")


def test_the_known_keys_are_all_found(tmp_path: Path, arrays: Arrays) -> None:
    for key in KEYS:
        path = file_of(tmp_path, arrays, lambda d, key=key: {key: ordered(d), "zzz": {"loss": d["latents"]}})
        assert_close(load(path).arrays, arrays, tolerance=0)


PREFIXES = ["net.", "backbone.", "perceiver.", "ema_model.", "teacher.perceiver.", "model.vision.resampler.", "a/b/"]


@pytest.mark.parametrize(
    "rest", [{}, {"lang_encoder.w": np.ones(2), "step": np.array(3)}], ids=["alone", "whole model"]
)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_one_prefix_that_fits_is_found(tmp_path: Path, arrays: Arrays, prefix: str, rest: Arrays) -> None:
    path = file_of(tmp_path, {prefix + name: array for name, array in arrays.items()} | rest)
    found = load(path)
    assert_close(found.arrays, arrays, tolerance=0)
    notes = [f"{path}: took the 15 of {15 + len(rest)} arrays below {prefix!r}, where every parameter is"]
    if rest:
        notes.append(f"{path}: left out 2 arrays elsewhere: lang_encoder.w, step")
    assert list(found.notes) == notes
    for given in (prefix, prefix[:-1]):
        named = load(path, prefix=given)
        assert_close(named.arrays, arrays, tolerance=0)
        assert named.notes == (f"{path}: took the 15 of {15 + len(rest)} arrays below {given!r}",)


AMBIGUOUS = [("model.", "ema_model."), ("module.", "ema.module."), ("net.", "target_net."), ("a.b.", "a.c.")]


@pytest.mark.parametrize(("first", "second"), AMBIGUOUS)
def test_of_several_prefixes_one_must_be_named(tmp_path: Path, arrays: Arrays, first: str, second: str) -> None:
    path = file_of(tmp_path, {first + n: a for n, a in arrays.items()} | {second + n: a + 1 for n, a in arrays.items()})
    names = ", ".join(map(repr, sorted((first, second))))
    with pytest.raises(
        pr.InputError, match=rf"every parameter is there below each of {names}; choose one \(--prefix\)$"
    ):
        load(path)
    assert_close(load(path, prefix=first).arrays, arrays, tolerance=0)
    assert_close(load(path, prefix=second).arrays, {n: a + 1 for n, a in arrays.items()}, tolerance=0)


def test_of_several_prefixes_the_one_of_the_right_shapes(tmp_path: Path, arrays: Arrays) -> None:
    wider = {f"large.{name}": np.ones((2, *array.shape), np.float32) for name, array in arrays.items()}
    path = file_of(tmp_path, {f"small.{n}": a for n, a in arrays.items()} | wider)
    assert_close(load(path).arrays, arrays, tolerance=0)


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_what_is_not_below_a_named_prefix_is_not_read(tmp_path: Path, arrays: Arrays, ending: str) -> None:
    """A part of a large model costs what the part does."""
    whole = {f"net.{name}": array for name, array in arrays.items()} | {"text.weight": np.ones(1 << 20)}
    path = tmp_path / f"weights{ending}"
    path.write_bytes(save(whole)) if ending == ".pt" else write_safetensors(path, whole)
    load(path, prefix="net")  # what is imported and cached at first
    tracemalloc.start()
    try:
        found = load(path, prefix="net")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert_close(found.arrays, arrays, tolerance=0)
    assert found.notes == (f"{path}: took the 15 of 16 arrays below 'net'",)
    assert peak < 4 << 20  # the other array has 8 MiB


def assert_same(found: Arrays, expected: Arrays) -> None:
    """In any order."""
    assert_close(dict(sorted(found.items())), dict(sorted(expected.items())), tolerance=0)


def test_a_shared_tensor_below_a_prefix_is_read_from_where_it_is(tmp_path: Path, arrays: Arrays) -> None:
    names = {f"net.{name}": array for name, array in arrays.items()}
    write_safetensors(
        tmp_path / "weights.safetensors",
        {**{name: array for name, array in names.items() if name != "net.latents"}, "head": names["net.latents"]},
        {"net.latents": "head"},
    )
    assert_same(load(tmp_path / "weights.safetensors", prefix="net.").arrays, arrays)
    assert_same(load(tmp_path / "weights.safetensors").arrays, arrays)
    names["head"] = names.pop("net.latents")
    index = {"weight_map": dict.fromkeys(["head", *names], "a.safetensors"), "metadata": {"net.latents": "head"}}
    folder = tmp_path / "shards"
    folder.mkdir()
    write_safetensors(folder / "a.safetensors", names)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_same(load(folder, prefix="net.").arrays, arrays)


def test_a_prefix_that_no_name_has(tmp_path: Path, arrays: Arrays) -> None:
    path = file_of(tmp_path, {f"net.{name}": array for name, array in arrays.items()})
    with pytest.raises(pr.InputError, match=r"no name begins with 'model.' \(--prefix\); the names begin with net\."):
        load(path, prefix="model.")
    with pytest.raises(pr.InputError, match=r"missing: latents"):
        pr.load(PEER, path, CLASS, config=RESAMPLER, prefix="")


EXTRA = {"bare": "", "a wrapper": "model.", "a prefix": "net."}


@pytest.mark.parametrize("what", EXTRA)
def test_what_is_left_over_is_refused_or_listed_when_asked(tmp_path: Path, arrays: Arrays, what: str) -> None:
    prefix = EXTRA[what]
    extra = {f"{prefix}loss.weight": np.ones(3), f"{prefix}positions": np.arange(4)}
    path = file_of(tmp_path, {prefix + name: array for name, array in arrays.items()} | extra)
    with pytest.raises(pr.InputError, match=r"unused: loss.weight, positions; --allow-unused leaves them out$"):
        load(path)
    found = load(path, allow_unused=True)
    assert_close(found.arrays, arrays, tolerance=0)
    assert found.notes[-1] == f"{path}: left out 2 arrays that the class has no use for: loss.weight, positions"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pr.load(PEER, path, CLASS, config=RESAMPLER, prefix=prefix, allow_unused=True)
    assert str(caught[-1].message) == found.notes[-1]


def test_a_missing_parameter_is_missing_whatever_is_allowed(tmp_path: Path, arrays: Arrays) -> None:
    path = file_of(tmp_path, {name: array for name, array in arrays.items() if name != "latents"})
    with pytest.raises(pr.InputError, match="missing: latents"):
        pr.load(PEER, path, CLASS, config=RESAMPLER, allow_unused=True)


def with_unreadable(arrays: Arrays, name: str, held: Any) -> bytes:
    made, storages = tensors({n: a for n, a in arrays.items() if n != name})
    return zipped({**made, name: held}, {**storages, "z": np.zeros(4)})


UNREADABLE = {
    "complex": (tensor(storage("z", "float64", 4), 0, (2,), (1,), {"conj": True}), "metadata or a foreign storage"),
    "sparse": (Called(Global("torch._utils", "_rebuild_sparse_tensor"), ()), "_rebuild_sparse_tensor"),
    "beyond": (tensor(storage("z", "float64", 4), 3, (2,), (1,)), "reaches beyond its storage"),
    "a subclass": (Called(Global("torch._tensor", "_rebuild_from_type_v2"), (Global("a", "F"), 1, (), {})), "a.F"),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_an_array_that_cannot_be_read_concerns_itself_alone(tmp_path: Path, arrays: Arrays, what: str) -> None:
    held, text = UNREADABLE[what]
    path = tmp_path / "weights.pt"
    path.write_bytes(with_unreadable(arrays, "freqs", held))
    with pytest.raises(pr.InputError, match="unused: freqs"):
        load(path)
    assert_close(load(path, allow_unused=True).arrays, arrays, tolerance=0)
    path.write_bytes(with_unreadable(arrays, "latents", held))
    with pytest.raises(pr.InputError, match=rf"parameter 'latents' cannot be read: it holds .*{text}"):
        load(path, allow_unused=True)


def test_objects_among_the_weights_are_left_out_unless_needed(tmp_path: Path, arrays: Arrays) -> None:
    path = tmp_path / "weights.pt"
    object_ = Called(Global("io", "BytesIO"), (b"x",))
    path.write_bytes(with_unreadable(arrays, "norm._extra_state", object_))
    found = load(path)
    assert_close(found.arrays, arrays, tolerance=0)
    assert found.notes == (f"{path}: left out what are no tensors: norm._extra_state",)
    path.write_bytes(with_unreadable(arrays, "latents", object_))
    with pytest.raises(pr.InputError, match=r"parameter 'latents' cannot be read: it holds the name io.BytesIO$"):
        load(path)


def test_notes_are_none_where_nothing_was_chosen(tmp_path: Path, arrays: Arrays) -> None:
    assert read_arrays(file_of(tmp_path, arrays, lambda d: {"state_dict": ordered(d), "epoch": 3})).notes == []
    assert load(file_of(tmp_path, arrays)).notes == ()
