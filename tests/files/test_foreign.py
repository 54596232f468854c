"""Names that weights do not need are never called: what stands for them is refused only where it is needed."""

from __future__ import annotations

import enum
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from files.test_pytorch import ARRAYS, assert_same, write
from files.torch_files import Called, Global, dumps, ordered, save, tensors, zipped

from perceiver_ref import InputError
from perceiver_ref.weights.checkpoints import read_weights
from perceiver_ref.weights.formats.dtypes import decoded

TOUCH = Called(Global("os", "system"), ("touch marker",))


class Mode(enum.Enum):
    TRAIN = 1


OBJECTS: dict[str, Any] = {
    "a counter": Called(Global("collections", "Counter"), ({3: 1, 6: 1},)),
    "a set": Called(Global("builtins", "set"), ([1, 2],)),
    "complex": Called(Global("builtins", "complex"), (1.0, 2.0)),
    "a date": Called(Global("datetime", "datetime"), (b"\x07\xe8\x01\x01\0\0\0\0\0\0",)),
    "a dataclass": Called(Global("__main__", "EncoderConfig"), (), {"heads": 2, "nested": TOUCH}),
    "through copyreg": Called(
        Global("copyreg", "_reconstructor"), (Global("a", "B"), Global("builtins", "object"), None), {"x": 1}
    ),
    "a default": Called(Global("collections", "defaultdict"), (Global("builtins", "list"),)),
    "an enum": Called(Global("__main__", "Mode"), (1,)),
    "a partial": Called(
        Global("functools", "partial"), (Global("torch.nn.functional", "gelu"),), (Global("a", "b"), (), {}, None)
    ),
    "a getattr": Called(Global("builtins", "getattr"), (Global("os", "path"), "join")),
    "called again": Called(Called(Global("operator", "attrgetter"), ("system",)), (Global("os", "path"),)),
    "keys of tuples": {(1, 2): 3, 1.5: 2, None: 1, True: 0},
    "keys of objects": {Called(Global("a", "B"), ()): 1, Global("a", "C"): TOUCH},
    "a class": Global("torch.optim.adam", "Adam"),
    "a dtype of text": Called(Global("numpy", "dtype"), ("U1", False, True), (3, "<", None, None, None, 4, 4, 8)),
    "objects in an array": Called(
        Global("numpy.core.multiarray", "_reconstruct"),
        (Global("numpy", "ndarray"), (0,), b"b"),
        (1, (1,), Called(Global("numpy", "dtype"), ("O8", False, True)), False, [TOUCH]),
    ),
    "a module": Called(Global("torch.nn.modules.linear", "Linear"), (), {"training": True}),
    "a generator": Called(Global("numpy.random._pickle", "__generator_ctor"), ("PCG64",), {"state": 1}),
    "a system call": TOUCH,
}


@pytest.mark.parametrize("old", [False, True], ids=["zip", "older"])
@pytest.mark.parametrize("what", OBJECTS)
def test_beside_the_weights(tmp_path: Path, what: str, old: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = save(ARRAYS, lambda d: {"before": OBJECTS[what], "state_dict": ordered(d), "after": [OBJECTS[what]]}, old)
    assert_same(read_weights(write(tmp_path, data)), ARRAYS)
    assert not Path("marker").exists()


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_objects_that_python_writes(tmp_path: Path, protocol: int) -> None:
    import collections
    import datetime
    import fractions
    import functools

    beside = [
        {1, 2},
        frozenset("ab"),
        1 + 2j,
        datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
        collections.Counter("aab"),
        collections.defaultdict(list, {(1, 2): [3]}),
        collections.deque([1, 2]),
        Mode.TRAIN,
        fractions.Fraction(1, 3),
        functools.partial(np.sum, axis=0),
        np.random.default_rng(0),
        np.array(["a"]),
        np.array([None]),
        np.datetime64("2024-01-01"),
        np.zeros(2, complex),
        slice(1, 2),
        range(3),
        bytearray(b"x"),
    ]
    tree = {"params": {"linear": {"w": np.ones((2, 3))}}, "opt_state": tuple(beside), "more": {"beside": beside}}
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(tree, protocol=protocol))
    np.testing.assert_array_equal(read_weights(path)["linear/w"], np.ones((2, 3)))


@pytest.mark.parametrize(
    ("module", "name"),
    [("jax._src.device_array", "reconstruct_device_array"), ("jax._src.array", "_reconstruct_array")],
)
def test_arrays_of_older_jax(tmp_path: Path, module: str, name: str) -> None:
    """Pickled with a function, its arguments, NumPy's state and what JAX knows beyond it."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    _, _, state = array.__reduce__()
    kind = Called(Global("numpy", "dtype"), ("f4", False, True), (3, "<", None, None, None, -1, -1, 0))
    made = Called(
        Global(module, name),
        (
            Global("numpy.core.multiarray", "_reconstruct"),
            (Global("numpy", "ndarray"), (0,), b"b"),
            (state[0], state[1], kind, state[3], state[4]),
            {"weak_type": False, "named_shape": {}},
        ),
    )
    path = tmp_path / "weights.pkl"
    path.write_bytes(dumps({"params": {"linear": {"w": made}}, "opt_state": [TOUCH]}))
    np.testing.assert_array_equal(read_weights(path)["linear/w"], array)


@pytest.mark.parametrize("what", ["a dataclass", "a system call", "a getattr", "a module"])
def test_as_the_weights_it_is_refused_by_name(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = {"a dataclass": "__main__.EncoderConfig", "a system call": "os.system", "a getattr": "builtins.getattr"}
    text = f"the name {name.get(what, 'torch.nn.modules.linear.Linear')}"
    for content in (OBJECTS[what], {"state_dict": OBJECTS[what]}, [OBJECTS[what]]):
        with pytest.raises(InputError, match=f"holds no state dict.*{text}"):
            read_weights(write(tmp_path, zipped(content, {})))
    path = tmp_path / "weights.pkl"
    for content in (OBJECTS[what], {"params": {"linear": {"w": OBJECTS[what], "b": [1]}}}):
        path.write_bytes(dumps(content))
        with pytest.raises(InputError, match=f"expected a Haiku parameter tree, .*it holds {text}"):
            read_weights(path)
    assert not Path("marker").exists()


def test_a_weight_that_is_an_object_in_a_tree(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"linear": {"w": np.ones(2), "b": np.zeros(2, complex)}}))
    with pytest.raises(InputError, match=r"'linear/b' cannot be read: it holds a dtype that is no number's"):
        read_weights(path)


def test_a_tensor_within_an_object_is_not_a_weight(tmp_path: Path) -> None:
    made, storages = tensors(ARRAYS)
    content = {"state_dict": ordered(made), "ema": Called(Global("a", "Average"), (made,), {"shadow": made})}
    assert_same(read_weights(write(tmp_path, zipped(content, storages))), ARRAYS)


def test_float8_is_the_upper_half_of_float16() -> None:
    """float8_e5m2, whose other values are those of float16 with a zero lower byte."""
    bits = np.arange(256, dtype=np.uint8)
    halves = (bits.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(decoded(bits, "float8_e5m2"), halves)


@pytest.mark.parametrize(("kind", "largest", "smallest"), [
    ("float8_e4m3fn", 448.0, 2.0**-9),
    ("float8_e4m3fnuz", 240.0, 2.0**-10),
    ("float8_e5m2", 57344.0, 2.0**-16),
    ("float8_e5m2fnuz", 57344.0, 2.0**-17),
    ("float8_e8m0fnu", 2.0**127, 2.0**-127),
])  # fmt: skip
def test_the_range_of_float8(kind: str, largest: float, smallest: float) -> None:
    """As printed in arXiv 2209.05433, arXiv 2206.02915 and OCP's MX formats."""
    numbers = decoded(np.arange(256, dtype=np.uint8), kind)
    finite = numbers[np.isfinite(numbers)]
    assert (finite.max(), finite[finite > 0].min()) == (largest, smallest)
