"""Every field of every part of a model refuses what it may not hold, in one line that names class and field.

Parts are those of all published models and of every packaged case; invalid values are made from the annotations.
"""

from __future__ import annotations

import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest

import perceiver_ref as pr
from perceiver_ref.errors import InputError
from perceiver_ref.models.conventions import DEEPMIND, Conventions
from perceiver_ref.models.encoder import Encoder
from perceiver_ref.models.layers import LayerNorm, Linear
from perceiver_ref.models.module import Module
from perceiver_ref.models.positions import FourierPositions
from perceiver_ref.models.rotary import Rotary
from perceiver_ref.porting.cases import PACKAGED, read_case
from perceiver_ref.weights.checkpoints import rebuild


def invalid(hint: Any, value: Any) -> Iterator[Any]:
    """What a field with this annotation, which holds `value`, must not hold."""
    within = None
    if get_origin(hint) is Annotated:
        hint, within = get_args(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        kinds = [a for a in arguments if a is not type(None)]
        if len(kinds) == 1:
            yield from (wrong for wrong in invalid(kinds[0], value) if wrong is not None)
        else:
            yield from ("text", 3, object())
    elif hint is int:
        yield from (-1, True, 1.5, math.nan, "3", None, (3,), np.float32(2), [3])
        if within is None:
            yield 0
    elif hint is float:
        yield from (math.nan, math.inf, -math.inf, True, "1", None, 10**400)
        if within is not None:
            yield -1e-3
            if within.most < math.inf:
                yield within.most + 1
    elif hint is bool:
        yield from (0, 1, "yes", None)
    elif origin is Literal:
        yield from ("neither", 0, None, True)
    elif origin is tuple:
        yield from (3, "text", None)
        if value:
            yield list(value)
            inner = arguments[0]
            yield from ((wrong, *value[1:]) for wrong in invalid(inner, value[0]))
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        yield from (3, "text", [])
        if value:
            key, inner = next(iter(value.items()))
            yield {3: inner}
            yield from ({key: wrong} for wrong in invalid(arguments[1], inner))
    elif isinstance(hint, type):
        yield from ("text", 3, None)


def parts(found: Any) -> Iterator[Any]:
    """A dataclass and all in its fields."""
    if isinstance(found, Module | Conventions | Rotary):
        yield found
        for field in fields(found) if is_dataclass(found) else ():
            yield from parts(getattr(found, field.name))
    elif isinstance(found, Mapping):
        for part in found.values():
            yield from parts(part)


@cache
def examples() -> dict[type, Any]:
    """Of each class one that is valid, as large as it comes first."""
    models = [pr.preset(name) for name in pr.presets()]
    for path in sorted(PACKAGED.rglob("*.npz")):
        case = read_case(path)
        models.append(rebuild(case.meta["peer"], case.meta["class"], case.meta["config"], path, case.params).model)
    found: dict[type, Any] = {}
    for model in [*models, LayerNorm(4), Linear(3, 4)]:
        for part in parts(model):
            found.setdefault(type(part), part)
    return found


def test_a_valid_part_is_valid_again() -> None:
    assert len(examples()) > 40
    for part in examples().values():
        assert replace(part) == part


def test_no_field_holds_what_it_must_not() -> None:
    wrong = []
    for cls, part in examples().items():
        hints = get_type_hints(cls, include_extras=True)
        for field in fields(cls):
            for value in invalid(hints[field.name], getattr(part, field.name)):
                try:
                    replace(part, **{field.name: value})
                except InputError as error:
                    if "\n" in str(error) or len(str(error)) > 300:
                        wrong.append((cls.__name__, field.name, value, str(error)))
                except Exception as error:
                    wrong.append((cls.__name__, field.name, value, repr(error)))
                else:
                    wrong.append((cls.__name__, field.name, value, "is taken"))
    assert wrong == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"layers": -1}, "Encoder: layers must be a whole number of at least 0, got -1"),
        ({"latents": 0}, "Encoder: latents must be a whole number of at least 1, got 0"),
        ({"inputs": True}, "Encoder: inputs must be a whole number of at least 1, got True"),
        ({"channels": 8.0}, "Encoder: channels must be a whole number of at least 1, got 8.0"),
        ({"qk_channels": "8"}, "Encoder: qk_channels must be a whole number of at least 1 or None, got '8'"),
        ({"attend_in": "v"}, "Encoder: attend_in must be one of 'kv', 'q', got 'v'"),
        ({"conventions": "hf"}, "Encoder: conventions must be a Conventions, got 'hf'"),
        ({"recompute": 1}, "Encoder: recompute must be True or False, got 1"),
    ],
)
def test_the_line_says_what_is_wrong(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError) as error:
        Encoder(**{"inputs": 3, "latents": 2, "channels": 8, **options})
    assert str(error.value) == text


def test_no_layers_are_layers_too() -> None:
    encoder = Encoder(inputs=3, latents=2, channels=8, layers=0)
    assert encoder.apply(encoder.init(0), np.ones((1, 4, 3), np.float32)).shape == (1, 2, 8)


@pytest.mark.parametrize("make", [lambda: replace(DEEPMIND, norm_eps=-1e-5), lambda: LayerNorm(4, math.nan)])
def test_an_epsilon_is_a_number_of_at_least_0(make: Any) -> None:
    with pytest.raises(InputError, match="must be a finite number of at least 0, got"):
        make()


DTYPES = [int, "int32", np.int64, bool, complex, object, str, ">f4", "bfloat16", "no", 3, np.longdouble]
"""None of them is one of parameters."""


@pytest.mark.parametrize("dtype", [*DTYPES, None])
def test_parameters_have_a_floating_point_dtype(dtype: Any) -> None:
    with pytest.raises(InputError, match="dtype must be float16, float32 or float64, got "):
        Linear(3, 4).init(0, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_so_have_those_of_a_checkpoint(dtype: Any) -> None:
    with pytest.raises(InputError, match="dtype must be float16, float32 or float64, got "):
        pr.load("hf", "no-such-file.npz", dtype=dtype)


@pytest.mark.parametrize("dtype", ["float16", np.float32, np.dtype("float64"), "float"])
def test_the_dtypes_that_there_are(dtype: Any) -> None:
    assert Linear(3, 4).init(0, dtype=dtype)["weight"].dtype == dtype


@pytest.mark.parametrize("seed", [-1, 1.5, True, "0", None, [1]])
def test_a_seed_is_a_whole_number(seed: Any) -> None:
    with pytest.raises(InputError, match="seed must be a whole number of at least 0, got "):
        FourierPositions(2, (3,)).init(seed)
