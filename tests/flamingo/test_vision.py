"""The vision encoders: shapes, frames one by one, which pixel belongs to which token, gradients, errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import plain
from support import assert_close, host, normal, on, random_parameters

from perceiver_ref import InputError
from perceiver_ref.autograd import ops, value_and_grad
from perceiver_ref.autograd.testing import check_grads
from perceiver_ref.models.flamingo.vision import Features, PatchEncoder

ENCODER = PatchEncoder((4, 6), 2, 8, image_channels=3, layers=2, heads=2, widening=2)


def by_loops(p: object, image: np.ndarray) -> np.ndarray:
    """One frame (4, 6, 3) -> (6, 8), of code that shares nothing with the package."""
    patches = [image[y : y + 2, x : x + 2].reshape(-1) for y in (0, 2) for x in (0, 2, 4)]
    x = (plain.linear(p["patches"], np.stack(patches)) + p["positions"])[None]
    for layer in p["layers"]:
        normed = plain.layer_norm(layer["norm"], x)
        x = x + plain.attention(layer["attention"], normed, normed, 2, "zero")
        x = x + plain.mlp(layer["mlp"], plain.layer_norm(layer["mlp_norm"], x), "gelu_erf")
    return plain.layer_norm(p["norm"], x)[0]


def test_each_frame_is_encoded_as_plain_loops_do(backend: str) -> None:
    p, media = random_parameters(ENCODER), normal(0, 2, 2, 3, 4, 6, 3)
    ours = host(ENCODER.apply(on(backend, p), on(backend, media)))
    assert ours.shape == (2, 2, 3, ENCODER.tokens, 8) == (2, 2, 3, 6, 8)
    expected = [by_loops(p, frame) for frame in media.reshape(12, 4, 6, 3)]
    assert_close(ours.reshape(12, 6, 8), np.stack(expected))


@given(b=st.integers(1, 2), m=st.integers(1, 3))
def test_an_image_is_a_video_of_one_frame(backend: str, b: int, m: int) -> None:
    p, images = on(backend, [random_parameters(ENCODER), normal(1, b, m, 4, 6, 3)])
    assert_close(ENCODER.apply(p, images), ENCODER.apply(p, images[:, :, None]), tolerance=0)
    plain_features = on(backend, normal(2, b, m, 5, 8))
    assert_close(Features(8).apply({}, plain_features), plain_features[:, :, None], tolerance=0)


def test_features_pass_as_they_are(backend: str) -> None:
    media = on(backend, normal(0, 2, 1, 3, 5, 8))
    assert_close(Features(8).apply(Features(8).init(0), media), media, tolerance=0)
    assert Features(8).count() == 0


def test_without_layers_a_token_sees_its_own_patch_alone(backend: str) -> None:
    """Gradients by pixels outside the patch are exactly 0."""
    encoder = PatchEncoder((4, 6), 2, 8, layers=0)
    p, media, weights = on(backend, [random_parameters(encoder), normal(0, 1, 1, 1, 4, 6, 3), normal(1, 8)])
    for token in range(6):

        def loss(x: object, token: int = token) -> object:
            return ops.sum(ops.multiply(encoder.apply(p, x)[0, 0, 0, token], weights))

        gradient = np.abs(host(value_and_grad(loss)(media)[1])[0, 0, 0]).max(-1)
        y, x = 2 * (token // 3), 2 * (token % 3)
        assert (gradient[y : y + 2, x : x + 2] > 1e-6).all()
        gradient[y : y + 2, x : x + 2] = 0
        assert (gradient == 0).all()


def test_gradients(backend: str) -> None:
    encoder = PatchEncoder((2, 4), 2, 4, image_channels=1, layers=1, heads=2, widening=1)
    check_grads(encoder.apply, *on(backend, [random_parameters(encoder), normal(0, 1, 2, 2, 2, 4, 1)]), directions=1)


def test_parameters_by_hand() -> None:
    """Patches 12 -> 8, six positions, two layers of 4 attention maps, an MLP to 16 and two norms, the last norm."""
    layer = 4 * (8 * 8 + 8) + (8 * 16 + 16) + (16 * 8 + 8) + 2 * 16
    assert ENCODER.count() == (12 * 8 + 8) + 6 * 8 + 2 * layer + 16


def test_what_is_refused(backend: str) -> None:
    p = on(backend, random_parameters(ENCODER))
    for shape, message in (
        ((1, 1, 4, 4, 3), r"the frames of media must be \(4, 6, 3\), got \(4, 4, 3\)"),
        ((1, 1, 1, 4, 6, 1), r"the frames of media must be \(4, 6, 3\), got \(4, 6, 1\)"),
        ((1, 4, 6, 3), r"media must be \(batch, media, frames, 4, 6, 3\) or \(batch, media, 4, 6, 3\), got"),
        ((1, 1, 0, 4, 6, 3), r"media need at least one frame and one token, got \(1, 1, 0, 4, 6, 3\)"),
    ):
        with pytest.raises(InputError, match=message):
            ENCODER.apply(p, on(backend, np.zeros(shape)))
    with pytest.raises(InputError, match=r"frames of \(4, 6\) pixels cannot be cut into patches 4 wide"):
        PatchEncoder((4, 6), 4, 8)
    with pytest.raises(InputError, match="channels \\(8\\) must be divisible by the number of heads \\(3\\)"):
        PatchEncoder((4, 6), 2, 8, heads=3)
    with pytest.raises(InputError, match=r"the frames of media must be \(tokens, 8\), got \(5, 7\)"):
        Features(8).apply({}, on(backend, np.zeros((1, 1, 5, 7))))
