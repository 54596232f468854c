"""Optical flow: the pairs' ground truth by independent computations, the baselines, the metric and the colour wheel."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from perceiver_ref.autograd.backend import to_backend, to_host
from perceiver_ref.models.inputs import flow_patches
from perceiver_ref.training.recipes import flow
from perceiver_ref.training.recipes.flow import (
    SIZE,
    Flow,
    arrows,
    colour_wheel,
    described,
    end_point_error,
    flow_colours,
)
from perceiver_ref.training.recipes.image_pairs import (
    BENDING,
    TRANSLATION,
    WAVELENGTHS,
    draw_coefficients,
    draw_textures,
    image_pairs,
    motion,
    pixels,
)


@pytest.fixture(scope="module")
def task() -> Flow:
    return Flow(0, 4)


@pytest.fixture(scope="module")
def pairs() -> tuple[np.ndarray, np.ndarray]:
    return image_pairs(np.random.default_rng(3), 6, SIZE)


def test_pairs_are_frames_and_the_flow_of_each_pixel(pairs) -> None:
    frames, true = pairs
    assert (frames.shape, frames.dtype) == ((6, 2, *SIZE, 3), np.float32)
    assert (true.shape, true.dtype) == ((6, math.prod(SIZE), 2), np.float32)
    assert np.abs(true).max() < TRANSLATION + 3 * BENDING  # coefficients of 1, x, y and two half waves of height 1/2
    assert 0.5 < frames.std() < 2


def test_the_flow_warps_the_second_frame_onto_the_first(pairs) -> None:
    """By cubic splines through the second frame's pixels, where the flow leads inside; the shortest wave has 8 pixels.

    A cubic spline's error at half a cell is about (2 pi / 8)^4 / 100 of a wave, with the border's larger one near it.
    """
    frames, true = pairs
    inside, total = 0, 0
    for (first, second), moved in zip(frames, true):
        x, y = (pixels(SIZE) + moved).T
        away = (x >= 2) & (x <= SIZE[1] - 3) & (y >= 2) & (y <= SIZE[0] - 3)
        for channel in range(3):
            warped = map_coordinates(second[..., channel].astype(np.float64), [y, x], order=3, mode="nearest")
            difference = warped - first[..., channel].ravel()
            assert np.abs(difference[away]).max() < 0.03
            still = second[..., channel].ravel() - first[..., channel].ravel()
            assert np.abs(still[away]).mean() > 10 * np.abs(difference[away]).mean()
        inside, total = inside + away.sum(), total + away.size
    assert inside > total / 2


def test_frames_are_the_sum_of_waves_at_the_moved_points() -> None:
    """Pixel by pixel, wave by wave, in float64: float32's angles of up to 30 radians round to 2e-6."""
    rng, again = np.random.default_rng(5), np.random.default_rng(5)
    frames, true = image_pairs(rng, 2, (3, 4))
    textures, coefficients = draw_textures(again, 2), draw_coefficients(again, 2)
    for b in range(2):
        for row in range(3):
            for column in range(4):
                across, down = 2 * column / 3 - 1, 2 * row / 2 - 1
                shapes = [1, across, down, math.sin(math.pi * across) / 2, math.sin(math.pi * down) / 2]
                u, v = (sum(float(c) * s for c, s in zip(coefficients[b, axis], shapes)) for axis in (0, 1))
                np.testing.assert_allclose(true[b, 4 * row + column], (u, v), atol=1e-6)
                for frame, (x, y) in enumerate(((column + u, row + v), (column, row))):
                    angles = [float(w[0]) * x + float(w[1]) * y for w in textures.waves[b]]
                    for c in range(3):
                        value = sum(
                            float(textures.cosines[b, k, c]) * math.cos(a)
                            + float(textures.sines[b, k, c]) * math.sin(a)
                            for k, a in enumerate(angles)
                        )
                        assert abs(value - frames[b, frame, row, column, c]) < 2e-5


def test_textures_hold_no_wave_shorter_than_the_shortest() -> None:
    waves = draw_textures(np.random.default_rng(0), 50).waves
    lengths = 2 * math.pi / np.hypot(*np.moveaxis(waves, -1, 0))
    assert WAVELENGTHS[0] * (1 - 1e-6) <= lengths.min() <= lengths.max() <= WAVELENGTHS[1] * (1 + 1e-6)


def test_a_constant_motion_is_the_same_everywhere_and_x_comes_first() -> None:
    coefficients = np.zeros((1, 2, 5), np.float32)
    coefficients[0, :, 0] = (2, -1)
    moved = motion(coefficients, pixels(SIZE), SIZE)
    np.testing.assert_array_equal(moved, np.broadcast_to(np.float32((2, -1)), moved.shape))
    np.testing.assert_array_equal(pixels((2, 3)), [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)])


def test_training_and_test_pairs_are_different_pairs(task: Flow) -> None:
    tested = {frames.tobytes() for frames in task.test[0]}
    assert len(tested) == len(task.test[0])
    for seed in (0, 1, 2):
        for step in range(5):
            assert not tested & {frames.tobytes() for frames in Flow(seed, 4).batch(step)["frames"]}
    np.testing.assert_array_equal(Flow(7, 2).test[0], task.test[0])


def test_a_batch_holds_the_flow_of_its_points(task: Flow) -> None:
    batch = task.batch(2)
    rng = np.random.default_rng((0, 2))
    frames, true = image_pairs(rng, 4, SIZE)
    np.testing.assert_array_equal(batch["frames"], frames)
    np.testing.assert_array_equal(batch["flow"], true[:, batch["points"]])
    assert len(set(batch["points"])) == flow.POINTS


def test_decoding_chosen_points_is_decoding_all_and_choosing(task: Flow, backend: str) -> None:
    """The loss trains what evaluation measures. Sums of 64 terms in another order: 1e-4 of a pixel."""
    batch = task.batch(0)
    params = task.model.init(1, backend=backend)
    frames = to_backend(batch["frames"], backend)
    chosen = to_host(task.predict(params, frames, batch["points"]))
    every = to_host(task.predict(params, frames)).reshape(4, -1, 2)
    np.testing.assert_allclose(chosen, every[:, batch["points"]], atol=1e-4)


def test_the_output_is_scaled_as_in_the_released_code(task: Flow) -> None:
    """A decoder whose last map gives 5 for every pixel: 5 / 100 * 20 = 1 pixel."""
    params = task.init()
    output = params["decoder"]["output"]
    output["weight"], output["bias"] = np.zeros_like(output["weight"]), np.full_like(output["bias"], 5)
    moved = task.predict(params, task.batch(0)["frames"])
    np.testing.assert_allclose(moved, np.ones((4, *SIZE, 2)), rtol=1e-6)


def test_patches_are_the_neighbourhood_of_each_pixel_in_both_frames(task: Flow) -> None:
    frames = task.batch(0)["frames"]
    patches = flow_patches(frames)
    assert patches.shape == (4, 2, *SIZE, 27)
    np.testing.assert_array_equal(patches[1, 1, 5, 9].reshape(3, 3, 3), frames[1, 1, 4:7, 8:11])


def test_the_end_point_error_is_the_mean_length_of_the_difference() -> None:
    true = np.array([[(0.0, 0.0), (3.0, 4.0)], [(1.0, 1.0), (0.0, -2.0)]])
    assert end_point_error(true, true) == 0
    assert end_point_error(np.zeros_like(true), true) == pytest.approx((0 + 5 + math.sqrt(2) + 2) / 4)
    assert end_point_error(true + np.array((0.6, 0.8)), true) == pytest.approx(1)


def test_evaluation_measures_predictions_against_zero_motion(task: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    true = task.test[1]
    still = sum(math.hypot(*map(float, uv)) for pair in true for uv in pair) / true[..., 0].size
    for made, expected in ((true, 0), (np.zeros_like(true), 1), (2 * true, 1), (true * 0.75, 0.25)):
        monkeypatch.setattr(Flow, "predicted", lambda self, params, made=made: made)
        numbers = task.evaluate({})
        assert numbers["relative_error"] == pytest.approx(expected, abs=1e-6)
        assert numbers["end_point_error"] == pytest.approx(expected * still, abs=1e-5)
        assert numbers["end_point_error_of_zero_motion"] == pytest.approx(still, rel=1e-5)


def test_baselines_are_their_definitions(task: Flow) -> None:
    true = task.test[1].astype(np.float64)
    still = np.mean([math.hypot(*uv) for pair in true for uv in pair])
    of_mean = np.mean([math.hypot(*(uv - pair.mean(0))) for pair in true for uv in pair])
    assert task.baselines() == {
        "zero motion": 1.0,
        "each pair's true mean motion": pytest.approx(of_mean / still, rel=1e-5),
    }
    row = flow.RECIPES[0]
    assert not any(row.reached(value, quick=False) for value in task.baselines().values())
    assert not row.reached(task.evaluate(task.init())[row.metric], quick=True)


def test_the_colour_wheel_has_the_corners_and_steps_of_the_benchmark() -> None:
    """Baker et al.'s code: 15, 6, 4, 11, 13 and 6 hues from red over yellow, green, cyan, blue and magenta."""
    wheel = colour_wheel()
    assert wheel.shape == (55, 3)
    corners = {0: (1, 0, 0), 15: (1, 1, 0), 21: (0, 1, 0), 25: (0, 1, 1), 36: (0, 0, 1), 49: (1, 0, 1)}
    for place, colour in corners.items():
        np.testing.assert_allclose(wheel[place], colour, atol=1e-12)
    assert np.abs(np.diff(wheel, axis=0)).max() <= 1 / 4 + 1e-12  # the largest step is the shortest side's
    np.testing.assert_allclose(wheel.max(-1), 1)
    np.testing.assert_allclose(wheel.min(-1), 0)


@pytest.mark.parametrize(
    ("direction", "place"), [((1, 0), 0), ((0, 1), 13.5), ((-1, 1e-9), 27), ((0, -1), 40.5), ((-1, -1e-9), 27)]
)
def test_directions_have_the_wheels_colours(direction: tuple[float, float], place: float) -> None:
    """Right is red; the 54 steps of the wheel go once around, first down: the hues at and between `place`."""
    colour = flow_colours(np.array(direction, np.float64), 1.0)
    wheel = colour_wheel()
    expected = (wheel[math.floor(place)] + wheel[math.ceil(place)]) / 2
    np.testing.assert_allclose(colour, expected, atol=1e-6)


def test_no_motion_is_white_half_is_paler_and_too_much_is_darker() -> None:
    right = np.array([1.0, 0.0])
    hue = flow_colours(right, 1.0)
    np.testing.assert_array_equal(flow_colours(0 * right, 1.0), (1, 1, 1))
    np.testing.assert_allclose(flow_colours(right, 2.0), (1 + hue) / 2)
    np.testing.assert_allclose(flow_colours(right, 0.5), 0.75 * hue)


def test_arrows_point_along_the_flow() -> None:
    eight = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (0.3, 0.3)]
    assert arrows(np.array(eight)) == "→ ↘ ↓ ↙ ← ↖ ↑ ↗ ·"


def test_pairs_are_described_and_drawn(task: Flow, tmp_path: Path) -> None:
    true = task.test[1]
    text = described(0, true[0], 0 * true[0])
    assert text.splitlines()[0].endswith(f"pixels, of zero motion {end_point_error(0 * true[0], true[0]):.2f}")
    assert len(text.splitlines()) == 2 + SIZE[0] // 4
    written = task.show(task.init(), tmp_path)
    assert written[0].read_text("utf-8").count("test pair") == 3
    assert all(path.is_file() for path in written)
