"""Every option of every peer and of our own configurations: beyond its bounds it is one line at once, never a loop."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from files.fuzz import limited
from porting.cases import FILES, label

import perceiver_ref as pr
from perceiver_ref import InputError
from perceiver_ref.errors import shortened
from perceiver_ref.host import memory
from perceiver_ref.host.memory import available, require
from perceiver_ref.models.positions import FourierPositions
from perceiver_ref.models.published import PRESETS
from perceiver_ref.peers import PEERS, Given, base, bounds
from perceiver_ref.peers.base import Option, options
from perceiver_ref.peers.reference import from_config, to_config
from perceiver_ref.peers.reference.configuration import TYPES
from perceiver_ref.porting import check_case
from perceiver_ref.porting.cases import Case, read_case
from perceiver_ref.porting.cases.execution import rebuild
from perceiver_ref.weights.checkpoints import rebuild as rebuild_from

SECONDS = 1.0
DEEP: Any = []
for _ in range(3000):
    DEEP = [DEEP]
HUGE = (10**9, 2**63, 10**30, 10**400)
ODD: tuple[Any, ...] = (0, -1, float("nan"), float("inf"), 1.5, "gelu", "x" * 100_000, True, None)
PARTS: tuple[Any, ...] = ([], {}, [0], [10**9] * 3, ["gelu"], [[[[]]]], {"a": {"b": []}}, DEEP)


def case_meta(path: Path) -> dict[str, Any]:
    with np.load(path) as arrays:
        made: dict[str, Any] = json.loads(str(arrays["meta"]))
    return made


@cache
def one_of_each() -> tuple[Path, ...]:
    """A case of every class, the one with the longest configuration."""
    best: dict[tuple[str, str], tuple[int, Path]] = {}
    for path in FILES:
        meta = case_meta(path)
        key = (meta["peer"], meta["class"])
        row = (len(json.dumps([meta["config"], meta.get("call")])), path)
        best[key] = max(best.get(key, row), row)
    return tuple(path for _, path in best.values())


@pytest.fixture(scope="module")
def known() -> dict[str, list[Any]]:
    """The defaults of every option that any class reads, by name."""
    found: dict[str, list[Any]] = {}

    def recording(what: str, given: Any, known: Any, *ignored: frozenset[str]) -> dict[str, Any]:
        for name, default in known.items():
            found.setdefault(name, []).append(default)
        return options(what, given, known, *ignored)

    for name in PEERS:
        PEERS[name]
    modules = [module for name, module in sys.modules.items() if name.startswith("perceiver_ref.peers")]
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            for name, value in list(vars(module).items()):
                if value is options:
                    patch.setattr(module, name, recording)
        for path in one_of_each():
            case = read_case(path)
            if isinstance(rebuild(case)[0].model, base.Function):  # it reads its options when it is called
                check_case(case)
    assert len(found) > 200
    return found


def is_number(default: Any) -> bool:
    kind = default.kind if isinstance(default, Option) else type(default)
    return kind in (int, float)


def test_every_option_that_is_a_number_has_a_row(known: dict[str, list[Any]]) -> None:
    rows = bounds.BOUNDS.keys() | {name for own in bounds.OF.values() for name in own}
    absent = [name for name, defaults in known.items() if any(map(is_number, defaults)) and name not in rows]
    assert not absent


def test_every_field_that_is_a_number_has_a_row() -> None:
    fields = {f.name: str(f.type) for made in TYPES.values() for f in dataclasses.fields(made)}
    numbers = [name for name, kind in fields.items() if "int" in kind or "float" in kind]
    assert not [name for name in numbers if name not in bounds.BOUNDS]


def invalid(bound: bounds.Bound | None) -> Iterator[Any]:
    """Values that no option of this bound may have."""
    yield from (float("nan"), -float("inf"), -(10**400), DEEP, [float("nan")], [[-(10**30)]])
    if bound is None:
        yield from (float("inf"), 10**30)
    else:
        yield from ("gelu", {"a": float("nan")}, bound.lowest - 1 if bound.whole else bound.lowest * 1.01 - 1)
        if bound.whole:
            yield 1.5
        if math.isinf(bound.highest):
            return
        yield from (float("inf"), bound.highest + 1 if bound.whole else bound.highest * 1.01 + 1)


def test_what_is_beyond_the_bounds_is_refused(known: dict[str, list[Any]]) -> None:
    """Alone, and as an item of a list, which some options may be; the line names the option and what it may be."""
    count = 0
    for name, defaults in known.items():
        bound = bounds.BOUNDS.get(name)
        default = next((d for d in defaults if d is not base.REQUIRED), None)
        for value in invalid(bound):
            if isinstance(value, str) and (isinstance(default, (str, bool)) or (bound and bound.or_text)):
                continue
            if type(value) is type(default) and value == default:
                continue
            with pytest.raises(InputError) as error:
                options("a class", {name: value}, {name: default})
            text = str(error.value)
            assert name in text
            assert len(text) < 200, text
            count += 1
    assert count > 2000


@pytest.mark.parametrize("name", sorted(bounds.BOUNDS))
def test_the_ends_of_the_bounds_are_allowed(name: str) -> None:
    bound = bounds.BOUNDS[name]
    for value in (bound.lowest, bound.highest):
        bounds.check("it", bound, value)


def test_a_default_is_allowed() -> None:
    assert options("torch's layer", {"embed_dim": 0}, {"embed_dim": 0}) == {"embed_dim": 0}


GRIDS = ([1 << 31] * 2, (1 << 20, 1 << 21), [1 << 14] * 3)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_grids_are_bounded_as_a_whole(grid: Any) -> None:
    with pytest.raises(InputError, match="a grid of at most"):
        options("a class", {"output_shape": grid}, {"output_shape": None})


def test_layers_are_bounded_as_a_product() -> None:
    counts = {"depth": 6, "self_per_cross_attn": 1}
    assert options("a class", {"depth": 512}, counts)["depth"] == 512
    with pytest.raises(InputError, match=r"more than 1,024 layers: depth 512, self_per_cross_attn 512"):
        options("a class", {"depth": 512, "self_per_cross_attn": 512}, counts)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all parts of a configuration."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(part, (dict, list)):
            yield from places(part, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], part: Any) -> Any:
    made = copy.deepcopy(value)
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = part
    return made


def quickly(what: str, work: Any) -> None:
    """Done, or an `InputError`, within the fuzzer's limits of memory and a second of computing."""
    started = time.process_time()
    try:
        with limited(traced=False):
            work()
    except InputError:
        pass
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {str(error)[:200]}") from error
    assert time.process_time() - started < SECONDS, what


def with_part(case: Case, group: str, path: tuple[Any, ...], part: Any) -> Case:
    return dataclasses.replace(case, meta={**case.meta, group: replaced(case.meta[group], path, part)})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", one_of_each(), ids=label)
def test_no_value_of_a_case_is_a_traceback_or_a_hang(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three values at every place of a configuration and a call, chosen at random; all were tried once."""
    monkeypatch.setattr(memory, "available", lambda: 4 << 30)  # with more, what fits takes longer than is waited
    case = read_case(path)
    rng = random.Random(label(path))
    for group in ("config", "call"):
        for place in places(case.meta[group]):
            for value in (rng.choice(HUGE), rng.choice(ODD), rng.choice(PARTS)):
                made = with_part(case, group, place, value)
                quickly(f"{group} {place} {shortened(value)}", lambda made=made: check_case(made))


@pytest.mark.parametrize("name", ["perceiver-io/multimodal", "perceiver-io/imagenet-conv", "perceiver/imagenet"])
def test_no_value_of_our_own_configuration_is_a_traceback_or_a_hang(name: str) -> None:
    config = json.loads(json.dumps(to_config(pr.preset(name))))
    rng = random.Random(name)
    for place in places(config):
        for value in (rng.choice(HUGE), rng.choice([*ODD, *PARTS])):
            made = replaced(config, place, value)
            quickly(f"{place} {shortened(value)}", lambda made=made: PEERS["perceiver-ref"].rebuild(name, Given(made)))


def test_published_models_are_within_the_bounds() -> None:
    for name in PRESETS:
        model = pr.preset(name)
        assert from_config(json.loads(json.dumps(to_config(model)))) == model


def test_what_needs_more_memory_than_there_is_says_how_much() -> None:
    require("a little", 1 << 20)
    with pytest.raises(InputError, match=r"^it needs 2\^\d+ GiB, more than the [\d,.]+ GiB that there are$"):
        require("it", 1 << 80)
    with pytest.raises(InputError, match=r"it needs [\d,.]+ GiB"):
        require("it", available() + 1)


def test_a_model_that_does_not_fit_is_priced_and_not_made() -> None:
    config = {"num_latents": 1 << 20, "d_latents": 1 << 20, "d_model": 8, "num_self_attends_per_block": 1}
    model = rebuild_from("hf", "PerceiverForMaskedLM", config, "here", {}).model
    assert model.count() > 1 << 40
    with limited(traced=False), pytest.raises(InputError, match=r"parameters needs [\d,.]+ GiB, more than"):
        model.init()


@pytest.mark.parametrize("shape", [(1 << 21, 1 << 21), (1 << 22, 1 << 19)])
def test_positions_that_do_not_fit_are_not_made(shape: tuple[int, int]) -> None:
    model = FourierPositions(4, shape)
    with limited(traced=False), pytest.raises(InputError, match=r"an encoding of [\d,]+ positions needs"):
        model.apply({}, shape, like=np.zeros(1))
