"""Permuted digits: what is permuted, what Perceiver makes of it, and the convolution network beside it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from support import ROUNDING, difference, normal, random_parameters

from perceiver_ref.training.recipes import digits
from perceiver_ref.training.recipes import digits_permuted as permuted
from perceiver_ref.training.recipes.digits import Digits
from perceiver_ref.training.recipes.digits_permuted import (
    ORDER,
    ConvolutionNetwork,
    PermutedDigits,
    comparison,
    elements,
)


def test_the_order_is_a_permutation_that_leaves_few_neighbours_neighbours() -> None:
    assert sorted(ORDER) == list(range(64))
    rows, columns = np.divmod(ORDER.reshape(8, 8), 8)
    apart = [np.abs(np.diff(rows, axis=axis)) + np.abs(np.diff(columns, axis=axis)) for axis in (0, 1)]
    assert sum((gap == 1).sum() for gap in apart) <= 10  # of 112 pairs; a grid has all of them, chance 6


def test_each_pixel_has_the_features_of_where_it_was() -> None:
    """Positions are off by two roundings of float32, 1.2e-7; angles are up to 4 pi times them: 1.5e-6, doubled."""
    images = normal(0, 3, 8, 8, 1)
    made = elements(images, permuted=True)
    for place, pixel in enumerate(ORDER):
        row, column = divmod(int(pixel), 8)
        y, x = -1 + 2 * row / 7, -1 + 2 * column / 7
        bands = [1, 2, 3, 4]
        waves = [f(math.pi * band * at) for f in (math.sin, math.cos) for at in (y, x) for band in bands]
        for image, element in zip(images, made[:, place]):
            np.testing.assert_allclose(element, [image[row, column, 0], y, x, *waves], rtol=0, atol=3e-6)


def test_batches_are_those_of_digits() -> None:
    plain, ordered = Digits(3, 16).batch(2), PermutedDigits(3, 16, permuted=False).batch(2)
    moved = PermutedDigits(3, 16).batch(2)
    np.testing.assert_array_equal(ordered["labels"], plain["labels"])
    np.testing.assert_array_equal(moved["labels"], plain["labels"])
    np.testing.assert_array_equal(ordered["images"], elements(plain["images"], permuted=False))
    np.testing.assert_array_equal(moved["images"], ordered["images"][:, ORDER])
    assert moved["images"].dtype == np.float32


def test_perceiver_makes_the_same_of_both_orders_and_a_convolution_network_does_not() -> None:
    images = normal(0, 4, 8, 8, 1)
    perceiver = digits.model()
    params = random_parameters(perceiver)
    expected = perceiver.apply(params, images)
    for is_permuted in (False, True):
        task = PermutedDigits(0, 4, permuted=is_permuted)
        assert difference(task.model.apply(params, elements(images, is_permuted)), expected) < ROUNDING
    network = replace(task, network="convolution").model
    params = random_parameters(network)
    ordered, moved = (network.apply(params, elements(images, is_permuted)) for is_permuted in (False, True))
    assert difference(moved, ordered) > 0.01


def test_it_starts_from_the_parameters_of_digits() -> None:
    ours, theirs = PermutedDigits(7, 16).init(), Digits(7, 16).init()
    np.testing.assert_array_equal(ours["encoder"]["latents"], theirs["encoder"]["latents"])
    np.testing.assert_array_equal(ours["decoder"]["output"]["weight"], theirs["decoder"]["output"]["weight"])


def test_the_convolution_network_by_its_plain_definition() -> None:
    network = ConvolutionNetwork((5, 4), 2, (3, 4), 6)
    p, x = random_parameters(network), normal(1, 2, 20, 2)
    for image, logits in zip(x.reshape(2, 5, 4, 2), network.apply(p, x)):
        for layer, stride, before in zip(p["convolutions"], (1, 2), ((1, 1), (1, 0))):  # SAME: odd ones at the end
            height, width, _ = image.shape
            outputs = np.zeros((-(-height // stride), -(-width // stride), layer["weight"].shape[-1]))
            for i, j in np.ndindex(*outputs.shape[:2]):
                outputs[i, j] = layer["bias"]
                for a, b in np.ndindex(3, 3):
                    y, z = stride * i + a - before[0], stride * j + b - before[1]
                    if 0 <= y < height and 0 <= z < width:
                        outputs[i, j] += image[y, z] @ layer["weight"][a, b]
            image = np.maximum(outputs, 0)
        expected = image.mean((0, 1)) @ p["head"]["weight"] + p["head"]["bias"]
        assert difference(logits, expected) < ROUNDING


@pytest.mark.parametrize("quick", [True, False])
def test_baselines_are_of_trained_networks(monkeypatch, quick: bool) -> None:
    """Each from its own pixels and settings, once however often they are asked for."""
    trained = []

    def train(task, settings):
        trained.append((task.network, task.permuted, settings))
        return len(trained) / 10

    monkeypatch.setattr(PermutedDigits, "trained", train)
    task = PermutedDigits(0, 64, quick)
    made = task.baselines()
    assert task.baselines() == made
    convolution = permuted._QUICK_CONVOLUTION if quick else permuted._CONVOLUTION
    both = [("convolution", False, convolution), ("convolution", True, convolution)]
    assert trained == (both if quick else [("perceiver", False, permuted._FULL), *both])
    names = [permuted.CONVOLUTION_IN_ORDER, permuted.CONVOLUTION_PERMUTED]
    assert list(made) == (names if quick else [permuted.PERCEIVER_IN_ORDER, *names])


def test_training_a_baseline_trains_it() -> None:
    """Above chance, 10 %, by five standard errors of 450 images after 80 steps; not before."""
    task = PermutedDigits(0, 32, network="convolution", permuted=False)
    settings = replace(permuted._CONVOLUTION, steps=80, warmup=5)
    assert task.trained(settings) > 0.17
    assert task.evaluate(task.init())["test_accuracy"] < 0.17


def test_the_comparison_shows_what_is_given() -> None:
    text = comparison(
        {"Perceiver, permuted": 0.974, permuted.CONVOLUTION_IN_ORDER: 0.98, permuted.CONVOLUTION_PERMUTED: 0.9}
    )
    lines = [line.split() for line in text.splitlines()]
    assert lines[1] == ["Perceiver", "-", "97.4%", "-"]
    assert lines[2] == ["convolution", "network", "98.0%", "90.0%", "-8.0"]
