"""The published configurations: their parameter counts are the papers' and the released checkpoints'."""

from __future__ import annotations

import re

import numpy as np
import pytest
from models import small
from support import difference, normal, on, random_parameters

import perceiver_ref as pr
from perceiver_ref.autograd import tree
from perceiver_ref.models.conventions import DIALECTS
from perceiver_ref.models.perceiver_io import PerceiverIO
from perceiver_ref.models.published import PRESETS

PUBLISHED = {
    "perceiver-io/language": 201_108_230,  # deepmind/language-perceiver; "201M" in Perceiver IO, table 1
    "perceiver-io/imagenet-fourier": 48_440_627,  # deepmind/vision-perceiver-fourier; "48.4M" in Perceiver IO
}


@pytest.mark.parametrize("dialect", ["deepmind", "hf", "paper"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_number_of_parameters_is_the_published_one(name: str, dialect: str) -> None:
    assert pr.preset(name, dialect=dialect).count() == PUBLISHED[name]


def test_presets_lists_the_names_that_preset_knows() -> None:
    assert pr.presets() == sorted(PRESETS)
    assert set(PUBLISHED) <= set(pr.presets())
    for name in pr.presets():
        assert pr.preset(name).count() > 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("perceiver-io/langauge", {}, "unknown preset 'perceiver-io/langauge'; did you mean 'perceiver-io/language'?"),
        (
            "perceiver-io/language",
            {"dialect": "deepmimd"},
            "unknown dialect of perceiver-io/language 'deepmimd'; did you mean 'deepmind'?",
        ),
    ],
)
def test_an_unknown_name_gets_the_nearest_and_all_known(name: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(pr.InputError, match=re.escape(message)) as raised:
        pr.preset(name, **options)
    for known in DIALECTS if options else PRESETS:
        assert known in str(raised.value)


def test_a_name_unlike_any_other_gets_no_guess() -> None:
    with pytest.raises(pr.InputError, match=r"unknown preset 'zzz'") as raised:
        pr.preset("zzz")
    assert "did you mean" not in str(raised.value)


def test_the_same_weights_give_other_logits_in_another_dialect(backend: str) -> None:
    """deepmind and hf share every shape, and differ in activation, grid and fully masked rows."""
    images = on(backend, normal(0, 2, 3, 4, 2))
    models = {name: small.image_classifier(DIALECTS[name]) for name in ("deepmind", "hf")}
    p = on(backend, random_parameters(models["hf"]))
    assert tree.flatten(models["deepmind"].parameters()).keys() == tree.flatten(p).keys()
    logits = {name: model.apply(p, images) for name, model in models.items()}
    # the two gelus differ by up to 5e-4 in each of the six MLPs; any rounding is below 1e-12
    assert 1e-6 < difference(logits["deepmind"], logits["hf"]) < 0.1


@pytest.mark.parametrize("option", ["activation", "masked_rows", "grid"])
def test_each_difference_between_the_dialects_shows_on_its_own(backend: str, option: str) -> None:
    from dataclasses import replace

    base = DIALECTS["hf"]
    other = replace(base, **{option: getattr(DIALECTS["deepmind"], option)})
    logits = []
    for conventions in (base, other):
        model = small.image_classifier(conventions)
        p, images = on(backend, [random_parameters(model), normal(0, 2, 3, 4, 2)])
        mask = on(backend, np.array([[True] * 12, [False] * 12]))
        logits.append(model.apply(p, images, mask=mask))
    # the float32 grid is the smallest: 1e-7, in positions (-1, -1/3, 1/3, 1) that float32 cannot hold exactly
    assert difference(logits[0], logits[1]) > 1e-9


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_are_plain_values(name: str) -> None:
    """Equal, hashable and printable, as frozen dataclasses are; not to be changed by accident."""
    model = pr.preset(name)
    assert isinstance(model, PerceiverIO)
    assert model == pr.preset(name)
    assert hash(model) == hash(pr.preset(name))
    assert model != pr.preset(name, dialect="hf")
    with pytest.raises(AttributeError):
        model.encoder = None
