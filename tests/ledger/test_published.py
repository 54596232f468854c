"""The ledger reproduces the papers' tables: parameters to the last one, FLOPs to the digits printed."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import pytest

import perceiver_ref as pr
from perceiver_ref.models.ledger import Ledger, default_sizes, example, ledger
from perceiver_ref.models.ledger.printed import PRINTED, agrees
from perceiver_ref.models.published import INPUTS

PARAMETERS = {
    "perceiver/imagenet": 44_912_254,
    "perceiver/imagenet-unshared": 326_241_856,
    "perceiver/imagenet-1-cross": 42_135_859,
    "perceiver/imagenet-4-cross-only": 12_654_868,
    "perceiver/imagenet-8-cross-only": 23_760_448,
    "perceiver/imagenet-12-cross-only": 34_866_028,
    "perceiver-io/imagenet-fourier": 48_440_627,
    "perceiver-io/imagenet-learned": 62_255_848,
    "perceiver-io/imagenet-conv": 48_646_522,
    "perceiver-io/imagenet-fourier-b": 212_170_035,
    "perceiver-io/language": 201_108_230,
    "perceiver-io/language-sp": 223_155_456,
    "perceiver-io/language-plus": 425_607_430,
    "perceiver-io/multimodal": 19_858_855,
    "perceiver-io/optical-flow": 41_057_134,
    # 6 layers of 4 + 8 squares of 1536 and six norms' halves, a last norm, 64 latents, 8 time embeddings
    "flamingo/resampler-3b": 6 * (12 * 1536**2 + 6 * 1536) + 2 * 1536 + (64 + 8) * 1536,
    # each layer: query and output, key and value from 1536, two linear maps of the MLP, two norms, two gates
    "flamingo/gated-xattn-3b": 24 * (2 * 2048**2 + 2 * 1536 * 2048 + 8 * 2048**2 + 4 * 2048 + 2),
    "flamingo/gated-xattn-9b": 10 * (2 * 4096**2 + 2 * 1536 * 4096 + 8 * 4096**2 + 4 * 4096 + 2),
    "flamingo/gated-xattn-80b": 12 * (2 * 8192**2 + 2 * 1536 * 8192 + 8 * 8192**2 + 4 * 8192 + 2),
    # 4 layers of 4 + 8 squares and three norms, 16 latents, a map from 1280, one to the width after, a norm of that
    "ip-adapter/plus-sd15": 4 * (12 * 768**2 + 6 * 768) + 16 * 768 + 1281 * 768 + 769 * 768 + 2 * 768,
    "ip-adapter/plus-sdxl": 4 * (12 * 1280**2 + 6 * 1280) + 16 * 1280 + 1281 * 1280 + 1281 * 2048 + 2 * 2048,
    # 2 layers of 8 heads 64 wide and a gated MLP of int(1024 * 4 * 2 / 3), with biases; 32 latents, a scale
    "xtts/v2": 2 * (4 * 1024 * 512 + 1025 * 2 * 2730 + 2731 * 1024) + 32 * 1024 + 1024,
    # queries, a map from 1152, four maps with biases, three norms, a last map
    "minicpmv/2.6": 64 * 3584 + 1152 * 3584 + 4 * 3585 * 3584 + 6 * 3584 + 3584**2,
    "kosmos2/patch14-224": 64 * 2048 + 1025 * 2048 + 4 * 2049 * 2048,
    "siglip/base-patch16-224": 768 + 4 * 769 * 768 + 2 * 768 + 769 * 3072 + 3073 * 768,
}
"""Counted by hand or from the released code; see `PRINTED` for what the papers print."""

BILLIONS = {
    "perceiver/imagenet-1-cross": 404.34,
    "perceiver/imagenet-2-cross": 447.61,
    "perceiver/imagenet-4-cross": 534.14,
    "perceiver/imagenet": 707.20,
    "perceiver/imagenet-4-cross-only": 173.06,
    "perceiver/imagenet-8-cross-only": 346.12,
    "perceiver/imagenet-12-cross-only": 519.17,
    "perceiver/imagenet-conv": 367.28,
    "perceiver/audioset": 52.26,
    "perceiver/audioset-mel": 60.67,
    "perceiver-io/imagenet-fourier": 406.50,
    "perceiver-io/imagenet-conv": 369.43,
    "perceiver-io/audioset": 52.80,
    "perceiver-io/audioset-mel": 129.38,
    "perceiver-io/language-plus": 241.0,
}

DIFFERENT = {
    "perceiver-io/language-plus": {"parameters"},  # cut off, not rounded
    "perceiver-io/imagenet-learned": {"flops"},
    "perceiver-io/imagenet-fourier-b": {"flops"},
    "perceiver-io/language": {"flops"},
    "perceiver-io/language-sp": {"flops"},
    "perceiver-io/optical-flow": {"parameters", "flops"},
    "perceiver-io/multimodal": {"parameters", "flops"},
    "perceiver-io/audioset": {"parameters", "flops"},
    "perceiver-io/audioset-mel": {"parameters", "flops"},
    "perceiver-io/starcraft": {"parameters", "flops"},
    "flamingo/resampler-3b": {"parameters"},
    "flamingo/resampler-9b": {"parameters"},
    "flamingo/resampler-80b": {"parameters"},
    "flamingo/gated-xattn-9b": {"parameters"},
    "flamingo/gated-xattn-80b": {"parameters"},
}
"""The printed figures that the published configurations do not give; every one of them has a remark."""


@lru_cache
def counted(name: str) -> Ledger:
    model = pr.preset(name)
    return ledger(model, example(model, INPUTS.get(name) or default_sizes(model)))


@pytest.mark.parametrize("name", [*pr.presets(), *pr.variants()])
def test_parameters_are_those_of_the_model(name):
    assert counted(name).parameters == pr.preset(name).count()


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    assert counted(name).parameters == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "millions"),
    [("perceiver/audioset", 20.97), ("perceiver-io/audioset", 24.92), ("perceiver-io/audioset-mel", 86.57)],
)
def test_parameters_of_audioset(name, millions):
    assert round(counted(name).parameters / 1e6, 2) == millions


@pytest.mark.parametrize("name", BILLIONS)
def test_flops(name):
    assert counted(name).flops / 1e9 == pytest.approx(BILLIONS[name], abs=0.01 if "plus" not in name else 0.05)


def test_seven_more_cross_attentions():
    more = counted("perceiver/imagenet").flops - counted("perceiver/imagenet-1-cross").flops
    assert more == 7 * (counted("perceiver/imagenet-2-cross").flops - counted("perceiver/imagenet-1-cross").flops)
    assert more / 1e9 == pytest.approx(302.85, abs=0.005)


def test_configuration_b_prints_the_flops_of_12_layers():
    model = pr.preset("perceiver-io/imagenet-fourier-b")
    twelve = replace(model, encoder=replace(model.encoder, layers=12))
    assert agrees(ledger(twelve, example(twelve, (224, 224, 3))).flops, "213B")


@pytest.mark.parametrize("name", PRINTED)
def test_printed_figures_agree_but_for_the_known_ones(name):
    printed, figures = PRINTED[name], counted(name)
    differ = {
        what
        for what in ("parameters", "flops")
        if getattr(printed, what) is not None and not agrees(getattr(figures, what), getattr(printed, what))
    }
    assert differ == DIFFERENT.get(name, set())
    assert bool(differ) <= bool(printed.remark)


@pytest.mark.parametrize(
    ("name", "inputs", "width"),
    [
        ("perceiver-io/imagenet-fourier", 50_176, 261),
        ("perceiver-io/imagenet-learned", 50_176, 512),
        ("perceiver-io/imagenet-conv", 3_136, 322),
        ("perceiver-io/optical-flow", 182_528, 322),
        ("perceiver-io/multimodal", 52_097, 704),
        ("perceiver-io/audioset", 13_024, 487),
        ("perceiver-io/audioset-mel", 17_344, 487),
        ("perceiver-io/language", 2_048, 768),
        ("perceiver-io/language-sp", 512, 768),
        ("perceiver-io/starcraft", 512, 256),
    ],
)
def test_the_encoder_reads_the_published_inputs(name, inputs, width):
    shapes = {row.name: row.shape for row in counted(name).rows}
    assert shapes["encoder.cross_attention.key_value_norm"] == (1, inputs, width)
