"""Binding of ports under names of their own: cases of peers renamed, fused and transposed, whose truth is known."""

from __future__ import annotations

import copy
import itertools
import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perceiver_ref.cli import main
from perceiver_ref.errors import InputError
from perceiver_ref.peers import PEERS, Given, peer
from perceiver_ref.peers.reference import to_config
from perceiver_ref.porting.bind.bind import Binding, bind
from perceiver_ref.porting.bind.identities import Identity, identities, meet, sound
from perceiver_ref.porting.bind.maps import as_json, from_json, read_map, read_source, write_map
from perceiver_ref.porting.bind.tape import record
from perceiver_ref.porting.bind.target import of_case, targets, to_of
from perceiver_ref.porting.bind.translate import back, translate
from perceiver_ref.porting.bind.views import View, layouts
from perceiver_ref.porting.cases import PACKAGED, Case, read_case, write_case
from perceiver_ref.porting.cases.execution import named_points, rebuild, run
from perceiver_ref.porting.check import check_case
from perceiver_ref.porting.diagnosis.diagnose import diagnose

VECTORS = Path(__file__).parents[1] / "vectors"
CASES = ("hf/model_bare", "open-flamingo/gated_immediate", "idefics2/resampler_mqa_sdpa")


def packaged(name: str) -> Case:
    return read_case(PACKAGED / f"{name}.npz")


def renamed(case: Case, seed: int, *, transposed: bool = False) -> tuple[Case, dict[str, str]]:
    """The case as of an unknown port: modules called otherwise, kernels transposed; and (peer's name -> new name)."""
    rng = random.Random(seed)
    letters = "abcdefghkmnpqrtuvwxz"
    words: dict[str, str] = {}

    def word(part: str) -> str:
        if part.isdigit():
            return part
        return words.setdefault(part, "".join(rng.choices(letters, k=5)) + str(len(words)))

    names = {n: ".".join(word(part) for part in n.split(".")) for n in (*case.params, *case.state)}

    def moved(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array.T) if transposed and array.ndim == 2 else array

    new = Case({**case.meta, "peer": "unknown", "class": "mine.Port", "config": {}, "call": {}})
    new.meta["tied"] = {names[a]: names[b] for a, b in case.meta["tied"].items()}
    new.params = {names[n]: moved(a) for n, a in case.params.items()}
    new.state = {names[n]: a for n, a in case.state.items()}
    new.grad_params = {names[n]: moved(a) for n, a in case.grad_params.items()}
    new.inputs, new.outputs, new.cotangents = dict(case.inputs), dict(case.outputs), dict(case.cotangents)
    new.grad_inputs = dict(case.grad_inputs)
    new.trace = {f"t{i}": a for i, a in enumerate(case.trace.values())}
    return new, names


def assert_right(made: Binding, case: Case, names: dict[str, str]) -> None:
    """Verified, and every parameter from where it is, or said to be ambiguous."""
    assert made.verified, made.message
    for b in rebuild(case)[0].bindings:
        source = made.map.parameters[b.path]
        assert source.names == (names[b.name],) or b.path in made.ambiguous, (b.path, source.said())


@pytest.mark.parametrize(("name", "transposed"), [*((name, False) for name in CASES), ("hf/model_bare", True)])
def test_renamed_peers(name: str, transposed: bool) -> None:
    case = packaged(name)
    port, names = renamed(case, seed=len(name), transposed=transposed)
    made = bind(port, replace(of_case(case), config=case.meta["config"]), seconds=30)
    assert_right(made, case, names)
    assert made.left_over == []


def reordered(case: Case, seed: int) -> tuple[Case, dict[str, str]]:
    """Arrays numbered in an order of their own, matrices transposed at random; gradients, but nothing in between."""
    rng = random.Random(seed)
    names = list(case.params)
    rng.shuffle(names)
    new = {name: f"r{i:03d}" for i, name in enumerate(names)}
    port, _ = renamed(case, seed)
    port.trace, port.params, port.grad_params = {}, {}, {}
    for name in names:
        moved = case.params[name].ndim == 2 and rng.random() < 0.5
        for into, group in ((port.params, case.params), (port.grad_params, case.grad_params)):
            into[new[name]] = np.ascontiguousarray(group[name].T) if moved else group[name]
    port.meta["tied"] = {new[a]: new[b] for a, b in case.meta["tied"].items()}
    return port, new


SLOW = {"idefics2/resampler_mqa_sdpa"}
"""Found within its time on an idle machine alone."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.heavy] * (n in SLOW)) for n in CASES])
def test_arrays_in_any_order_with_gradients(name: str) -> None:
    """Nothing but outputs and gradients: neither names nor order say anything."""
    case = packaged(name)
    port, names = reordered(case, seed=len(name) + 1)
    made = bind(port, replace(of_case(case), config=case.meta["config"]), seconds=40)
    assert_right(made, case, names)


@pytest.mark.parametrize("name", CASES[:2])
def test_arrays_as_they_lie_with_outputs_alone(name: str) -> None:
    case = packaged(name)
    port, names = renamed(case, seed=2)
    for group in (port.trace, port.cotangents, port.grad_params, port.grad_inputs):
        group.clear()
    made = bind(port, replace(of_case(case), config=case.meta["config"]), seconds=30)
    assert_right(made, case, names)


@pytest.mark.parametrize("name", CASES)
def test_identities_hold_and_tell(name: str) -> None:
    """The equations, on a peer's own parameters and gradients, and not with a gradient a thousandth off."""
    case = packaged(name)
    target, arguments = next(targets(of_case(case), case))
    inputs = arguments.read(case.inputs)
    tape = record(target.drawn(), lambda params: target.run(params, inputs, arguments.call))
    sums, _products = identities(tape)
    bindings = {b.path: b for b in rebuild(case)[0].bindings}
    assert {row.kind for row in sums} >= {"queries", "values"}

    def total(row: Identity, factor: float) -> float:
        terms = []
        for path, term in row.terms.items():
            b = bindings[path]
            w, g = (np.ascontiguousarray(b.view(group[b.name])) for group in (case.params, case.grad_params))
            terms.append(np.ravel(term(w, g * factor if not terms else g)))
        size = sum(float(np.abs(term).max()) for term in terms)
        return float(np.abs(sum(terms)).max()) / size if size else 0.0

    for row in sums:
        assert total(row, 1.0) < 1e-11, (row.kind, list(row.terms))  # sums of some hundred products in float64
    assert max(total(row, 1.001) for row in sums) > 1e-5


def test_an_identity_that_does_not_hold_is_left_out() -> None:
    """A tape does not say all of a gradient: of the latents' own layers values fail on the peer's own gradients."""
    case = read_case(VECTORS / "edgetam/resampler_1d_pos.npz")
    target, arguments = next(targets(of_case(case), case))
    inputs, call = arguments.read(case.inputs), arguments.call
    sums, products = identities(record(target.drawn(), lambda params: target.run(params, inputs, call)))
    bindings = {b.path: b for b in rebuild(case)[0].bindings}
    truth, gradients = (
        {path: np.ascontiguousarray(b.view(group[b.name])) for path, b in bindings.items()}
        for group in (case.params, case.grad_params)
    )
    kept, _ = sound(sums, products, truth, gradients)
    left = [row for row in sums if row not in kept]
    assert {row.kind for row in left} == {"values"}
    assert all("/own/" in path for row in left for path in row.terms)
    assert {row.kind for row in kept} == {"queries", "norm"}


@pytest.mark.parametrize("seed", range(20))
def test_meeting_in_the_middle_finds_every_sum_that_is_zero(seed: int) -> None:
    """As going through all the sums."""
    rng = np.random.default_rng(seed)
    counts = [int(n) for n in rng.integers(1, 7, size=int(rng.integers(2, 6)))]
    columns = [rng.standard_normal((n, 3)) for n in counts]
    for _ in range(3):  # some rows of the last take a sum of others to zero
        row = [int(rng.integers(n)) for n in counts]
        columns[-1][row[-1]] = -sum(column[i] for column, i in zip(columns[:-1], row))
    columns[0] = np.concatenate([columns[0], columns[0][:1]])  # and one choice is there twice
    rows = itertools.product(*(range(len(column)) for column in columns))
    # rounding of four sums in float64 is a millionth of what is asked for
    wanted = [row for row in rows if np.abs(sum(column[i] for column, i in zip(columns, row))).max() < 1e-9]
    assert wanted
    assert meet(columns, 1e-9, 3000) == wanted
    assert meet(columns, 1e-9, len(wanted) - 1) is None


def test_a_tape_has_every_op_once() -> None:
    """One normalisation for each norm, and nothing that no output or point hangs on is recorded after them."""
    case = packaged("open-flamingo/gated_immediate")
    target, arguments = next(targets(of_case(case), case))
    inputs = arguments.read(case.inputs)
    tape = record(target.drawn(), lambda params: target.run(params, inputs, arguments.call))
    scales = [path for path in target.shapes if path.endswith("scale")]
    assert sum(entry.op.name == "layer_norm" for entry in tape.entries) == len(scales) == 2


@pytest.mark.parametrize("name", ["perceiver-ar/ar_absolute_sinusoidal", "perceiver-ar/ar_rotary_full"])
def test_a_tape_gives_what_the_model_gives_with_other_parameters(name: str) -> None:
    """A table of positions that is not trained is read without its gradient, and is a parameter all the same."""
    case = read_case(VECTORS / f"{name}.npz")
    target, arguments = next(targets(of_case(case), case))
    inputs, call = arguments.read(case.inputs), arguments.call
    tape = record(target.drawn(), lambda params: target.run(params, inputs, call))
    rng = np.random.default_rng(1)
    params = {path: rng.standard_normal(shape) for path, shape in target.shapes.items()}
    tape.fix(params)
    outputs = {n: np.asarray(a) for n, a in target.run(params, inputs, call).items() if np.asarray(a).dtype.kind == "f"}
    assert outputs
    for output, value in outputs.items():
        np.testing.assert_array_equal(tape.at(tape.outputs[output], {}), value)  # the same ops on the same numbers


def test_what_could_change_places_is_ambiguous() -> None:
    """Scales of the norms of queries and of keys are multiplied: no value and no gradient says which is which."""
    case = packaged("idefics/gated_xattn_float")
    port, _ = renamed(case, seed=4)
    made = bind(port, replace(of_case(case), config=case.meta["config"]), seconds=30)
    assert made.verified, made.message
    assert {"attention/query_norm/scale", "attention/key_norm/scale"} <= set(made.ambiguous)


def test_a_map_translates_a_case(tmp_path: Any) -> None:
    case = packaged("open-flamingo/gated_immediate")
    port, _names = renamed(case, seed=3)
    made = bind(port, of_case(case), seconds=30)
    write_map(tmp_path / "map.json", made.map)
    again = read_map(tmp_path / "map.json")
    assert as_json(again) == as_json(made.map)
    new = translate(port, again)
    assert {n: a.tobytes() for n, a in new.params.items()} == {n: a.tobytes() for n, a in case.params.items()}
    result = check_case(new)
    assert result.status == "pass"
    assert {a.kind for a in result.agreements} >= {"output", "grad_param", "trace"}
    # gradients by our paths come back under the port's names
    ours = {b.path: b.view(case.grad_params[b.name]) for b in rebuild(case)[0].bindings}
    theirs = back(again, ours, {n: a.shape for n, a in port.params.items()})
    assert all(np.array_equal(theirs[n], port.grad_params[n]) for n in port.grad_params)


def test_a_wrong_value_is_never_bound() -> None:
    """One element off by a part in a million: outputs say so."""
    case = packaged("open-flamingo/gated_immediate")
    for seed in range(2):
        port, _ = renamed(case, seed)
        name = random.Random(seed).choice(sorted(n for n, a in port.params.items() if a.size > 1))
        port.params[name] = port.params[name] + 1e-6
        made = bind(port, of_case(case), seconds=1)
        assert not made.verified
        assert "not" in made.message or "off by" in made.message


def test_equal_values_are_ambiguous() -> None:
    """Two norms with the same numbers, and no gradients: nothing tells them apart."""
    case = packaged("open-flamingo/gated_immediate")
    port, names = renamed(case, 1)
    a, b = names["attn.norm.weight"], names["ff.0.weight"]
    port.params[b] = port.params[a].copy()
    rebuilt, arrays = rebuild(case)
    changed = {**arrays, "ff.0.weight": arrays["attn.norm.weight"]}
    ours = run(rebuilt, changed, case.inputs, case.meta["call"])
    port.outputs = dict(ours.outputs)
    for group in (port.trace, port.cotangents, port.grad_params, port.grad_inputs):
        group.clear()
    made = bind(port, of_case(case), seconds=20)
    assert made.verified, made.message
    both = {path for path, s in made.map.parameters.items() if s.names in ((a,), (b,))}
    assert len(both) == 2
    assert both <= set(made.ambiguous)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "something"}, "no map"),
        ({"version": 2}, "version"),
        ({"more": 1}, "more"),
        ({"parameters": []}, "object of objects"),
        ({"parameters": {"a": {"from": 3, "shape": [2]}}}, "from"),
        ({"parameters": {"a": {"from": "x", "shape": [2, -5]}}}, "whole numbers"),
        ({"parameters": {"a": {"from": "x", "shape": [2] * 99}}}, "at most 16"),
        ({"parameters": {"a": {"from": "x", "shape": [2], "order": [0, 0]}}}, "each axis once"),
        ({"parameters": {"a": {"value": 7, "shape": [2]}}}, "0 or 1"),
        ({"parameters": {"a": {"from": "x", "shape": [2], "take": [[1, 2, 3]]}}}, "axis, index"),
        ({"to": {"peer": "hf"}}, "expected"),
        ({"verified": "yes"}, "verified"),
        ({"points": {"a": {"from": "x"}}}, "point"),
    ],
)
def test_hostile_maps(change: dict[str, Any], said: str) -> None:
    good = {"format": "perceiver-ref map", "version": 1, "to": {"peer": "hf", "class": "A", "config": {}}}
    from_json(good, "map.json")
    with pytest.raises(InputError, match=said) as error:
        from_json({**good, **change}, "map.json")
    assert "\n" not in str(error.value)


def test_layouts_hold_the_definition() -> None:
    """Every view of a fused array is the part that `reshape` and `moveaxis` give."""
    heads, width, inner = 3, 12, 7
    rng = np.random.default_rng(0)
    parts = rng.standard_normal((3, inner, heads, width // heads))  # q, k, v: (inputs, heads, channels)
    fused = {
        "(3 h d)": np.moveaxis(parts, 1, -1).reshape(3 * width, inner),
        "(h 3 d)": parts.transpose(2, 0, 3, 1).reshape(3 * width, inner),
        "(h d 3)": parts.transpose(2, 3, 0, 1).reshape(3 * width, inner),
    }
    for kind, array in fused.items():
        for i in range(3):
            wanted = parts[i].reshape(inner, width)
            found = [
                v
                for v in layouts(array.shape, wanted.shape, (heads,))
                if np.array_equal(v.read(array, wanted.shape), wanted)
            ]
            assert found, kind
            into = np.zeros_like(array)
            found[0].add(into, wanted)
            assert np.array_equal(into[into != 0], array[into != 0])
            assert np.count_nonzero(into) == wanted.size
    with pytest.raises(ValueError, match="no elem"):
        View(take=((0, 9),)).read(np.zeros((3, 2)), (2,))


def test_to() -> None:
    with pytest.raises(InputError, match="expected"):
        to_of({"type": 3}, "x.json")
    assert to_of({"type": "Encoder", "inputs": 3}, "x").config == {"inputs": 3}
    case = packaged("hf/model_bare")
    port, _ = renamed(case, 0)
    port.inputs = {"x": port.inputs["inputs"][..., :-1]}
    with pytest.raises(InputError, match="cannot be given"):
        bind(port, of_case(case), seconds=1)
    port.inputs = dict(case.inputs)
    with pytest.raises(InputError, match=r"configuration of hf's .* cannot be used: .*hidden_activation"):
        bind(port, replace(of_case(case), config=reconfigured(case, hidden_activation="relu")), seconds=1)
    assert copy.deepcopy(to_config(rebuild(case)[0].model))


def narrowly_scaled(case: Case) -> Case:
    """What a port records whose self-attention divides by the root of all channels, not of one head's: all but that is
    the case's, as if queries were smaller by the root of the number of heads."""
    rebuilt, arrays = rebuild(case)
    factor = case.meta["config"]["config"]["num_self_attention_heads"] ** -0.5
    scaled = {n for n in arrays if "self_attends" in n and ".self.query." in n}
    assert len(scaled) == 4  # weights and biases of two layers
    points = {theirs: found[0] for theirs, found in named_points(rebuilt, case.trace).items()}
    params = {n: a * factor if n in scaled else a for n, a in arrays.items()}
    made = run(rebuilt, params, case.inputs, {}, cotangents=case.cotangents, points=frozenset(points.values()))
    gradients = {n: a * factor if n in scaled else a for n, a in made.grad_params.items()}
    traced = {theirs: made.trace[ours] for theirs, ours in points.items()}
    return replace(case, outputs=made.outputs, trace=traced, grad_params=gradients, grad_inputs=dict(made.grad_inputs))


def reconfigured(case: Case, **changed: Any) -> dict[str, Any]:
    return {**case.meta["config"], "config": case.meta["config"]["config"] | changed}


MISTAKES: dict[str, dict[str, Any]] = {"activation": {"hidden_act": "relu"}, "attention-scale": {}}


@pytest.mark.parametrize("kept", ["all", "no gradients"])
@pytest.mark.parametrize("cause", MISTAKES)
def test_a_port_with_a_mistake_is_guessed_whole_for_diagnose(cause: str, kept: str, tmp_path: Any) -> None:
    """The map is not verified, and every array is where it is in the port without the mistake."""
    case = packaged("hf/model_bare")
    port, names = renamed(narrowly_scaled(case) if cause == "attention-scale" else case, seed=6)
    if kept != "all":
        for group in (port.cotangents, port.grad_params, port.grad_inputs):
            group.clear()
    made = bind(port, replace(of_case(case), config=reconfigured(case, **MISTAKES[cause])), seconds=4)
    assert not made.verified
    assert not made.map.verified
    assert {row.status for row in made.rows} == {"by order"}
    assert made.ambiguous == []
    for b in rebuild(case)[0].bindings:
        assert made.map.parameters[b.path].names == (names[b.name],)
    assert re.search(r"guessed by shapes.* does not give is (trace/t\d|output).*is off by", made.message)
    write_map(tmp_path / "map.json", made.map)
    again = read_map(tmp_path / "map.json")
    assert not again.verified
    assert diagnose(translate(port, again)).causes == [cause]


def test_an_unverified_map_is_written_only_when_asked_for(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    case = packaged("hf/model_bare")
    port, _ = renamed(case, seed=7)
    path, to, out = tmp_path / "port.npz", tmp_path / "to.json", tmp_path / "map.json"
    write_case(path, port)
    wrong = reconfigured(case, hidden_act="relu")
    to.write_text(json.dumps({"peer": "hf", "class": case.meta["class"], "config": wrong}))
    command = ["bind", str(path), "--to", str(to), "--out", str(out), "--seconds", "2"]
    assert main(command) == 1
    assert not out.exists()
    assert main([*command, "--unverified"]) == 1
    assert json.loads(out.read_text())["verified"] is False
    said = capsys.readouterr().out
    assert "certain" not in said
    assert "mismatch: 51 by order; not verified" in said
    assert main(["check", str(path), "--map", str(out)]) == 1
    assert "the map is not verified" in capsys.readouterr().err


PERCEIVER_IO: dict[str, Any] = {
    "type": "PerceiverIO",
    "encoder": {
        "type": "Encoder",
        "inputs": 6,
        "latents": 5,
        "channels": 12,
        "layers": 1,
        "cross_heads": 3,
        "self_heads": 2,
        "attend_in": "q",
        "conventions": {"type": "Conventions", "activation": "relu", "masked_rows": "zero", "grid": "compute"},
    },
    "decoder": {"type": "ProjectionDecoder", "latent_channels": 12, "outputs": 4},
}


def own_port() -> Case:
    """A port of that configuration, with its outputs alone."""
    made = peer("perceiver-ref").rebuild("PerceiverIO", Given({k: v for k, v in PERCEIVER_IO.items() if k != "type"}))
    rng = np.random.default_rng(0)
    params = {b.name: rng.standard_normal(b.shape) / 3 for b in made.bindings}
    inputs = {"inputs": rng.standard_normal((2, 7, 6))}
    outputs = run(made, params, inputs, {}).outputs
    meta = {**packaged("hf/model_bare").meta, "peer": "unknown", "class": "mine.Port", "config": {}, "call": {}}
    renames = {name: f"net.w{i}" for i, name in enumerate(params)} | {"encoder/latents": "memory"}
    return Case(meta, {renames[n]: a for n, a in params.items()}, {}, {"series": inputs["inputs"]}, dict(outputs))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("layer", 1, "unknown field of Encoder.*did you mean 'layers'"),
        ("latents", "5", "latents of Encoder must be int"),
        ("inputs", -6, "must be a whole number"),
        ("cross_heads", 5, r"channels \(12\) must be divisible by the number of heads \(5\)"),
        ("conventions", {**PERCEIVER_IO["encoder"]["conventions"], "activation": "gelu"}, "activation must be one of"),
    ],
)
def test_a_configuration_at_fault_is_said_to_be(field: str, value: Any, said: str) -> None:
    encoder = {**PERCEIVER_IO["encoder"], field: value}
    with pytest.raises(InputError, match=f"^the configuration of PerceiverIO cannot be used: .*{said}"):
        bind(own_port(), to_of({**PERCEIVER_IO, "encoder": encoder}, "x"), seconds=1)


def test_a_table_that_no_array_of_the_port_can_be_is_named() -> None:
    port = own_port()
    assert bind(port, to_of(PERCEIVER_IO, "x"), seconds=10).verified
    made = bind(port, to_of({**PERCEIVER_IO, "encoder": {**PERCEIVER_IO["encoder"], "latents": 8}}, "x"), seconds=1)
    assert not made.verified
    said = "no array of the port has the shape [8, 12] of encoder/latents; memory is [5, 12]; "
    assert made.message.startswith(said)


def test_layers_that_no_value_shows_are_read_as_those_that_one_has_shown() -> None:
    """A port of two layers, queries, keys and values one array of (h 3 d), whose outputs have the wrong sign."""
    config = {**PERCEIVER_IO, "encoder": {**PERCEIVER_IO["encoder"], "layers": 2}}
    made = peer("perceiver-ref").rebuild("PerceiverIO", Given({k: v for k, v in config.items() if k != "type"}))
    rng = np.random.default_rng(3)
    params = {b.name: rng.standard_normal(b.shape) / 3 for b in made.bindings}
    inputs = {"inputs": rng.standard_normal((2, 7, 6))}
    ran = run(made, params, inputs, {}, points=lambda name: True)
    arrays: dict[str, np.ndarray] = {}
    for path, array in params.items():  # the fused arrays where the first of their parts is
        layer, own, last = path.rsplit("/", 2) if "/block/" in path else ("", "", "")
        if own == "query":
            parts = [params[f"{layer}/{n}/{last}"].T.reshape(2, 6, -1) for n in ("query", "key", "value")]
            arrays[f"{layer}/{last}"] = np.stack(parts, axis=1).reshape(36, -1).squeeze()  # (heads, 3, channels of one)
        elif own not in ("key", "value"):
            arrays[path] = array
    meta = {**packaged("hf/model_bare").meta, "peer": "unknown", "class": "mine.Port", "config": {}, "call": {}}
    port = Case(meta, arrays, {}, inputs, {n: -a for n, a in ran.outputs.items()})
    shown = ("encoder.cross_attention", "encoder.blocks.0.0")
    port.trace = {n: a for n, a in ran.trace.items() if n.startswith(shown)}
    found = bind(port, to_of(config, "x"), seconds=3)
    assert {row.status for row in found.rows} == {"by order"}
    for path, source in found.map.parameters.items():
        np.testing.assert_array_equal(read_source(source, port.params, path), params[path], err_msg=path)


def test_on_the_command_line(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    case = packaged("open-flamingo/gated_immediate")
    port, names = renamed(case, 5)
    path, made, out = tmp_path / "port.npz", tmp_path / "map.json", tmp_path / "out.npz"
    write_case(path, port)
    to = tmp_path / "to.json"
    to.write_text(json.dumps({"peer": "open-flamingo", "class": case.meta["class"], "config": case.meta["config"]}))
    assert main(["bind", str(path), "--to", str(to), "--out", str(made)]) == 0
    assert "certain" in capsys.readouterr().out
    assert main(["check", str(path), "--map", str(made)]) == 0
    assert main(["diagnose", str(path), "--map", str(made)]) == 0
    assert (
        main(["run", "--weights", str(path), "--inputs", str(path), "--map", str(made), "--output", str(out), "--grad"])
        == 0
    )
    with np.load(out) as arrays:
        for name in names.values():
            np.testing.assert_allclose(arrays[f"grad_param/{name}"], port.grad_params[name], rtol=0, atol=1e-9)
    port.params[names["attn.norm.weight"]] += 0.5
    write_case(path, port)
    assert main(["check", str(path), "--map", str(made)]) == 1
    assert main(["bind", str(path), "--to", str(to), "--out", str(tmp_path / "no.json"), "--seconds", "1"]) == 1
    assert not (tmp_path / "no.json").exists()


def test_a_peer_file(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "peer.py"
    file.write_text(
        "from perceiver_ref.peers import Peer, peer\nPEER = Peer('my-own', peer('open-flamingo').classes)\n"
    )
    case = packaged("open-flamingo/gated_immediate")
    case.meta["peer"] = "my-own"
    write_case(tmp_path / "case.npz", case)
    try:
        assert main(["check", str(tmp_path / "case.npz"), "--peer-file", str(file)]) == 0
    finally:
        PEERS.pop("my-own", None)
    file.write_text("x = 1\n")
    assert main(["check", str(tmp_path / "case.npz"), "--peer-file", str(file)]) == 2
    file.write_text("1 / 0\n")
    assert main(["check", str(tmp_path / "case.npz"), "--peer-file", str(file)]) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err
