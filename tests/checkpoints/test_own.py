"""Our own checkpoint leads back to the peer's arrays, bit for bit, and is refused when it contradicts itself."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.command import CONFIG, rebuilt, weights
from support import assert_close

import perceiver_ref as pr
from perceiver_ref.autograd import tree
from perceiver_ref.weights.checkpoints import read_checkpoint
from perceiver_ref.weights.formats.fit import Fitted, same_bits
from perceiver_ref.weights.formats.npz import read_npz, write_npz
from perceiver_ref.weights.formats.own import to_own

VECTORS = Path(__file__).parents[1] / "vectors"


def has_parameters(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.startswith("param/") for name in archive.namelist())


CASES = [
    path for peer in sorted(pr.peers.PEERS) for path in sorted((VECTORS / peer).glob("*.npz")) if has_parameters(path)
]


def assert_same_bits(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert sorted(found) == sorted(expected)
    assert not [name for name, array in expected.items() if not same_bits(found[name], array)]


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_class_comes_back_bit_for_bit(path: Path, tmp_path: Path) -> None:
    case = pr.vectors.read_case(path)
    meta = case.meta
    rng = np.random.default_rng(0)
    for array in case.params.values():  # a zero's sign is a bit, too
        if array.dtype.kind == "f" and array.shape:
            array.flat[rng.integers(array.size)] = -0.0
    case.params |= {alias: case.params[name] for alias, name in meta["tied"].items()}
    pr.vectors.write_case(tmp_path / "case.npz", case)
    checkpoint = read_checkpoint(
        meta["peer"], tmp_path / "case.npz", meta["class"], config=meta["config"], inputs=case.inputs
    )
    own = to_own(checkpoint.fitted, meta["peer"], checkpoint.cls, meta["config"], path, checkpoint.inputs)
    write_npz(tmp_path / "own.npz", own)
    back = read_checkpoint(None, tmp_path / "own.npz")
    assert (back.peer, back.config) == (meta["peer"], meta["config"])
    assert back.rebuilt.model == checkpoint.rebuilt.model
    aliases = {alias: back.arrays[name] for alias, name in back.fitted.tied.items()}
    assert set(aliases) == set(meta["tied"])
    assert_same_bits(back.arrays | aliases, case.params | case.state)
    params, state = checkpoint.rebuilt.load(checkpoint.arrays, path)
    written = read_npz(tmp_path / "own.npz")
    for group, values in (("param", params), ("state", state)):
        for name, array in tree.leaves(values):
            assert same_bits(written[f"{group}/{name}"], array)


def own_file(folder: Path, **changes: Any) -> Path:
    """Our checkpoint of a small model, with an alias and a counter, and with other `meta`."""
    write_npz(folder / "peer.npz", weights(CONFIG, np.float32))
    found = read_checkpoint("hf", folder / "peer.npz", config=CONFIG)
    arrays = {**found.arrays, "num_batches_tracked": np.array(3)}
    fitted = Fitted(found.rebuilt, arrays, {"decoder.tied": "perceiver.embeddings.latents"})
    own = to_own(fitted, "hf", found.cls, CONFIG, "here")
    own["meta"] = np.array(json.dumps({**json.loads(str(own["meta"])), **changes}))
    write_npz(folder / "own.npz", own)
    return folder / "own.npz"


def test_what_it_holds(tmp_path: Path) -> None:
    arrays = read_npz(own_file(tmp_path))
    meta = json.loads(str(arrays.pop("meta")))
    model = rebuilt()
    params = tree.flatten(model.load(weights(CONFIG, np.float32), "here")[0])
    assert set(arrays) == {f"param/{path}" for path in params} | {"peer/num_batches_tracked"}
    assert_close({path: arrays[f"param/{path}"] for path in params}, params, tolerance=0)
    expected = {
        "format": "perceiver-ref checkpoint",
        "version": 1,
        "perceiver_ref": pr.__version__,
        "peer": "hf",
        "class": "PerceiverForMaskedLM",
        "config": CONFIG,
        "dtype": "float32",
        "tied": {"decoder.tied": "perceiver.embeddings.latents"},
    }
    assert {key: meta[key] for key in expected} == expected
    assert meta["shapes"]["perceiver.embeddings.latents"] == [3, 8]


@pytest.mark.parametrize("name", ["hf", None])
def test_load_needs_nothing_else(tmp_path: Path, name: str | None, backend: str) -> None:
    path = own_file(tmp_path)
    model, params = pr.load(name, path, backend=backend)
    assert model == rebuilt().model
    assert_close(params, rebuilt().load(weights(CONFIG, np.float32), "here")[0], tolerance=0)
    _, wide = pr.load(name, path, dtype=np.float64)
    assert {leaf.dtype for _, leaf in tree.leaves(wide)} == {np.dtype(np.float64)}


def test_another_peer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(pr.InputError, match="is a checkpoint of peer hf, not deepmind"):
        pr.load("deepmind", own_file(tmp_path))
    write_npz(tmp_path / "plain.npz", weights(CONFIG))
    with pytest.raises(pr.InputError, match=r"does not say which implementation it comes from; name it \(--peer\)"):
        pr.load(None, tmp_path / "plain.npz", config=CONFIG)


def edited(change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = own_file(folder)
        arrays = read_npz(path)
        change(arrays)
        write_npz(path, arrays)
        return path

    return make


def with_meta(**changes: Any) -> Callable[[Path], Path]:
    return lambda folder: own_file(folder, **changes)


def with_shape(name: str, shape: Any) -> Callable[[Path], Path]:
    def change(arrays: dict[str, np.ndarray]) -> None:
        meta = json.loads(str(arrays["meta"]))
        meta["shapes"][name] = shape
        arrays["meta"] = np.array(json.dumps(meta))

    return edited(change)


LATENTS = "perceiver.embeddings.latents"
BROKEN = {
    "a version to come": (with_meta(version=2), "is a checkpoint of version 2; this release reads 1"),
    "no class": (with_meta(**{"class": None}), "meta lacks class"),
    "a config of text": (with_meta(config="x"), "meta lacks config"),
    "shapes of text": (with_meta(shapes={"x": "2"}), "shapes must be lists of sizes"),
    "negative shapes": (with_shape(LATENTS, [-3, 8]), "shapes must be lists of sizes"),
    "inputs of text": (with_meta(inputs={"x": "2"}), "shapes must be lists of sizes"),
    "no inputs": (with_meta(inputs=None), "meta lacks inputs"),
    "no shapes": (with_meta(shapes={}, tied={}), "missing in shapes"),
    "tied to nothing": (with_meta(tied={"a": "b"}), "tied must map other names to those of shapes"),
    "a name of two lines": (with_shape("a\nb", [1]), "a name is no printable text"),
    "an unknown class": (with_meta(**{"class": "PerceiverModle"}), "did you mean 'PerceiverModel'?"),
    "an unknown peer": (with_meta(peer="hff"), "did you mean 'hf'?"),
    "another config": (with_meta(config={**CONFIG, "num_latents": 4}), "param/encoder/latents has shape (3, 8)"),
    "an array less": (edited(lambda a: a.pop("param/encoder/latents")), "missing: param/encoder/latents"),
    "an array more": (edited(lambda a: a.update({"param/x": np.ones(1)})), "unused: param/x"),
    "another array": (edited(lambda a: a.update({"param/encoder/latents": np.ones(3)})), "has shape (3,), expected"),
    "a shape more": (with_shape("x", [2]), "neither bound nor kept: x"),
    "a huge shape": (with_shape(LATENTS, [1 << 40, 1 << 40]), "larger than its parameters"),
    "another shape": (with_shape(LATENTS, [8, 3]), "which does not fit param/encoder/latents"),
    "another shape of what is kept": (with_shape("num_batches_tracked", [2]), "has another shape or dtype"),
    "a NaN": (edited(lambda a: a.update({"param/encoder/latents": np.full((3, 8), np.nan)})), "holds a NaN"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_contradicts_itself_is_refused(tmp_path: Path, what: str) -> None:
    make, text = BROKEN[what]
    with pytest.raises(pr.InputError) as error:
        pr.load(None, make(tmp_path))
    assert text in str(error.value), str(error.value)
    assert str(error.value).isprintable()
