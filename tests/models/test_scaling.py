"""Presets in other sizes: every one can be made, has them, and computes; what does not fit is one error."""

from __future__ import annotations

import numpy as np
import pytest

import perceiver_ref as pr
from perceiver_ref.models.resamplers import AttentionPool

ALL = [*pr.presets(), *pr.variants()]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("channels", "layers"), [(12, 2), (35, 1), (96, 3), (13, 1)])
def test_every_preset_in_small(name: str, channels: int, layers: int) -> None:
    pool = isinstance(pr.preset(name), AttentionPool)  # which attends once
    sizes = {"channels": channels, **({} if pool else {"layers": layers})}
    latents = not name.startswith("flamingo/gated")
    model = pr.preset(name, **sizes, **({"latents": 5} if latents else {}))
    assert model.count() < pr.preset(name).count()
    part = getattr(model, "encoder", model)
    if pool:
        assert (part.latents, part.channels) == (5, channels)
    elif latents:
        assert (part.latents, part.channels, part.layers) == (5, channels, layers)
    else:
        assert (part.block.channels, part.layers) == (channels, layers)
    assert all(0 not in p.shape for _, p in pr.autograd.tree.leaves(model.parameters()))


@pytest.mark.parametrize("name", ALL)
def test_a_preset_in_its_own_sizes_is_itself(name: str) -> None:
    model = pr.preset(name)
    part = getattr(model, "encoder", model)
    channels = part.block.channels if hasattr(part, "every") else part.channels
    sizes = {} if isinstance(part, AttentionPool) else {"layers": part.layers}
    assert pr.preset(name, channels=channels, **sizes) == model


def test_a_small_language_model_computes() -> None:
    model = pr.preset("perceiver-io/language", latents=5, channels=12, layers=2, inputs=20, length=11)
    assert (model.preprocessor.channels, model.decoder.query_channels, model.decoder.v_channels) == (20, 20, 20)
    assert model.encoder.self_heads == 6  # the largest that divides 12, of at most 8
    assert model.encoder.qk_channels % 6 == model.encoder.v_channels % 6 == 0
    ids = np.random.default_rng(0).integers(262, size=(2, 11))
    assert model.apply(model.init(), ids).shape == (2, 11, 262)


@pytest.mark.parametrize("dialect", ["deepmind", "hf", "paper"])
def test_a_small_classifier_computes(dialect: str) -> None:
    model = pr.preset(
        "perceiver-io/imagenet-conv", dialect=dialect, latents=3, channels=14, layers=1, blocks=2, classes=7
    )
    assert (model.encoder.self_heads, model.decoder.query_channels) == (7, 14)
    images = np.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype(np.float32)
    call = pr.peers.base.Call(state=model.init_state())
    assert model.apply(model.init(), images, call=call).shape == (1, 7)
    again = pr.preset("perceiver/imagenet", latents=3, channels=16, layers=1, blocks=3, classes=5)
    assert again.encoder.cross_attends == 3
    assert again.decoder.outputs == 5


def test_sets_and_gates_compute() -> None:
    rng = np.random.default_rng(0)
    units = pr.preset("perceiver-io/starcraft", latents=4, channels=15, layers=1)
    assert units.decoder.query_channels == 256  # the inputs' own
    assert units.apply(units.init(), rng.normal(size=(2, 9, 256)).astype(np.float32)).shape == (2, 9, 128)
    points = pr.preset("perceiver/modelnet40", latents=4, channels=15, layers=1, classes=6)
    assert points.apply(points.init(), rng.uniform(-1, 1, (2, 9, 3)).astype(np.float32)).shape == (2, 6)
    gated = pr.preset("flamingo/gated-xattn-9b", channels=20, layers=5, heads=4)
    text, media = rng.normal(size=(1, 3, 20)).astype(np.float32), rng.normal(size=(1, 2, 4, 1536)).astype(np.float32)
    assert gated.apply(gated.init(), text, media).shape == (1, 3, 20)


@pytest.mark.parametrize(
    ("name", "sizes", "text"),
    [
        ("flamingo/gated-xattn-3b", {"latents": 3}, "has no latents to be changed; it has channels, layers, heads"),
        ("perceiver-io/optical-flow", {"length": 3, "classes": 2}, "has no length, classes to be changed"),
        ("perceiver-io/language", {"channels": 12, "heads": 5}, r"channels \(12\) must be divisible by .*\(5\)"),
        ("flamingo/resampler-3b", {"channels": 12, "heads": 5}, r"channels \(12\) must be divisible by .*\(5\)"),
        ("flamingo/gated-xattn-3b", {"channels": 12, "heads": 5}, r"channels \(12\) must be divisible by .*\(5\)"),
        ("perceiver-io/language", {"latent": 3}, "unknown size of a preset 'latent'; did you mean 'latents'"),
        ("perceiver-io/language", {"latents": 0}, "latents must be a whole number of at least 1, got 0"),
        ("perceiver-io/language", {"layers": 2.5}, "layers must be a whole number of at least 0, got 2.5"),
        ("perceiver-io/language", {"channels": True}, "channels must be a whole number"),
    ],
)
def test_what_does_not_fit_is_one_error(name: str, sizes: dict, text: str) -> None:
    with pytest.raises(pr.InputError, match=text) as error:
        pr.preset(name, **sizes)
    assert str(error.value).isprintable()
