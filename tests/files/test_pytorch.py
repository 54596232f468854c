"""PyTorch's files give the tensors that their pickles describe, without PyTorch; all else is one clear error."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from files.torch_files import (
    Called,
    Global,
    Persistent,
    dumps,
    legacy,
    ordered,
    save,
    storage,
    tensor,
    tensors,
    zipped,
)

from perceiver_ref import InputError
from perceiver_ref.weights.checkpoints import read_weights
from perceiver_ref.weights.formats.pytorch import read_pytorch

DTYPES = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]
ARRAYS = {
    "weight": np.arange(12.0).reshape(3, 4),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "scalar": np.array(7),
    "empty": np.zeros((0, 3)),
}


def write(folder: Path, data: bytes, name: str = "weights.pt") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array)


def refused(folder: Path, data: bytes, text: str) -> None:
    with pytest.raises(InputError) as error:
        read_weights(write(folder, data))
    assert text in str(error.value), str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("old", [False, True], ids=["zip", "older"])
@pytest.mark.parametrize("ending", [".pt", ".pth", ".bin", ".ckpt", ".pkl"])
def test_a_state_dict_comes_back(tmp_path: Path, old: bool, ending: str) -> None:
    assert_same(read_weights(write(tmp_path, save(ARRAYS, old=old), f"weights{ending}")), ARRAYS)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "older"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(tmp_path: Path, dtype: str, old: bool) -> None:
    arrays = {"x": (np.arange(6) - 2).reshape(2, 3).astype(dtype)}
    path = write(tmp_path, save(arrays, old=old))
    assert_same(read_weights(path), arrays)
    wide = read_weights(path, np.float64)["x"]
    assert wide.dtype == (np.float64 if "float" in dtype else dtype)


def test_a_big_endian_file(tmp_path: Path) -> None:
    made, storages = tensors(ARRAYS)
    assert_same(read_weights(write(tmp_path, zipped(made, storages, order="big"))), ARRAYS)


def test_bfloat16_is_widened_exactly(tmp_path: Path) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    content = {"x": tensor(storage("0", "bfloat16", bits.size), 0, (256, 256), (256, 1))}
    path = write(tmp_path, zipped(content, {"0": bits}))
    found = read_weights(path)["x"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.reshape(-1).view(np.uint32), bits.astype(np.uint32) << 16)
    wide = read_weights(path, np.float64)["x"]
    assert wide.dtype == np.float64
    with np.errstate(invalid="ignore"):  # of signalling NaNs
        np.testing.assert_array_equal(wide, found.astype(np.float64))


def test_tensors_may_share_and_cut_a_storage(tmp_path: Path) -> None:
    data = np.arange(24.0)
    whole = storage("0", "float64", 24)
    content = {
        "whole": tensor(whole, 0, (4, 6), (6, 1)),
        "transposed": tensor(whole, 0, (6, 4), (1, 6)),
        "part": tensor(whole, 7, (2, 3), (6, 1)),
        "steps": tensor(whole, 1, (2, 2), (12, 3)),
        "diagonal": tensor(whole, 0, (4,), (7,)),
        "expanded": tensor(whole, 5, (3, 2), (0, 1)),
        "again": tensor(whole, 0, (4, 6), (6, 1)),
        "scalar": tensor(whole, 23, (), ()),
    }
    grid = data.reshape(4, 6)
    found = read_weights(write(tmp_path, zipped(content, {"0": data})))
    expected = {
        "whole": grid,
        "transposed": grid.T,
        "part": grid[1:3, 1:4],
        "steps": np.array([[1.0, 4.0], [13.0, 16.0]]),
        "diagonal": grid.ravel()[[0, 7, 14, 21]],
        "expanded": np.array([[5.0, 6.0]] * 3),
        "again": grid,
        "scalar": np.array(23.0),
    }
    assert_same(found, expected)
    assert found["again"] is found["whole"]
    assert np.shares_memory(found["part"], found["whole"])
    found["expanded"][0] = 0  # elements of its own
    assert found["whole"][0, 5] == 5


def test_other_ways_to_write_a_tensor(tmp_path: Path) -> None:
    plain = tensor(storage("0", "float32", 3), 0, (3,), (1,))
    untyped = Persistent(("storage", Global("torch.storage", "UntypedStorage"), "1", "cpu", 6))
    utils = "torch._utils"
    content = {
        "parameter": Called(Global(utils, "_rebuild_parameter"), (plain, True, ordered({}))),
        "size": Called(
            Global(utils, "_rebuild_tensor_v2"),
            (storage("0", "float32", 3), 1, Called(Global("torch", "Size"), ([2],)), (1,), True, ordered({}), {}),
        ),
        "oldest": Called(Global(utils, "_rebuild_tensor"), (storage("0", "float32", 3), 0, (3,), (1,))),
        "unsigned": Called(
            Global(utils, "_rebuild_tensor_v3"), (untyped, 0, (3,), (1,), False, {}, Global("torch", "uint16"))
        ),
        "attributes": Called(
            Global("torch._tensor", "_rebuild_from_type_v2"),
            (Global(utils, "_rebuild_tensor_v2"), Global("torch.nn.parameter", "Parameter"), plain.arguments, {"a": 1}),
        ),
    }
    data = np.array([1, 2, 3], np.float32)
    found = read_weights(write(tmp_path, zipped(content, {"0": data, "1": np.array([7, 8, 9], np.uint16)})))
    expected = dict.fromkeys(content, data) | {"size": data[1:], "unsigned": np.array([7, 8, 9], np.uint16)}
    assert_same(found, expected)


def test_parts_of_a_storage_in_the_older_format(tmp_path: Path) -> None:
    part = tensor(storage("0", "float64", 6, ("view", 2, 3)), 1, (2,), (1,))
    content = {"x": part, "y": tensor(storage("0", "float64", 6, None), 0, (6,), (1,))}
    found = read_weights(write(tmp_path, legacy(content, {"0": np.arange(6.0)})))
    assert_same(found, {"x": np.array([3.0, 4.0]), "y": np.arange(6.0)})


WRAPPED = {
    "lightning": lambda d: {
        "state_dict": ordered(d),
        "epoch": 3,
        "pytorch-lightning_version": "2.0",
        "optimizer_states": [{"state": {0: {"exp_avg": d["weight"], "step": d["scalar"]}}, "param_groups": []}],
        "hyper_parameters": {"lr": 1e-3},
        "callbacks": {},
    },
    "a script's": lambda d: {"model": ordered(d), "optimizer": {"state": {0: {"exp_avg": d["weight"]}}}, "step": 7},
    "twice": lambda d: {
        "checkpoint": {"model": ordered(d)},
        "args": {"lr": 1.0, "device": Called(Global("torch", "device"), ("cuda", 0))},
    },
    "settings": lambda d: {
        "model": ordered(d),
        "args": Called(Global("argparse", "Namespace"), (), {"lr": 0.1}),
        "path": Called(Global("pathlib", "PosixPath"), ("a", "b")),
        "hyper_parameters": Called(Global("lightning.fabric.utilities.data", "AttributeDict"), (), {"x": 1}),
    },
    "with a dtype": lambda d: {"state_dict": ordered(d), "dtype": Global("torch", "float32"), "rng": None},
}  # fmt: skip


@pytest.mark.parametrize("old", [False, True], ids=["zip", "older"])
@pytest.mark.parametrize("kind", WRAPPED)
def test_the_state_dict_of_a_checkpoint_is_found(tmp_path: Path, kind: str, old: bool) -> None:
    assert_same(read_weights(write(tmp_path, save(ARRAYS, WRAPPED[kind], old))), ARRAYS)


def test_entries_that_are_no_tensors_are_left_out_and_said(tmp_path: Path) -> None:
    path = write(tmp_path, save(ARRAYS, lambda d: ordered({**d, "_extra_state": None, "step": 3})))
    found = read_pytorch(path)
    assert_same(found.arrays, ARRAYS)
    assert found.notes == [f"{path}: left out what are no tensors: _extra_state, step"]


NONE = {
    "several": (
        lambda d: {"generator": ordered(d), "critic": ordered(d)},
        "holds 2 state dicts, 'critic', 'generator'; choose one (--key)",
    ),
    "none": (
        lambda d: {"epoch": 3, "models": [d]},
        "no state dict, a dict of tensors by name; it holds epoch (int), mo",
    ),
    "a list": (lambda d: list(d.values()), "holds no state dict, a dict of tensors by name; it holds a list"),
    "a tensor": (lambda d: d["weight"], "it holds a Tensor"),
    "empty": (lambda d: {}, "it holds an empty dict"),
}


@pytest.mark.parametrize("kind", NONE)
def test_what_was_found_instead_is_said(tmp_path: Path, kind: str) -> None:
    refused(tmp_path, save(ARRAYS, NONE[kind][0]), NONE[kind][1])


def one(stored: Any = None, offset: Any = 0, shape: Any = (2, 3), strides: Any = (3, 1), *rest: Any) -> Any:
    return {"x": tensor(storage("0", "float64", 6) if stored is None else stored, offset, shape, strides, *rest)}


HUGE = 1 << 62
BAD: dict[str, tuple[Any, str]] = {
    "beyond its storage": (one(offset=1), "reaches beyond its storage"),
    "strides beyond": (one(strides=(4, 1)), "reaches beyond its storage"),
    "a storage larger than its data": (
        one(storage("0", "float64", 7), 0, (7,), (1,)),
        "less data than its tensors say",
    ),
    "a huge storage": (one(storage("0", "float64", 1 << 59), 0, (1 << 59,), (1,)), "far more data than it has"),
    "huge by expansion": (one(shape=(1 << 40, 3), strides=(0, 1)), "more elements than its storage"),
    "a negative offset": (one(offset=-1), "a tensor of impossible shape"),
    "a negative stride": (one(strides=(-3, 1)), "a tensor of impossible shape"),
    "a negative size": (one(shape=(-2, -3)), "a tensor of impossible shape"),
    "a huge stride": (one(strides=(HUGE, 1)), "a tensor of impossible shape"),
    "sizes that are no numbers": (one(shape=("2", 3)), "a tensor of impossible shape"),
    "fewer strides": (one(strides=(3,)), "a tensor of impossible shape"),
    "true as a size": (one(shape=(True, 3)), "a tensor of impossible shape"),
    "many axes": (one(shape=(1,) * 40, strides=(1,) * 40), "a tensor of impossible shape"),
    "no storage": (one(stored=[1, 2]), "a foreign storage"),
    "hooks": (
        one(None, 0, (2, 3), (3, 1)) | {"y": tensor(storage("0", "float64", 6), 0, (1,), (1,), {"conj": 1})},
        "met",
    ),
    "another kind of id": (one(Persistent(("module", "x", "0", "cpu", 6))), "a persistent id of kind module"),
    "an id of text": (one(Persistent("storage")), "a persistent id of kind unknown"),
    "an id of five tensors": (one(Persistent(([], [], [], [], []))), "a persistent id of kind unknown"),
    "a storage of no dtype": (one(Persistent(("storage", 3, "0", "cpu", 6))), "a malformed storage"),
    "a storage of size -1": (one(storage("0", "float64", -1)), "a malformed storage"),
    "a key that is no text": (
        one(Persistent(("storage", Global("torch", "FloatStorage"), 0, "cpu", 6))),
        "malformed sto",
    ),
    "a key with ..": (one(storage("../../secret", "float64", 6)), "the storage ../../secret is missing"),
    "a missing storage": (one(storage("1", "float64", 6)), "the storage 1 is missing"),
    "complex numbers": (
        one(Persistent(("storage", Global("torch", "ComplexFloatStorage"), "0", "cpu", 6))),
        "complex64 numbers, which no parameter has",
    ),
    "a sparse tensor": ({"x": Called(Global("torch._utils", "_rebuild_sparse_tensor"), ())}, "_rebuild_sparse_tensor"),
    "a whole module": (
        {"x": Called(Global("torch.nn.modules.linear", "Linear"), ())},
        "save(model.state_dict(), path)",
    ),
    "a nested file": ({"x": Called(Global("torch.storage", "_load_from_bytes"), (b"x",))}, "_load_from_bytes"),
    "a call": ({"x": Called(Global("os", "system"), ("touch marker",))}, "the name os.system"),
    "a call of torch's": ({"x": Called(Global("torch", "load"), ("marker",))}, "the name torch.load"),
    "a call of a class": ({"x": Called(Global("torch", "Tensor"), (1,))}, "a call"),
    "a call of a storage": ({"x": Called(Global("torch", "FloatStorage"), (1,))}, "a call"),
    "a call through another": (
        {"x": Called(Global("torch._tensor", "_rebuild_from_type_v2"), (Global("torch", "Size"), 0, (), 0))},
        "a tensor of a foreign class",
    ),
    "a name that is not printable": (one() | {"a\nb": one()["x"]}, "is no printable text"),
    "a long name": (one() | {"a" * 2000: one()["x"]}, "is no printable text of up to 1000 characters"),
    "a name that is a number": ({3: one()["x"]}, "holds no state dict"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_no_file_of_weights_has_is_refused(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, text = BAD[what]
    refused(tmp_path, zipped(content, {"0": np.arange(6.0)}), text)
    assert not Path("marker").exists()


def test_the_same_data_in_thousands_of_tensors_is_refused(tmp_path: Path) -> None:
    whole = storage("0", "float64", 10_000)
    content = {f"{i}": tensor(whole, i, (9_000,), (1,)) for i in range(600)}  # 43 MB of 80 kB
    refused(tmp_path, zipped(content, {"0": np.zeros(10_000)}), "tensors of far more data than it has")
    same = dict.fromkeys(content, tensor(whole, 0, (9_000,), (1,)))  # one tensor by many names is no more data
    assert len(read_weights(write(tmp_path, zipped(same, {"0": np.zeros(10_000)})))) == 600


OLDER = {
    "another number": (dumps(7) + save(ARRAYS, old=True)[14:], "no file of torch.save"),
    "another version": (
        save(ARRAYS, old=True).replace(b"\x80\x02M\xe9\x03.", b"\x80\x02M\xe8\x03."),
        "no file of torch.s",
    ),
    "a number alone": (dumps(0x1950A86A20F9469CFC6C), "not a readable pickle"),
    "no storages": (legacy(tensors(ARRAYS, True)[0], {}), "the storage 0 is missing"),
    "a storage too many": (legacy({"x": 1}, {"0": np.zeros(1)}), "storages that no tensor has"),
    "a storage of another size": (
        legacy(one(storage("0", "float64", 6, None)), {"0": np.zeros(5)}),
        "has another size",
    ),
    "a storage of two sizes": (
        legacy(one(storage("0", "float64", 6, None)) | {"y": one(storage("0", "float64", 7, None))["x"]}, {}),
        "a storage of two sizes",
    ),
    "a part beyond": (legacy(one(storage("0", "float64", 6, ("v", 4, 3))), {"0": np.zeros(6)}), "a part beyond its st"),
    "a part that is no part": (legacy(one(storage("0", "float64", 6, 3)), {}), "a malformed part"),
    "a tar archive": (bytes(257) + b"ustar" + bytes(300), "the tar format of 2016".replace("the", "PyTorch's", 1)),
    "text": (b"weights", "not a readable pickle"),
    "empty": (b"", "not a readable pickle"),
    "truncated": (save(ARRAYS, old=True)[:-3], "has another size"),
}


@pytest.mark.parametrize("what", OLDER)
def test_a_broken_file_of_the_older_format_is_refused(tmp_path: Path, what: str) -> None:
    refused(tmp_path, *OLDER[what])


ZIPS = {
    "no pickle": (lambda names: names.pop("archive/data.pkl"), "it holds 0 members data.pkl, expected one"),
    "two pickles": (lambda names: names.update({"b/data.pkl": b"."}), "it holds 2 members data.pkl, expected one"),
    "a program": (lambda names: names.update({"archive/constants.pkl": b""}), "is a TorchScript program"),
    "a strange byte order": (lambda names: names.update({"archive/byteorder": b"middle"}), "an unknown byte order"),
    "no data": (lambda names: names.pop("archive/data/0"), "the storage 0 is missing"),
    "less data": (lambda names: names.update({"archive/data/0": b"12345678"}), "less data than its tensors say"),
    "a pickle that names eval": (
        lambda names: names.update({"archive/data.pkl": pickle.dumps(eval, protocol=4)}),
        "the name builtins.eval",
    ),
    "a pickle that calls system": (
        lambda names: names.update({"archive/data.pkl": dumps(Called(Global(os.name, "system"), ("touch marker",)))}),
        f"the name {os.name}.system",
    ),
}


@pytest.mark.parametrize("what", ZIPS)
def test_a_broken_archive_is_refused(tmp_path: Path, what: str) -> None:
    with zipfile.ZipFile(io.BytesIO(save(ARRAYS))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change, text = ZIPS[what]
    change(members)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    refused(tmp_path, file.getvalue(), text)


def test_a_flipped_bit_in_the_data_is_noticed(tmp_path: Path) -> None:
    data = bytearray(save({"x": np.arange(1000.0)}))
    at = data.index(np.arange(1000.0).tobytes()) + 4000
    data[at] ^= 1
    refused(tmp_path, bytes(data), "Bad CRC-32")
