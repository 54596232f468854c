"""Episodes of `flamingo`: scenes as drawn, captions by the rule, what examples give away, and tests kept apart."""

from __future__ import annotations

import numpy as np
import pytest

from perceiver_ref.models.flamingo.prompts import EOC, IMAGE
from perceiver_ref.models.inputs.bytes import BOS
from perceiver_ref.training.recipes.episodes import (
    KINDS,
    LONGEST,
    SHAPES,
    WORD,
    WORDS,
    Episodes,
    episodes,
    interleaved,
    known,
    prompts,
    texts,
    words_of,
)

COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}


@pytest.fixture(scope="module")
def given() -> Episodes:
    return episodes(np.random.default_rng(3), 40)


def told(given: Episodes, episode: int, number: int) -> tuple[str, str]:
    """The caption in words."""
    shape, word = words_of(given.captions[episode, number]).split()
    return shape, word


def test_sizes_and_dtypes(given: Episodes) -> None:
    assert (given.images.shape, given.images.dtype) == ((40, LONGEST, 8, 8, 3), np.float32)
    assert given.scenes.shape == (40, LONGEST, 4)
    assert given.rules.shape == (40, len(SHAPES))
    assert len(set(WORDS)) == len(WORDS) == 16


def test_captions_say_the_shape_and_what_the_rule_says_of_it(given: Episodes) -> None:
    kinds = list(KINDS)
    for episode in range(40):
        for number in range(LONGEST):
            shape, word = told(given, episode, number)
            values = given.scenes[episode, number]
            kind = kinds[given.rules[episode, SHAPES.index(shape)]]
            assert shape == SHAPES[values[0]]
            assert word == KINDS[kind][values[1 + kinds.index(kind)]]


def test_images_show_what_scenes_are(given: Episodes) -> None:
    """Found again in the pixels: colours by their mean, places by where colours are, grounds by what is grey."""
    for scenes, images in zip(given.scenes, given.images):
        for (shape, colour, place, ground), image in zip(scenes.tolist(), images):
            coloured = image.max(-1) - image.min(-1) > 1
            rows, columns = np.nonzero(coloured)
            mean = image[coloured].mean(0) / 2 + 0.5
            np.testing.assert_allclose(mean, list(COLOURS.values())[colour], atol=0.15)  # noise of 0.05
            assert KINDS["place"][place] == ("north", "south")[rows.min() // 4] + ("west", "east")[columns.min() // 4]
            assert len(rows) == {"block": 9, "ring": 8, "cross": 5, "bar": 3}[SHAPES[shape]]
            lit = image.mean(-1) > -0.1
            y, x = np.indices(lit.shape)
            patterns = {
                "plain": lit & False,
                "striped": y % 2 == 1,
                "dotted": (y % 2 == 1) & (x % 2 == 1),
                "checked": (y + x) % 2 == 1,
            }
            assert (lit == patterns[KINDS["ground"][ground]])[~coloured].mean() > 0.97


def test_the_same_seed_gives_the_same_episodes(given: Episodes) -> None:
    for a, b in zip(given, episodes(np.random.default_rng(3), 40)):
        np.testing.assert_array_equal(a, b)


def test_tests_have_rules_and_scenes_of_their_own() -> None:
    training, tests = (episodes(np.random.default_rng(0), 3000, test=test) for test in (False, True))
    for name, every, kept in (("rules", 81, 16), ("scenes", 256, 32)):
        seen, held = ({tuple(row) for row in getattr(part, name).reshape(-1, 4).tolist()} for part in (training, tests))
        assert not seen & held
        assert (len(seen), len(held)) == (every - kept, kept)


def test_texts_are_of_training_rules_and_scenes() -> None:
    training = episodes(np.random.default_rng(0), 3000)
    allowed = {tuple(rule) for rule in training.rules.tolist()}
    for row in texts(np.random.default_rng(1), 200):
        rule: dict[int, int] = {}
        for shape, word in row[1:].reshape(LONGEST, 4)[:, 1:3] - WORD:
            kind = (word - 4) // 4
            assert rule.setdefault(shape, kind) == kind  # one rule holds throughout
        assert any(all(allowed_rule[s] == k for s, k in rule.items()) for allowed_rule in allowed)


def test_the_rule_is_identifiable_from_examples_exactly_where_they_show_the_shape(given: Episodes) -> None:
    """Of all 81 rules, those that agree with the examples agree on the last caption just where it is known."""
    every = np.indices((3, 3, 3, 3)).reshape(4, -1).T
    for shots in (0, 2, 4, 8):
        for scenes, rule, is_known in zip(given.scenes, given.rules, known(given)[:, shots]):
            shapes = scenes[: shots + 1, 0]
            agree = [r for r in every if (r[shapes[:-1]] == rule[shapes[:-1]]).all()]
            assert (len({r[shapes[-1]] for r in agree}) == 1) == is_known


def test_texts_interleave_tags_captions_and_ends(given: Episodes) -> None:
    ids = interleaved(given.captions)
    assert ids.shape == (40, 1 + 4 * LONGEST)
    assert ids[0, :6].tolist() == [BOS, IMAGE, *given.captions[0, 0], EOC, IMAGE]
    assert ids[0, -1] == EOC


@pytest.mark.parametrize("shots", [0, 2, 8])
def test_prompts_end_where_the_last_caption_is_asked_for(given: Episodes, shots: int) -> None:
    for number, prompt in enumerate(prompts(given, shots)):
        assert (prompt.ids[0], prompt.ids[-1]) == (BOS, IMAGE)
        assert len(prompt.media) == (prompt.ids == IMAGE).sum() == shots + 1
        np.testing.assert_array_equal(prompt.media[-1], given.images[number, -1])
        np.testing.assert_array_equal(prompt.ids[1:-1].reshape(shots, 4)[:, 1:3], given.captions[number, :shots])
