"""docs/schemas: what the tables make, valid for what is stored and exported, and not for what the reference refuses."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from docs.schema_files import FOLDER, assert_valid, refuses, validator
from schemas import configs, write

from perceiver_ref.errors import InputError
from perceiver_ref.models.published import PRESETS, preset
from perceiver_ref.peers import PEERS, Given
from perceiver_ref.peers.reference import NAME, to_config
from perceiver_ref.porting.cases import Case, read_case
from perceiver_ref.porting.export.adversarial import ROWS
from perceiver_ref.porting.export.find import Wanted, find
from perceiver_ref.porting.export.make import ExportOptions
from perceiver_ref.porting.export.probes import make_probe

AGAIN = "write them again: python docs/make schemas"
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.json"))


@pytest.fixture(scope="module")
def stored() -> list[tuple[Path, Case]]:
    return list(configs.cases())  # read once, for the schemas, too


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_a_schema(name: str) -> None:
    assert validator(name).schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_files_are_what_the_tables_make() -> None:
    documents = write.documents()
    assert sorted(documents) == FILES, AGAIN
    for name, made in documents.items():
        assert write.text(made) == (FOLDER / name).read_text(encoding="utf-8"), f"{name}: {AGAIN}"


def test_every_class_of_every_peer_has_one() -> None:
    for name, peer in PEERS.items():
        assert set(peer.classes) <= set(validator(f"config/{name}.json").schema["$defs"])


def test_every_stored_case_is_valid(stored: list[tuple[Path, Case]]) -> None:
    assert len(stored) > 300
    for path, case in stored:
        plain = json.loads(json.dumps(case.meta))
        for name in ("meta.json", f"config/{case.meta['peer']}.json"):
            assert validator(name).is_valid(plain), (path, assert_valid(name, plain))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid(name: str) -> None:
    config = to_config(preset(name))
    assert_valid(f"config/{NAME}.json", json.loads(json.dumps({"class": name, "config": config})))
    config["surely_unknown"] = 1
    assert refuses(f"config/{NAME}.json", {"class": name, "config": config})


def test_probes_and_excerpts_are_valid() -> None:
    case = make_probe(find(Wanted("flamingo/gated-xattn-3b")), ROWS[0], ExportOptions(gradients=True))
    plain = json.loads(json.dumps(case.meta))
    assert_valid("meta.json", plain)
    for change in (
        lambda m: m["probe"].update(version=2),
        lambda m: m["probe"].update(seed=-1),
        lambda m: m["probe"].pop("arrays"),
        lambda m: m["probe"]["inputs"]["text"].pop("exponent"),
        lambda m: m["probe"]["inputs"]["text"].update(kind="normal"),
        lambda m: m["probe"]["arrays"].update({"input/x": {"shape": [], "dtype": "float64"}}),
    ):
        wrong = copy.deepcopy(plain)
        change(wrong)
        assert refuses("meta.json", wrong)
    steps = {"steps": [{"op": "relu", "arguments": ["x"], "results": ["y"]}], "outputs": {"out": "y"}}
    assert_valid(f"config/{NAME}.json", {"class": "steps", "config": steps})
    assert refuses(f"config/{NAME}.json", {"class": "steps", "config": {**steps, "steps": [{"op": "relu"}]}})


META: dict[str, Any] = {"peer": "hf", "class": "PerceiverModel", "config": {}, "dtype": "float64"}


@pytest.mark.parametrize("change", [
    {"dtype": "float128"}, {"peer": 3}, {"config": []}, {"call": None}, {"tied": {"a": 1}},
    {"tolerance": {"output": 0}},
    {"tolerance": {"outputs": 1e-3}}, {"tolerance": {"output": 1e4}}, {"compare_gradients": 1}, {"flags": "mask"},
])  # fmt: skip
def test_meta_that_the_reader_refuses_is_refused(change: dict[str, Any]) -> None:
    assert_valid("meta.json", META)
    assert refuses("meta.json", {**META, **change})
    for key in META:
        assert refuses("meta.json", {k: v for k, v in META.items() if k != key})


def _strict(peer: str, cls: str) -> bool:
    """Whether the schema of a class says that there is nothing else."""
    root = validator(f"config/{peer}.json").schema
    schema = root["$defs"][cls]
    while "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2].replace("%20", " ").replace("~1", "/")]
    return schema.get("additionalProperties") is False


@pytest.mark.parametrize("peer", [name for name in PEERS if name != NAME])
def test_an_unknown_option_is_refused_by_the_class_and_by_its_schema(
    peer: str, stored: list[tuple[Path, Case]]
) -> None:
    seen = set()
    for _, case in stored:
        cls = case.meta["class"]
        if case.meta["peer"] != peer or cls in seen or (short := configs._class_of(peer, cls)) is None:
            continue
        seen.add(cls)
        config = {**json.loads(json.dumps(case.meta["config"])), "surely_unknown": 1}
        if _strict(peer, short):
            assert refuses(f"config/{peer}.json", {"class": cls, "config": config}), cls
            shapes = [{n: a.shape for n, a in arrays.items()} for arrays in (case.inputs, case.params)]
            with pytest.raises(InputError):
                PEERS[peer].rebuild(cls, Given(config, *shapes, case.meta["call"]))
    assert seen


@pytest.mark.parametrize(("peer", "cls", "change"), [
    ("open-flamingo", "GatedCrossAttentionBlock", {"heads": "eight"}),
    ("open-flamingo", "GatedCrossAttentionBlock", {"heads": 1 << 40}),
    ("open-flamingo", "GatedCrossAttentionBlock", {"only_attend_immediate_media": 1}),
    ("open-flamingo", "GatedCrossAttentionBlock", {"dim": None}),
    ("hf", "PerceiverModel", {"config": {"d_latents": 2.5}}),
    ("hf", "PerceiverModel", {"config": {"num_blocks": -1}}),
    ("perceiver-ref", "Encoder", {"inputs": 0}),
    ("perceiver-ref", "Encoder", {"layers": True}),
    ("perceiver-ref", "Encoder", {"attend_in": "middle"}),
    ("perceiver-ref", "Encoder", {"conventions": {"type": "Conventions", "norm_eps": "small"}}),
    ("perceiver-ref", "Encoder", {"conventions": {"type": "Convention"}}),
])  # fmt: skip
def test_wrong_values_are_refused_by_the_class_and_by_its_schema(peer: str, cls: str, change: dict[str, Any]) -> None:
    usual = {
        "open-flamingo": {"dim": 8, "dim_visual": 6},
        "hf": {"config": {}},
        "perceiver-ref": {"inputs": 3, "latents": 2, "channels": 8},
    }[peer]
    assert_valid(f"config/{peer}.json", {"class": cls, "config": usual})
    PEERS[peer].rebuild(cls, Given(usual, {"inputs": (1, 2, 3)}))
    assert refuses(f"config/{peer}.json", {"class": cls, "config": {**usual, **change}})
    with pytest.raises(InputError):
        PEERS[peer].rebuild(cls, Given({**usual, **change}, {"inputs": (1, 2, 3)}))


def test_the_longest_name_of_a_class_is_meant() -> None:
    """lucidrains has two classes called Perceiver, of which the one with gates has another configuration."""
    assert {"Perceiver", "gated.Perceiver"} <= set(PEERS["lucidrains-perceiver"].classes)
    case = read_case(next((configs.ROOT / "tests/vectors/lucidrains-perceiver").glob("*gated*.npz")))
    assert case.meta["class"].endswith("gated.Perceiver")
    assert_valid("config/lucidrains-perceiver.json", {"class": case.meta["class"], "config": case.meta["config"]})
