"""Initial parameters: deterministic, in the stated distribution, the same everywhere; and the check of given ones."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import small
from support import assert_close, host, normal, on, random_parameters

from perceiver_ref import InputError
from perceiver_ref.autograd import backend as backends
from perceiver_ref.autograd import tree
from perceiver_ref.models.layers import Linear
from perceiver_ref.models.module import Module, Parameter, fan_in_normal, fan_in_scaled, truncated_normal
from perceiver_ref.models.positions import TrainablePositions


@given(seed=st.integers(0, 2**63))
def test_a_seed_always_gives_the_same_parameters(seed: int) -> None:
    model = small.encoder()
    first, again = model.init(seed), model.init(seed)
    assert_close(again, first, tolerance=0)
    other = model.init(seed + 1)
    assert not np.array_equal(other["latents"], first["latents"])


def test_parameters_are_equal_on_every_backend(backend: str) -> None:
    model = small.language_model()
    params = model.init(3, backend=backend)
    assert {backends.name(a) for _, a in tree.leaves(params)} == {backend}
    assert_close(host(params), model.init(3), tolerance=0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtype_only_rounds(dtype: type) -> None:
    model = small.encoder()
    made, exact = model.init(0, dtype=dtype), model.init(0, dtype=np.float64)
    assert {a.dtype for _, a in tree.leaves(made)} == {np.dtype(dtype)}
    assert_close(made, tree.map(lambda a: a.astype(dtype), exact), tolerance=0)
    assert {a.dtype for _, a in tree.leaves(model.init())} == {np.dtype(np.float32)}


def test_one_parameter_does_not_depend_on_the_others() -> None:
    """A longer block starts with the same layers; another latent count leaves all other arrays alone."""
    short, long = (small.encoder(layers=n).init(0) for n in (2, 3))
    assert_close(long["block"][:2], short["block"], tolerance=0)
    more = replace(small.encoder(), latents=9).init(0)
    assert_close([more["cross_attention"], more["block"]], [short["cross_attention"], short["block"]], tolerance=0)


def test_no_two_parameters_share_their_numbers() -> None:
    flat = tree.flatten(small.encoder().init(0, dtype=np.float64))
    drawn = {path: array.ravel()[:8] / np.abs(array).max() for path, array in flat.items() if path.endswith("weight")}
    starts = {tuple(values.round(12)) for values in drawn.values()}
    assert len(starts) == len(drawn) > 10


def test_init_has_the_structure_that_check_expects() -> None:
    for model in (small.encoder(), small.language_model(), small.image_classifier()):
        params = model.init(0)
        model.check(params)
        assert model.count() == sum(a.size for _, a in tree.leaves(params))


N = 40_000
"""Numbers drawn for a distribution: a sample deviation is then within 2 % of the true one, six standard errors."""


@pytest.mark.parametrize("deviation", [0.02, 1.0])
def test_truncated_normal_ends_at_two_deviations(deviation: float) -> None:
    values = truncated_normal(deviation)(np.random.default_rng(0), (N,))
    assert np.abs(values).max() <= 2 * deviation
    assert np.abs(values).max() > 1.99 * deviation
    # a normal distribution cut at two deviations has deviation 0.8796 (and 0.9545 of its mass inside)
    assert values.std() == pytest.approx(0.8796 * deviation, rel=0.02)
    assert abs(values.mean()) < 6 * deviation / np.sqrt(N)
    inside = (np.abs(values) < deviation).mean()
    assert inside == pytest.approx(0.6827 / 0.9545, abs=0.02)


def test_linear_maps_start_with_the_deviation_of_their_fan_in() -> None:
    rng = np.random.default_rng(0)
    assert fan_in_normal(rng, (25, N // 25)).std() == pytest.approx(0.8796 / 5, rel=0.02)
    assert fan_in_scaled(rng, (25, N // 25)).std() == pytest.approx(1 / 5, rel=0.02)
    params = Linear(25, N // 25).init(0)
    assert params["weight"].std() == pytest.approx(0.8796 / 5, rel=0.02)
    assert (params["bias"] == 0).all()


def test_norms_start_as_the_identity_and_tables_with_002() -> None:
    flat = tree.flatten(replace(small.encoder(), latents=N // 8).init(0))
    assert all((a == 1).all() for path, a in flat.items() if path.endswith("scale"))
    assert all((a == 0).all() for path, a in flat.items() if path.endswith(("offset", "bias")))
    assert flat["latents"].std() == pytest.approx(0.8796 * 0.02, rel=0.02)
    assert TrainablePositions(N, 1).init(0)["table"].std() == pytest.approx(0.8796 * 0.02, rel=0.02)


def test_check_lists_what_is_missing_unexpected_and_of_the_wrong_shape() -> None:
    model = small.encoder()
    params = model.init(0)
    layer = params["block"][1]["mlp"]
    del layer["hidden"]["bias"]
    layer["hidden"]["biass"] = np.zeros(8)
    layer["output"]["weight"] = np.zeros((8, 9))
    params["latents"] = params["latents"].T
    with pytest.raises(InputError, match=r"parameters do not fit Encoder") as raised:
        model.check(params)
    message = str(raised.value)
    assert "missing: block/1/mlp/hidden/bias;" in message
    assert "unexpected: block/1/mlp/hidden/biass;" in message
    assert "latents is (8, 4), expected (4, 8)" in message
    assert "block/1/mlp/output/weight is (8, 9), expected (8, 8)" in message


def test_check_refuses_parameters_of_which_two_have_one_path() -> None:
    params = {**small.encoder().init(0), "block/0": {"norm": {"scale": np.ones(1), "offset": np.ones(1)}}}
    with pytest.raises(
        InputError, match=r"^parameters do not fit Encoder: .*two leaves of a tree have the path 'block/0/"
    ):
        small.encoder().check(params)


def test_check_accepts_what_fits_and_names_a_lost_layer() -> None:
    model = small.encoder()
    params = model.init(0)
    params["block"].pop()
    with pytest.raises(InputError, match=re.escape("missing: block/1/attention/key/bias")):
        model.check(params)


def test_a_model_without_parts_has_no_parameters() -> None:
    assert Module().init(0) == {}
    assert Parameter((3, 4), fan_in_normal).size == 12


@pytest.mark.parametrize("size", [-1, 1.5, "3", None, True])
def test_a_size_that_is_none_is_refused(size: object) -> None:
    with pytest.raises(InputError, match="a parameter cannot have the shape"):
        Parameter((2, size), fan_in_normal)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p.pop("encoder"), "missing: encoder/block/0/attention/key/bias"),
        (lambda p: p["encoder"].update(latents=np.zeros((3, 8))), "encoder/latents is (3, 8), expected (4, 8)"),
        (lambda p: p["decoder"]["output"].pop("weight"), "missing: decoder/output/weight"),
    ],
)
def test_a_model_names_the_parameters_that_do_not_fit(backend: str, spoil: Any, message: str) -> None:
    model = small.image_classifier()
    p = random_parameters(model)
    spoil(p)
    with pytest.raises(InputError, match=re.escape(message)):
        model.apply(*on(backend, [p, normal(0, 1, 3, 4, 2)]))
