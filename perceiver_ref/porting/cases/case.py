"""One case of the vector format: what a peer was given and what it answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, listed, one_of, shortened
from ...host import json_text
from ...host.files import AnyPath
from ...weights.formats.dtypes import finite
from ...weights.formats.npz import check_name, write_npz
from ..dumps import read_arrays
from .samples import validate, validate_beside
from .tensors import as_array

PACKAGED = Path(__file__).parent / "packaged"
"""The folder of the cases that the package ships."""
_LARGEST_TOLERANCE = 1e3
DTYPES = ("float64", "float32", "float16", "bfloat16")

# the part before the first slash of a key -> the field of `Case` that holds it
_GROUPS = {
    "param": "params",
    "state": "state",
    "input": "inputs",
    "output": "outputs",
    "cotangent": "cotangents",
    "grad_param": "grad_params",
    "grad_input": "grad_inputs",
    "trace": "trace",
    "state_out": "state_out",
    "output_as_run": "outputs_as_run",
    "expected": "expected",
    "sample": "samples",
    "statistics": "statistics",
}
_REQUIRED = ("peer", "class", "config", "dtype")
_TYPES = {
    "peer": str,
    "class": str,
    "config": dict,
    "call": dict,
    "tied": dict,
    "points": dict,
    "tolerance": dict,
    "compare_gradients": bool,
}
_JSON = {str: "text", dict: "an object", bool: "true or false"}


@dataclass
class Case:
    """The arrays of one case by the peer's names, and `meta`, which says how the peer was built and called.

    | key in the file | field | what |
    | --- | --- | --- |
    | `meta` | `meta` | JSON: peer, peer_version, class, config, call, dtype, seed, notes, ... (without `arrays`) |
    | `param/<name>`, `state/<name>` | `params`, `state` | every parameter and buffer |
    | `input/<argument>` | `inputs` | arguments; dotted names are nested dicts |
    | `output/<name>`, `cotangent/<name>` | `outputs`, `cotangents` | the loss is the sum of output * cotangent |
    | `grad_param/<name>`, `grad_input/<name>` | `grad_params`, `grad_inputs` | gradients of that loss |
    | `trace/<path>` | `trace` | intermediate arrays by the peer's module path |
    | `state_out/<name>` | `state_out` | buffers after the call |
    | `output_as_run/<name>` | `outputs_as_run` | what the unmodified peer returned |
    | `expected/<key>` | `expected` | in an excerpt, what the reference gives for the array of that key |
    | `sample/<key>`, `statistics/<key>` | `samples`, `statistics` | what is kept of that array in its place |
    """

    meta: dict[str, Any]
    params: dict[str, np.ndarray] = field(default_factory=dict)
    state: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    outputs: dict[str, np.ndarray] = field(default_factory=dict)
    cotangents: dict[str, np.ndarray] = field(default_factory=dict)
    grad_params: dict[str, np.ndarray] = field(default_factory=dict)
    grad_inputs: dict[str, np.ndarray] = field(default_factory=dict)
    trace: dict[str, np.ndarray] = field(default_factory=dict)
    state_out: dict[str, np.ndarray] = field(default_factory=dict)
    outputs_as_run: dict[str, np.ndarray] = field(default_factory=dict)
    expected: dict[str, np.ndarray] = field(default_factory=dict)
    samples: dict[str, np.ndarray] = field(default_factory=dict)
    statistics: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What messages call it: its id, or else the class."""
        return str(self.meta.get("case", self.meta["class"]))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype that the peer computed in, and the reference does; float32 for bfloat16, which NumPy does not
        have."""
        given = self.meta["dtype"]
        made: np.dtype[Any] = np.dtype("float32" if given == "bfloat16" else given)
        return made


def read_case(path: AnyPath) -> Case:
    """Read and validate a case, of any format that can hold one (`porting.dumps.FORMATS`).

    `InputError`, with one line that names the file and the key, for anything else.
    """
    arrays = read_arrays(path)
    meta = _meta(path, arrays.pop("meta", None))
    _check_list(path, meta.pop("arrays", None), arrays)
    case = Case(meta)
    for key, array in arrays.items():
        check_name(path, key)
        group, _, name = key.partition("/")
        if group not in _GROUPS or not name:
            raise InputError(f"{path}: {one_of('key', key, [f'{g}/<name>' for g in _GROUPS] + ['meta'])}")
        if array.dtype.kind == "U":
            raise InputError(f"{path}: {key!r} holds text; only meta may")
        getattr(case, _GROUPS[group])[name] = array
    _validate(path, case)
    return case


def write_case(path: AnyPath, case: Case, *, with_list: bool = True) -> None:
    """Write a case so that `read_case` gives it back; nothing is left behind when that fails.

    Arrays may be tensors of another framework; bfloat16 and float8, which NumPy does not have, are written as float32.
    `with_list`: also the list of its arrays, for `read_case` to hold the file to. Raises `InputError` for what is no
    dense array of numbers.
    """
    named_arrays = {f"{group}/{name}": array for group, named in groups(case) for name, array in named.items()}
    arrays = {key: as_array(array, key) for key, array in named_arrays.items()}
    meta = {**case.meta, **({"arrays": list(arrays)} if with_list else {})}
    write_npz(path, {"meta": np.array(json.dumps(meta)), **arrays})


def groups(case: Case) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Each group of arrays with the first part that its keys have in the file."""
    for group, attribute in _GROUPS.items():
        yield group, getattr(case, attribute)


def check_gradients(case: Case, where: object) -> None:
    """Raise `InputError` for gradients without a cotangent: nothing says of which loss they are."""
    given = [f"grad_param/{name}" for name in case.grad_params] + [f"grad_input/{name}" for name in case.grad_inputs]
    if given and not case.cotangents:
        raise InputError(
            f"{where} has {len(given)} gradients, but no cotangent/<output>: add what each output was multiplied by "
            "to make the loss"
        )


def _meta(path: object, array: np.ndarray | None) -> dict[str, Any]:
    if array is None:
        raise InputError(f"{path} has no 'meta'; expected a case of the vector format, with meta as JSON text")
    if array.dtype.kind != "U" or array.shape != ():
        raise InputError(f"{path}: meta must be a 0-d text array of JSON, got {array.dtype} of shape {array.shape}")
    try:
        meta = json_text.parse(str(array))
    except ValueError as error:
        raise InputError(f"{path}: meta is not JSON ({error})") from None
    missing = [key for key in _REQUIRED if not isinstance(meta, dict) or key not in meta]
    if missing:
        raise InputError(f"{path}: meta lacks {', '.join(missing)}")
    if not isinstance(meta["dtype"], str) or meta["dtype"] not in DTYPES:
        raise InputError(f"{path}: {one_of('dtype', str(meta['dtype']), DTYPES)}")
    meta = {"call": {}, "tied": {}, "points": {}, "tolerance": {}, "compare_gradients": True, **meta}
    for key, kind in _TYPES.items():
        if not isinstance(meta[key], kind):
            raise InputError(f"{path}: meta: {key} must be {_JSON[kind]}, got {shortened(meta[key])}")
    for key in ("peer", "class", "case"):
        if not isinstance(meta.get(key, ""), str) or not meta.get(key, "").isprintable():
            raise InputError(f"{path}: meta: {key} must be printable text, got {shortened(meta[key])}")
    for key, value in meta["tolerance"].items():
        if key not in ("output", "gradient") or not is_tolerance(value):
            raise InputError(
                f'{path}: meta: tolerance must be {{"output": number, "gradient": number}}, numbers above 0 and at '
                f"most {_LARGEST_TOLERANCE:g}, got {shortened(key)}: {shortened(value)}"
            )
    if not all(isinstance(name, str) for name in meta["points"].values()):
        raise InputError(f"{path}: meta: points must map names of traced values to our names of them")
    for alias, name in meta["tied"].items():
        if not isinstance(name, str) or name in meta["tied"]:
            raise InputError(
                f"{path}: meta: tied must map names to the parameters that they share, "
                f"got {shortened(alias)}: {shortened(name)}"
            )
    return meta


def is_tolerance(value: Any) -> bool:
    """Whether a number can be one: beyond the largest, everything of any shape would agree."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= _LARGEST_TOLERANCE


def _check_list(path: object, listed_arrays: Any, arrays: dict[str, np.ndarray]) -> None:
    """The list of a file's arrays, where it has one, against those that are there."""
    if listed_arrays is None:
        return
    if not isinstance(listed_arrays, list) or not all(isinstance(key, str) for key in listed_arrays):
        raise InputError(f"{path}: meta: arrays must be a list of the keys of all arrays but meta")
    for what, some in (
        ("lacks", set(listed_arrays) - set(arrays)),
        ("holds beside its list", set(arrays) - set(listed_arrays)),
    ):
        if some:
            raise InputError(f"{path} {what} {len(some)} of its arrays: {listed(map(shortened, sorted(some)), 4)}")


def _validate(path: object, case: Case) -> None:
    finite(case.params, path)
    pairs = [
        ("cotangent", case.cotangents, "output", case.outputs),
        ("grad_param", case.grad_params, "param", case.params),
        ("grad_input", case.grad_inputs, "input", case.inputs),
    ]
    for group, arrays, of_group, of in pairs:
        for name in arrays:
            if not of or "probe" in case.meta:  # a file of gradients alone
                continue
            if name not in of:
                raise InputError(f"{path}: {group}/{name} has no {of_group}/{name} beside it")
    if "probe" in case.meta:
        validate(path, case.meta["probe"], case.samples, case.statistics, case.cotangents)
        return
    if case.samples or case.statistics:
        validate_beside(path, case.meta.get("sampled"), case.samples, case.statistics, case.trace)
    if not case.outputs:
        raise InputError(f"{path} has no output/<name>: there is nothing to compare")
    check_gradients(case, path)
