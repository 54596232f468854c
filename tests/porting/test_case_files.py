"""Cases survive being written and read, and a file that is no case is refused with the key that is wrong."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from perceiver_ref import InputError
from perceiver_ref.porting.cases import Case, read_case, write_case
from perceiver_ref.weights.formats.npz import read_npz, write_npz

META = {"peer": "hf", "class": "PerceiverModel", "config": {}, "call": {}, "dtype": "float64"}
names = st.text("abc.0_@", min_size=1, max_size=8)
finite = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.int64]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    elements=st.integers(-9, 9),
)
groups = st.dictionaries(names, finite, max_size=3)


@given(data=st.data(), seed=st.integers())
def test_a_case_is_read_as_it_was_written(tmp_path: Path, data: st.DataObject, seed: int) -> None:
    case = Case({**META, "seed": seed, "notes": "é"}, outputs={"out": np.zeros(2)})
    free = ["params", "state", "inputs", "trace", "state_out", "outputs_as_run"]
    for group in free:
        getattr(case, group).update(data.draw(groups))
    case.cotangents = {"out": np.ones(2)}
    case.grad_params = {name: np.zeros_like(array) for name, array in case.params.items()}
    path = tmp_path / "case.npz"
    write_case(path, case)
    back = read_case(path)
    assert {key: back.meta[key] for key in case.meta} == case.meta
    assert back.dtype == np.float64
    for field in dataclasses.fields(Case)[1:]:
        ours, theirs = getattr(case, field.name), getattr(back, field.name)
        assert list(ours) == list(theirs)
        for name in ours:
            assert ours[name].dtype == theirs[name].dtype
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_the_keys_in_the_file_are_those_of_the_format(tmp_path: Path) -> None:
    """Written out here, so that a renamed key cannot pass by being renamed in reader and writer alike."""
    ones = {"x.y": np.ones(1)}
    path = tmp_path / "case.npz"
    fields = [field.name for field in dataclasses.fields(Case)[1:]]
    write_case(path, Case(META, **dict.fromkeys(fields, ones)))
    assert sorted(read_npz(path)) == sorted(
        [
            "meta",
            "param/x.y",
            "state/x.y",
            "input/x.y",
            "output/x.y",
            "cotangent/x.y",
            "grad_param/x.y",
            "grad_input/x.y",
            "trace/x.y",
            "state_out/x.y",
            "output_as_run/x.y",
            "expected/x.y",
            "sample/x.y",
            "statistics/x.y",
        ]
    )
    meta = json.loads(str(read_npz(path)["meta"]))
    assert sorted(["meta", *meta.pop("arrays")]) == sorted(read_npz(path))
    assert meta == META


def meta(**changes: Any) -> np.ndarray:
    return np.array(json.dumps({**META, **changes}))


OUTPUT = {"output/out": np.zeros(2)}
BAD = {
    "no meta": (OUTPUT, "has no 'meta'; expected a case of the vector format"),
    "meta of numbers": (
        {"meta": np.zeros(3), **OUTPUT},
        "meta must be a 0-d text array of JSON, got float64 of shape (3,)",
    ),
    "meta no JSON": ({"meta": np.array("{"), **OUTPUT}, "meta is not JSON"),
    "meta a list": ({"meta": np.array("[]"), **OUTPUT}, "meta lacks peer, class, config, dtype"),
    "meta without peer": ({"meta": np.array('{"class": "x"}'), **OUTPUT}, "meta lacks peer, config, dtype"),
    "unknown dtype": ({"meta": meta(dtype="float46"), **OUTPUT}, "unknown dtype 'float46'; did you mean 'float64'?"),
    "config no object": ({"meta": meta(config=[1]), **OUTPUT}, "meta: config must be an object, got [1]"),
    "ties no object": ({"meta": meta(tied=True), **OUTPUT}, "meta: tied must be an object, got True"),
    "gradients maybe": ({"meta": meta(compare_gradients="no"), **OUTPUT}, "compare_gradients must be true or false"),
    "tolerance of what": ({"meta": meta(tolerance={"outputs": 1}), **OUTPUT}, "tolerance must be"),
    "tolerance 0": ({"meta": meta(tolerance={"output": 0}), **OUTPUT}, "tolerance must be"),
    "unknown key": ({"meta": meta(), "outputs/out": np.zeros(2)}, "unknown key 'outputs/out'"),
    "key without name": ({"meta": meta(), "output": np.zeros(2)}, "unknown key 'output'"),
    "text": ({"meta": meta(), **OUTPUT, "input/x": np.array("a")}, "'input/x' holds text; only meta may"),
    "nothing to compare": (
        {"meta": meta(), "input/x": np.zeros(2)},
        "has no output/<name>: there is nothing to compare",
    ),
    "stray cotangent": (
        {"meta": meta(), **OUTPUT, "cotangent/x": np.zeros(2)},
        "cotangent/x has no output/x beside it",
    ),
    "stray gradient": (
        {"meta": meta(), **OUTPUT, "param/a": np.zeros(2), "grad_param/b": np.zeros(2)},
        "grad_param/b has no param/b beside it",
    ),
    "nan": ({"meta": meta(), **OUTPUT, "param/a": np.array([1, np.nan])}, "parameter 'a' holds a NaN"),
    "infinity": ({"meta": meta(), **OUTPUT, "param/a": np.array([-np.inf])}, "parameter 'a' holds an infinity"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_case_is_refused(tmp_path: Path, what: str) -> None:
    arrays, text = BAD[what]
    path = tmp_path / "case.npz"
    write_npz(path, arrays)
    with pytest.raises(InputError) as raised:
        read_case(path)
    assert text in str(raised.value)
    assert str(raised.value).startswith(str(path))
