"""`flamingo`: what each stage trains, gates open and closed, the loss, the metric and the ideal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from perceiver_ref.autograd import tree
from perceiver_ref.autograd.backend import to_backend, to_host
from perceiver_ref.models.call import Call
from perceiver_ref.models.flamingo import Flamingo, generate
from perceiver_ref.models.flamingo.prompts import IMAGE
from perceiver_ref.training.loop import training_step
from perceiver_ref.training.recipe import Settings
from perceiver_ref.training.recipes import flamingo
from perceiver_ref.training.recipes.episodes import LONGEST, WORD, episodes, interleaved, known, prompts
from perceiver_ref.training.recipes.flamingo import CaptionTask, LanguageTask, VisionTask, caption_loss, ideal, table

STEP = Settings(steps=2, batch_size=2, learning_rate=1e-2)


@pytest.fixture(scope="module")
def language() -> dict:
    return LanguageTask(0, 2).init(VisionTask(0, 2).init())


@pytest.fixture(scope="module")
def ungated(language: dict) -> dict:
    return CaptionTask(0, 2, "ungated", 4).init(language)


@pytest.fixture(scope="module")
def gated(ungated: dict) -> dict:
    return CaptionTask(0, 2, "gated", 4).init(ungated)


def test_both_runs_start_alike_but_for_the_gates(gated: dict) -> None:
    with_gates, without = tree.flatten(gated["gated"]), tree.flatten(gated["ungated"])
    assert list(with_gates) == list(without)
    for path in with_gates:
        if path.endswith("_gate"):
            assert (with_gates[path] == 0).all()
            assert (np.tanh(without[path]) == 1).all()
        else:
            np.testing.assert_array_equal(with_gates[path], without[path])


def test_closed_gates_leave_the_language_model_as_it_is(gated: dict, backend: str) -> None:
    task = CaptionTask(0, 2, "gated", 4)
    given = episodes(np.random.default_rng(0), 3)
    ids = to_backend(interleaved(given.captions), backend)
    images = to_backend(given.images[:, :, None], backend)
    params = tree.map(lambda p: to_backend(p, backend), gated)
    alone = to_host(task.model.language.apply(params["frozen"]["language"], ids))
    closed = to_host(task.model.apply(task.chosen(params, "gated"), ids, images))
    opened = to_host(task.model.apply(task.chosen(params, "ungated"), ids, images))
    np.testing.assert_array_equal(closed, alone)
    assert np.abs(opened - alone).max() > 0.1


@pytest.mark.parametrize("name", ["ungated", "gated"])
def test_only_the_stages_resampler_and_gated_layers_are_trained(name: str, gated: dict) -> None:
    task = CaptionTask(0, 2, name, 4)
    optimizer = STEP.make_optimizer(task.decays)
    params = tree.flatten(gated if name == "gated" else {k: v for k, v in gated.items() if k != "gated"})
    structure = gated if name == "gated" else {k: v for k, v in gated.items() if k != "gated"}
    state = optimizer.init({path: p for path, p in params.items() if task.trainable(path)})
    step = training_step(task, structure, optimizer, "numpy")
    now = dict(params)
    for number in range(3):  # with closed gates, what is behind them learns from the second step on
        now, state, _, _ = step(now, state, task.batch(number), Call(training=True, key=(0, number)))
    changed = {path for path in params if not np.array_equal(now[path], params[path])}
    own = {path for path in params if path.startswith(f"{name}/")}
    gates = {path for path in own if path.endswith("_gate")}
    assert changed == (own if name == "gated" else own - gates)


def test_the_loss_is_the_mean_over_what_is_not_an_image_tag() -> None:
    rng = np.random.default_rng(0)
    ids = interleaved(episodes(rng, 2).captions)
    logits = rng.standard_normal((*ids.shape, 300)).astype(np.float32)
    losses = []
    for row, scores in zip(ids, logits.astype(float)):
        for place in range(len(row) - 1):
            if row[place + 1] != IMAGE:
                p = np.exp(scores[place] - scores[place].max())
                losses.append(-np.log(p[row[place + 1]] / p.sum()))
    assert len(losses) == 2 * LONGEST * 3
    assert float(caption_loss(logits, ids)) == pytest.approx(np.mean(losses), rel=1e-5)  # float32


def test_rule_followed_is_one_for_who_copies_the_kind(language: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the language model that says, of a shape seen before, the first word of the same kind."""

    def copying(self, p, ids):
        logits = np.zeros((*ids.shape, WORD + 16), np.float32)
        for row, scores in zip(ids, logits[:, -1]):
            for at in np.flatnonzero(row[:-1] == row[-1]):
                scores[WORD + (row[at + 1] - WORD) // 4 * 4] = 1
        return logits

    monkeypatch.setattr(type(LanguageTask(0, 2).model), "apply", copying)
    assert LanguageTask(0, 2).evaluate(language) == {"rule_followed": 1}


def said(task: CaptionTask, captions: np.ndarray) -> np.ndarray:
    """Logits that give these captions (E, K, 2) of the test episodes wherever their words are asked for."""
    logits = np.zeros((len(captions), 1 + 4 * LONGEST, WORD + 16), np.float32)
    for number in range(2):
        np.put_along_axis(logits[:, 1 + number :: 4][:, :LONGEST], captions[..., number, None], 1, -1)
    return logits


def test_accuracy_is_of_both_words(gated: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    task = CaptionTask(0, 2, "gated", 8)
    answers = task.data.captions.copy()
    monkeypatch.setattr(Flamingo, "apply", lambda *_: said(task, answers))
    assert set(task.evaluate(gated).values()) == {1}
    answers[:4, 8, 1] ^= 1  # another word
    answers[:2, 2, 0] ^= 1
    want = {0: 1, 2: 0.75, 4: 1, 8: 0.5}
    assert task.accuracies(gated, "gated") == {f"accuracy_{shots}_shots": share for shots, share in want.items()}


@pytest.mark.parametrize("shots", [0, 2])
def test_a_caption_is_right_where_generation_gives_it(shots: int, gated: dict) -> None:
    """Untrained, so that what is right is by luck: of few words."""
    task = CaptionTask(0, 2, "ungated", 48)
    params = task.chosen(gated, "ungated")
    params = tree.map(np.copy, params)
    params["frozen"]["language"]["output"]["bias"][WORD:] += 5  # nothing but words
    whole = {"frozen": params["frozen"], "ungated": params["trained"]}
    cut = task.data._replace(scenes=task.data.scenes[:, : shots + 1], images=task.data.images[:, : shots + 1])
    made = np.array(generate(task.model, params, prompts(cut, shots), most=2))
    right = (made == cut.captions[:, -1]).all(-1)
    np.testing.assert_array_equal(task.right(whole, "ungated")[:, shots], right)


def test_the_encoder_learns_each_of_four_values() -> None:
    task = VisionTask(0, 3)
    params = task.init()
    batch = task.batch(0)
    logits = task.logits(params, batch["images"])
    assert (logits.shape, batch["scenes"].shape) == ((3, 4, 4), (3, 4))
    features = task.model.apply(params["vision"], batch["images"])[:, 0, 0].mean(1)
    weight, bias = params["head"]["weight"], params["head"]["bias"]
    np.testing.assert_allclose(logits.reshape(3, 16), features @ weight + bias, atol=1e-5)  # float32 sums of 64


def test_baselines_are_expected_accuracies() -> None:
    task = CaptionTask(0, 2, "gated", 16)
    shown = np.mean([row[-1] in row[:-1] for row in task.data.scenes[..., 0].tolist()])
    both = shown + (1 - shown) / 3
    want = {"image without examples": 1 / 3, "examples without image": both / 16, "ideal": both}
    assert task.baselines() == pytest.approx(want, rel=1e-12)
    assert ideal(task.data, 0) == pytest.approx(1 / 3)
    assert not known(task.data)[:, 0].any()


def test_it_shows_the_few_shot_table_and_an_episode(gated: dict, tmp_path: Path) -> None:
    task = CaptionTask(0, 2, "gated", 4)
    lines = [{"step": 10 * i, "stage": stage, "loss": 1.0} for i, stage in enumerate(("language", "ungated", "gated"))]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    written = task.show(gated, tmp_path)
    assert {path.name for path in written} <= {"few_shot.txt", "gates.png"}
    text = (tmp_path / "few_shot.txt").read_text()
    assert text.startswith(table(task.evaluate(gated), task.data))
    assert [line.split()[0] for line in text.splitlines()[1:5]] == ["0", "2", "4", "8"]
    assert text.count("<image>") == LONGEST
    assert "attention 0.00, 0.00, 0.00" in text


def test_stages_are_the_language_model_then_both_runs_with_equal_settings() -> None:
    stages = flamingo.RECIPES[0].stages
    assert [stage.name for stage in stages] == ["vision", "language", "ungated", "gated"]
    assert stages[2].settings == stages[3].settings
    assert stages[2].quick.learning_rate == stages[3].quick.learning_rate
