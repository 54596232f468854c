"""The adversarial cases: `check` passes them as made, and fails each when what it is for is done wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from export.exported import case_of, subject_of

import perceiver_ref as pr
from perceiver_ref.autograd import ops
from perceiver_ref.porting import check_case
from perceiver_ref.porting.cases import Case, read_case, write_case
from perceiver_ref.porting.export.adversarial import FLAGS, ROWS, rows
from perceiver_ref.porting.export.make import ExportOptions, make
from perceiver_ref.porting.export.operations import OPERATIONS
from perceiver_ref.porting.export.pack import AUTOREGRESSIVE, own_subject
from perceiver_ref.porting.export.small import Small, small

PRESETS = (
    "perceiver-io/language",
    "perceiver-io/imagenet-fourier",
    "perceiver-io/imagenet-learned",
    "perceiver-io/imagenet-conv",
    "perceiver-io/optical-flow",
    "perceiver-io/multimodal",
    "perceiver-io/starcraft",
    "perceiver/imagenet",
    "perceiver/modelnet40",
    "flamingo/resampler-3b",
    "flamingo/gated-xattn-9b",
    "ip-adapter/plus-sd15",
    "siglip/base-patch16-224",
)
CASES = [(name, row.id) for name in PRESETS for row in rows(subject_of(name))]


@pytest.mark.parametrize(("preset", "row"), CASES)
def test_every_case_passes_check_from_its_file(preset: str, row: str, tmp_path) -> None:
    path = tmp_path / "case.npz"
    write_case(path, case_of(preset, row))
    case = read_case(path)
    result = check_case(case)
    assert result.status == "pass"
    kinds = {a.kind for a in result.agreements}
    assert {"output", "trace", "grad_param"} <= kinds
    assert set(case.grad_params) == set(case.params)
    assert all(np.isfinite(a).all() for a in case.outputs.values())


def test_perceiver_ar_has_cases_of_its_own() -> None:
    subject = own_subject("ar", "PerceiverAR", AUTOREGRESSIVE, (8,), "")
    assert {"padding", "no-prefix", "one-latent"} <= {row.id for row in rows(subject)}
    for row in rows(subject):
        assert check_case(make(subject, row, ExportOptions())).status == "pass", row.id


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.id)
def test_every_operation_passes_check(operation) -> None:
    case = make(operation.subject, operation.row, ExportOptions())
    assert check_case(case).status == "pass"
    assert case.meta["catches"]


def test_every_row_is_of_some_class_and_says_what_it_catches() -> None:
    used = {row for _, row in CASES} | {"no-prefix", "one-latent"}
    assert used == {row.id for row in ROWS}
    for row in ROWS:
        assert set(row.flags) <= set(FLAGS)
        assert len(row.catches) > 20
    assert len({row.id for row in ROWS}) == len(ROWS)


def _changed(case: Case, **arrays: np.ndarray) -> Case:
    return dataclasses.replace(case, inputs={**case.inputs, **arrays})


# what a port does wrong, as a change of the case's inputs, call or parameters that has the same effect
FAULTS: dict[str, tuple[str, Callable[[Case], Case]]] = {
    "padding": ("perceiver-io/language", lambda c: _changed(c, mask=np.ones_like(c.inputs["mask"]))),
    "mask-holes": ("perceiver-io/starcraft", lambda c: _changed(c, mask=np.sort(c.inputs["mask"])[:, ::-1])),
    "masked-row": ("perceiver-io/language", lambda c: _changed(c, mask=np.ones_like(c.inputs["mask"]))),
    "non-square": ("perceiver-io/imagenet-fourier", lambda c: _changed(c, inputs=c.inputs["inputs"].swapaxes(1, 2))),
    "own-positions": (
        "perceiver-io/imagenet-fourier",
        lambda c: _changed(c, pos=np.broadcast_to(c.inputs["pos"][:1], c.inputs["pos"].shape)),
    ),
    "some-points": ("perceiver-io/language", lambda c: _changed(c, points=np.sort(c.inputs["points"]))),
    "more-frames": ("flamingo/resampler-3b", lambda c: _changed(c, features=c.inputs["features"][:, :, ::-1])),
    "text-before-media": (
        "flamingo/gated-xattn-9b",
        lambda c: _changed(c, locations=np.zeros_like(c.inputs["locations"])),
    ),
    "all-media": (
        "flamingo/gated-xattn-9b",
        lambda c: dataclasses.replace(c, meta={**c.meta, "call": {"which": "immediate"}}),
    ),
}


@pytest.mark.parametrize("row", FAULTS)
def test_what_a_case_catches_fails(row: str) -> None:
    preset, fault = FAULTS[row]
    case = case_of(preset, row)
    wrong = fault(case)
    plain = dataclasses.replace(wrong, grad_inputs={}, cotangents={}, grad_params={}, trace={})
    assert check_case(plain).status == "fail"


def test_tiny_variance_shows_another_eps() -> None:
    """The usual case leaves an eps of 1e-6 below 1e-4; this one shows it plainly."""
    found = {}
    for row in ("plain", "tiny-variance"):
        case = case_of("perceiver-io/starcraft", row)
        config = {**case.meta["config"]}
        config["encoder"] = {**config["encoder"], "conventions": {**config["encoder"]["conventions"], "norm_eps": 1e-6}}
        wrong = dataclasses.replace(case, meta={**case.meta, "config": config})
        found[row] = check_case(wrong).error("output")
    assert found["tiny-variance"] > 100 * found["plain"] > 0


def test_large_logits_overflow_a_plain_softmax() -> None:
    case = case_of("perceiver-io/language", "large-logits")
    (weights,) = [a for name, a in case.trace.items() if name == "encoder.cross_attention.attention.weights"]
    q, k = (case.trace[f"encoder.cross_attention.attention.{name}"] for name in ("query", "key"))
    heads = weights.shape[1]
    split = [a.reshape(*a.shape[:2], heads, -1).swapaxes(1, 2) for a in (q, k)]
    logits = split[0] @ split[1].swapaxes(-1, -2) / np.sqrt(split[0].shape[-1])
    with np.errstate(over="ignore"):
        assert np.isinf(np.exp(logits.astype(np.float32))).any()
    np.testing.assert_allclose(weights, ops.softmax(logits), atol=1e-10)  # rounding of logits of a thousand


def test_gates_closed_is_the_identity() -> None:
    case = case_of("flamingo/gated-xattn-9b", "gates-closed")
    np.testing.assert_array_equal(case.outputs["out"], case.inputs["text"])
    assert all(np.abs(case.grad_params[name]).max() > 0 for name in case.params if name.endswith("_gate"))


def test_padding_values_do_not_matter() -> None:
    case = case_of("perceiver-io/language", "padding")
    ids, mask = case.inputs["inputs"], case.inputs["mask"]
    other = _changed(case, inputs=np.where(mask, ids, 0))
    plain = {"grad_params": {}, "grad_inputs": {}, "cotangents": {}, "trace": {}}
    assert check_case(dataclasses.replace(other, **plain)).status == "pass"


def test_seeds_change_values_and_nothing_else() -> None:
    a, b, c = (case_of("perceiver-io/language", seed=seed) for seed in (0, 0, 1))
    assert {n: x.shape for n, x in a.params.items()} == {n: x.shape for n, x in c.params.items()}
    for name in a.params:
        np.testing.assert_array_equal(a.params[name], b.params[name])
        assert not np.array_equal(a.params[name], c.params[name])
    assert not np.array_equal(a.cotangents["out"], c.cotangents["out"])


def test_gradients_are_those_of_the_loss_with_the_cotangents() -> None:
    """A difference quotient along a random direction of all parameters."""
    case = case_of("perceiver-io/language")
    rebuilt = subject_of("perceiver-io/language").rebuilt
    rng = np.random.default_rng(0)
    direction = {name: rng.normal(size=a.shape) for name, a in case.params.items()}

    def loss(step: float) -> float:
        moved = {name: a + step * direction[name] for name, a in case.params.items()}
        params, _ = rebuilt.load(moved, "")
        out = rebuilt.model.apply(params, case.inputs["inputs"])
        return float((out * case.cotangents["out"]).sum())

    quotient = (loss(1e-6) - loss(-1e-6)) / 2e-6
    exact = sum(float((case.grad_params[name] * d).sum()) for name, d in direction.items())
    assert abs(quotient - exact) < 1e-6 * max(abs(exact), 1)  # eps / step = 1e-10 of a loss near 100, and step^2


@pytest.mark.parametrize("row", ["plain", "large-logits"])
def test_float32_cases_pass_and_hold_what_float64_gives(row: str) -> None:
    case = case_of("perceiver-io/language", row, dtype="float32")
    arrays = [*case.params.values(), *case.outputs.values(), *case.grad_params.values(), *case.cotangents.values()]
    assert {a.dtype for a in arrays} == {np.dtype("float32")}
    assert check_case(case).status == "pass"
    wide = check_case(case, dtype="float64")
    assert wide.status == "pass"
    assert wide.error("output") > 0
    assert bool(case.meta.get("tolerance")) == (row == "large-logits")


def test_gradients_and_traces_can_be_left_out() -> None:
    case = case_of("perceiver-io/language", gradients=False, trace=False)
    assert (case.grad_params, case.cotangents, case.trace) == ({}, {}, {})
    assert check_case(case).status == "pass"


@pytest.mark.parametrize("name", [*pr.presets(), *pr.variants()])
def test_every_preset_has_a_small_one_of_the_same_structure(name: str) -> None:
    published = pr.preset(name)
    model, _ = small(published)
    assert type(model) is type(published)
    assert model.count() < 25_000 < published.count()
    larger, _ = small(published, Small(latents=5, layers=1, heads=1))
    assert larger != model


def test_a_batch_is_that_of_every_case_but_the_one_of_one() -> None:
    assert case_of("perceiver-io/language", batch=5).inputs["inputs"].shape[0] == 5
    assert case_of("perceiver-io/language", "batch-1", batch=5).inputs["inputs"].shape[0] == 1
