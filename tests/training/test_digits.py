"""The digits that the package ships, and how the recipe distorts and shows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perceiver_ref.training.recipes import recipe
from perceiver_ref.training.recipes.digits import BACKGROUND, TRAINED_ON, digits, distorted, nearest_neighbour


class Fixed:
    """A generator whose affine map is the identity, and whose shift is given."""

    def __init__(self, down: float = 0.0, right: float = 0.0) -> None:
        self.shift = np.array([[down], [right]])

    def standard_normal(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros(shape)

    def uniform(self, low: float, high: float, shape: tuple[int, ...]) -> np.ndarray:
        return np.broadcast_to(self.shift, shape)


def test_the_data_are_uci_s_test_set() -> None:
    """Counts by class, as the data's own description gives them for `optdigits.tes`."""
    images, labels = digits()
    assert (images.shape, images.dtype) == ((1797, 8, 8, 1), np.float32)
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (images.min(), images.max()) == (BACKGROUND, -BACKGROUND)
    assert labels[:10].tolist() == list(range(10))


def test_no_distortion_leaves_images_as_they_are() -> None:
    images = digits()[0][:20]
    np.testing.assert_array_equal(distorted(images, Fixed()), images)


@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, -1), (-1, 1)])
def test_a_shift_by_a_pixel_brings_in_background(down: int, right: int) -> None:
    images = digits()[0][:20]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=BACKGROUND)
    np.testing.assert_array_equal(distorted(images, Fixed(down, right)), padded[:, 1 + down :, 1 + right :][:, :8, :8])


def test_half_a_pixel_is_interpolated() -> None:
    images = digits()[0][:20]
    below = np.concatenate([images[:, 1:], np.full_like(images[:, :1], BACKGROUND)], axis=1)
    np.testing.assert_array_equal(distorted(images, Fixed(0.5)), (images + below) / 2)  # exact in binary


def test_distorted_images_stay_in_range() -> None:
    made = distorted(digits()[0][:200], np.random.default_rng(0))
    assert made.dtype == np.float32
    assert (made.min(), made.max()) >= (BACKGROUND, 0)
    assert made.max() <= -BACKGROUND


def test_the_nearest_neighbour_by_definition() -> None:
    rng = np.random.default_rng(1)
    inputs, labels = rng.normal(size=(40, 3)), rng.integers(3, size=40)
    nearest = [labels[np.argmin([((x - known) ** 2).sum() for known in inputs[:30]])] for x in inputs[30:]]
    assert nearest_neighbour(inputs, labels, 30) == np.mean(nearest == labels[30:])


def test_accuracy_is_of_the_mean_over_views() -> None:
    """A model that is sure of the first view and wrong about it, and right but less sure about the others."""
    task = recipe("digits").stages[0].build(0, True)
    labels = task.data[1][TRAINED_ON:]
    right, wrong = (np.eye(10, dtype=np.float32)[given] for given in (labels, (labels + 1) % 10))
    for sure, expected in ((3, 1), (30, 0)):
        answers = [sure * wrong, *[right] * 8]

        class Knowing:
            def apply(self, params, images, answers=answers):
                return next(answer for view, answer in zip(task.views, answers) if np.array_equal(view, images))

        task.__dict__["model"] = Knowing()
        made = task.evaluate({"weight": np.zeros(1, np.float32)})
        assert made == {"test_accuracy": expected, "test_accuracy_of_one_view": 0}


def test_views_are_the_test_images_and_distortions_of_them() -> None:
    task = recipe("digits").stages[0].build(0, True)
    np.testing.assert_array_equal(task.views[0], task.data[0][TRAINED_ON:])
    changes = [np.abs(view - task.views[0]).mean() for view in task.views[1:]]
    assert len(changes) == 8
    assert 0 < min(changes) <= max(changes) < np.abs(task.views[0][1:] - task.views[0][:-1]).mean()


def test_training_never_sees_the_test_images() -> None:
    task = recipe("digits").stages[0].build(0, True)
    task.data[0][TRAINED_ON:] = np.nan
    assert all(np.isfinite(task.batch(step)["images"]).all() for step in range(30))


def test_it_shows_where_it_looks(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra plot")
    task = recipe("digits").stages[0].build(0, True)
    (file,) = task.show(task.init(), tmp_path)
    assert file.read_bytes().startswith(b"\x89PNG")
