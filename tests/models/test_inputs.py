"""Preprocessors: what becomes an element, in what order, and what is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
from support import assert_close, host, normal, on, random_parameters

from perceiver_ref import InputError
from perceiver_ref.models.inputs import GridInput, Pixels, TextInput
from perceiver_ref.models.outputs import TiedEmbedding
from perceiver_ref.models.positions import FourierPositions, TrainablePositions


@pytest.mark.parametrize("grid", [(3, 4), (1, 1), (2, 3, 4)])
def test_pixels_come_row_by_row_with_their_channels_before_their_positions(backend: str, grid: tuple[int, ...]) -> None:
    pixels = GridInput(Pixels(2), FourierPositions(3, grid))
    images = normal(0, 2, *grid, 2)
    elements, features, _ = pixels.apply(pixels.init(), on(backend, images))
    elements, features = host([elements, features])
    table = host(pixels.positions.apply({}, grid, like=on(backend, images)))
    assert elements.shape == (2, np.prod(grid), pixels.channels)
    for b in range(2):
        for m, index in enumerate(np.ndindex(*grid)):
            assert elements[b, m].tolist() == [*images[b][index], *table[m]]
    assert_close(features, elements[..., :2], tolerance=0)


def test_pixels_may_have_trainable_positions(backend: str) -> None:
    pixels = GridInput(Pixels(1), TrainablePositions(6, 4))
    p, images = random_parameters(pixels), normal(0, 2, 2, 3, 1)
    elements = pixels.apply(*on(backend, [p, images])).inputs
    assert_close(host(elements)[..., 1:], np.stack([p["positions"]["table"]] * 2), tolerance=0)


def test_text_is_the_sum_of_embedding_and_position(backend: str) -> None:
    text = TextInput(9, 5, 4)
    p, ids = random_parameters(text), np.array([[8, 0, 3], [3, 3, 1]])
    elements, embedded, _ = text.apply(*on(backend, [p, ids]))
    elements, embedded = host([elements, embedded])
    for b, m in np.ndindex(2, 3):
        assert embedded[b, m].tolist() == p["embedding"][ids[b, m]].tolist()
        assert elements[b, m].tolist() == (p["embedding"][ids[b, m]] + p["positions"]["table"][m]).tolist()


def test_tied_logits_are_products_with_the_embedding(backend: str) -> None:
    head = TiedEmbedding(9)
    p, x, embedding = random_parameters(head), normal(1, 2, 3, 4), normal(2, 9, 4)
    params = {"input": {"embedding": on(backend, embedding)}}
    logits = host(head.apply(*on(backend, [p, x]), params=params))
    for b, o, v in np.ndindex(2, 3, 9):
        assert_close(logits[b, o, v], x[b, o] @ embedding[v] + p["bias"][v])


@pytest.mark.parametrize(
    ("images", "came"),
    [
        (np.zeros((2, 3, 4, 3)), "float64 of (2, 3, 4, 3)"),  # channels
        (np.zeros((2, 2)), "float64 of (2, 2)"),
        (np.zeros((2, 3, 4, 2), np.uint8), "uint8 of (2, 3, 4, 2)"),
    ],
)
def test_wrong_images_are_described(backend: str, images: np.ndarray, came: str) -> None:
    pixels = GridInput(Pixels(2), FourierPositions(3, (3, 4)))
    with pytest.raises(InputError, match=re.escape(f"video (batch, time, height, width, 2); got {came}")):
        pixels.apply(pixels.init(), on(backend, images))


def test_a_grid_of_other_dimensions_is_refused(backend: str) -> None:
    pixels = GridInput(Pixels(2), FourierPositions(3, (3, 4)))
    with pytest.raises(InputError, match=re.escape("positions have 2 axes (max_resolution (3, 4))")):
        pixels.apply(pixels.init(), on(backend, np.zeros((1, 2, 3, 4, 2))))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.array([[0, 9]]), "token ids must be in [0, 9), got 0 to 9"),
        (np.array([[-1, 3]]), "token ids must be in [0, 9), got -1 to 3"),
        (np.array([0, 1]), "integers of shape (batch, length), got int64 of (2,)"),
        (np.array([[0.0]]), "integers of shape (batch, length), got float64 of (1, 1)"),
        (np.array([[True]]), "integers of shape (batch, length), got bool of (1, 1)"),
        (np.zeros((1, 6), int), "the input has 6 positions, but the model was made for at most 5"),
    ],
)
def test_wrong_tokens_are_described(backend: str, ids: np.ndarray, message: str) -> None:
    text = TextInput(9, 5, 4)
    with pytest.raises(InputError, match=re.escape(message)):
        text.apply(*on(backend, [random_parameters(text), ids]))
