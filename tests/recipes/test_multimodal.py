"""Autoencoding clips: what the clips are by independent computations, the masked label, baselines and the metric."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import hilbert

from perceiver_ref.autograd.backend import to_backend, to_host
from perceiver_ref.models.call import Call
from perceiver_ref.training.recipes import multimodal
from perceiver_ref.training.recipes.moving_shapes import (
    DETUNED,
    FASTEST,
    FRAMES,
    PITCHES,
    RADIUS,
    SAMPLES,
    SHAPES,
    SIDE,
    Clips,
    beats,
    clips,
    drawn,
    turned_back,
)
from perceiver_ref.training.recipes.multimodal import (
    AVERAGED,
    PIXELS,
    Autoencoder,
    Prediction,
    error_removed,
    errors,
    inputs,
    one_hot,
    psnr,
)


@pytest.fixture(scope="module")
def task() -> Autoencoder:
    return Autoencoder(0, 8)


@pytest.fixture(scope="module")
def made() -> Clips:
    return clips(np.random.default_rng(4), 200)


def perfect(true: Clips) -> Prediction:
    return Prediction(true.video, true.audio, one_hot(true.labels))


def test_clips_have_a_video_a_sound_and_a_label(made: Clips) -> None:
    assert (made.video.shape, made.video.dtype) == ((200, FRAMES, SIDE, SIDE, 1), np.float32)
    assert (made.audio.shape, made.audio.dtype) == ((200, SAMPLES, 1), np.float32)
    assert (made.labels.shape, set(made.labels)) == ((200,), set(range(len(SHAPES))))
    assert (made.video.min(), made.video.max()) == (-1, 1)
    assert 0.9 < np.abs(made.audio).max() <= 1


def test_shapes_cover_their_areas_around_their_centres() -> None:
    """Within 3 % of the formulas: a border that falls to 0 within a pixel covers as much on either side of it."""
    areas = {
        "disc": math.pi,
        "ring": math.pi * (1 - 0.4**2),
        "square": 1.7**2,
        "diamond": 2 * 1.2**2,
        "plus": 2 * 2 * 0.7 - 0.7**2,
    }
    rng = np.random.default_rng(0)
    for label, name in enumerate(SHAPES):
        radius = rng.uniform(*RADIUS, 50)
        centres = rng.uniform(5, SIDE - 6, (50, FRAMES, 2))
        video = drawn(np.full(50, label), centres, radius)
        covered = video.sum((2, 3))
        np.testing.assert_allclose(covered.mean(1), areas[name] * radius**2, rtol=0.03, err_msg=name)
        x = (video.sum(2) * np.arange(SIDE)).sum(-1) / covered
        y = (video.sum(3) * np.arange(SIDE)).sum(-1) / covered
        np.testing.assert_allclose(np.stack([x, y], -1), centres, atol=0.1, err_msg=name)  # a tenth of a pixel


def test_shapes_turn_back_at_the_borders() -> None:
    """Against a simulation of 1,000 small steps a frame, that turns round at the border: each turn may cost a step."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        radius, start, speed = rng.uniform(*RADIUS), rng.uniform(0, SIDE - 1), rng.uniform(-3, 3)
        ours = turned_back(start + speed * np.arange(FRAMES), np.array(radius))
        low, high = radius, SIDE - 1 - radius
        position, step = ours[0], speed / 1000
        if not np.isclose(turned_back(np.array(start + 1e-6), np.array(radius)) - position, 1e-6, rtol=0.1):
            step = -step  # it starts beyond the border, on its way back
        for expected in ours:
            assert abs(position - expected) < 0.02
            for _ in range(1000):
                step = -step if not low <= position + step <= high else step
                position += step


def test_shapes_stay_inside(made: Clips) -> None:
    """The outermost pixels are grey at most; a diamond's tips reach 1.2 radii, so it may be cut off."""
    whole = made.video[made.labels != SHAPES.index("diamond")]
    for side in (whole[:, :, 0], whole[:, :, -1], whole[:, :, :, 0], whole[:, :, :, -1]):
        assert side.max() < 1e-6


def test_the_pitch_tells_the_shape(made: Clips) -> None:
    """The highest peak of the spectrum, of 16 times as many samples."""
    spectrum = np.abs(np.fft.rfft(made.audio[..., 0], 16 * SAMPLES))
    heard = spectrum.argmax(-1) / 16
    nearest = np.abs(np.log(heard[:, None] / PITCHES)).argmin(-1)
    np.testing.assert_array_equal(nearest, made.labels)
    away = np.abs(heard / np.take(PITCHES, made.labels) - 1)
    assert 0.5 * DETUNED < away.max() < 3 * DETUNED  # the peak of a few cycles is not at its pitch


def test_the_sound_swells_as_the_shape_moves(made: Clips) -> None:
    """The envelope by the analytic signal, and the speed by the steps of the middle of what is white."""
    white = (made.video[..., 0] + 1) / 2
    covered = white.sum((2, 3))
    x = (white.sum(2) * np.arange(SIDE)).sum(-1) / covered
    y = (white.sum(3) * np.arange(SIDE)).sum(-1) / covered
    speed = np.hypot(np.diff(x), np.diff(y)).max(-1)  # frames at which it turns back show a smaller step
    assert 0.9 * FASTEST < speed.max() < 1.1 * FASTEST
    time = np.arange(SAMPLES) / SAMPLES
    expected = (1 + np.cos(2 * math.pi * beats(speed)[:, None] * time)) / 2
    heard = np.abs(hilbert(made.audio[..., 0]))
    inner = slice(SAMPLES // 16, -SAMPLES // 16)  # the analytic signal of a piece is off at its ends
    alike = [np.corrcoef(a[inner], b[inner])[0, 1] for a, b in zip(heard, expected)]
    others = [np.corrcoef(a[inner], b[inner])[0, 1] for a, b in zip(heard, np.roll(expected, 1, 0))]
    assert np.median(alike) > 0.95 > 0.5 > np.median(others)


def test_training_and_test_clips_are_different_clips(task: Autoencoder) -> None:
    tested = {video.tobytes() for video in task.test.video}
    averaged = {video.tobytes() for video in clips(np.random.default_rng((0, 0, 2)), AVERAGED).video}
    assert len(tested) == len(task.test.labels)
    assert not tested & averaged
    for seed in (0, 1, 2):
        for step in range(5):
            assert not tested & {video.tobytes() for video in Autoencoder(seed, 8).batch(step)["image"]}
    np.testing.assert_array_equal(Autoencoder(7, 2).test.video, task.test.video)


def test_the_label_is_masked_half_the_time_in_training(task: Autoencoder) -> None:
    """Whether the outputs depend on the label given: of 400 clips 200 in the mean, with a deviation of 10."""
    params, true = task.init(), clips(np.random.default_rng(0), 400)
    given = inputs(true)
    other = {**given, "label": np.roll(given["label"], 1, axis=-1)}
    first, second = (
        task.model.apply(params, g, points={"image": np.array([0])}, call=Call(True, key=(1, 2)))
        for g in (given, other)
    )
    seen = (np.abs(first["audio"] - second["audio"]) > 0).any(-1)
    assert 150 < seen.sum() < 250


def test_the_label_is_always_masked_at_evaluation(task: Autoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
    params = task.init()
    before = task.predicted(params)
    lying = Autoencoder(0, 8)
    vars(lying)["test"] = task.test._replace(labels=(task.test.labels + 1) % len(SHAPES))
    after = lying.predicted(params)
    for ours, theirs in zip(before, after):
        np.testing.assert_array_equal(ours, theirs)


def test_decoding_chosen_pixels_is_decoding_all_and_choosing(task: Autoencoder, backend: str) -> None:
    """Training decodes single pixels, at the places that they have in the whole. Sums in another order: 1e-4."""
    params, batch = task.tested.init(2, backend=backend), task.batch(1)
    given = {name: to_backend(batch[name], backend) for name in ("audio", "image", "label")}
    every = task.tested.apply(params, given)
    some = task.tested.apply(params, given, points={"image": batch["points"]})
    assert len(set(batch["points"])) == PIXELS
    np.testing.assert_allclose(to_host(some["image"]), to_host(every["image"])[:, batch["points"]], atol=1e-4)
    for name in ("audio", "label"):
        np.testing.assert_allclose(to_host(some[name]), to_host(every[name]), atol=1e-4)


def test_the_loss_is_that_of_the_pixels_decoded(task: Autoencoder) -> None:
    """A model whose outputs are all 0: the loss is the mean square of what it should give, and log 5 of the label."""
    params, batch = task.init(), task.batch(0)
    for name in ("audio", "image", "label"):
        linear = params["output"][name]["linear"]
        linear["weight"], linear["bias"] = np.zeros_like(linear["weight"]), np.zeros_like(linear["bias"])
    total, losses = task.loss(params, batch, Call(True, key=(0, 0)))
    pixels = batch["image"].reshape(8, -1)[:, batch["points"]].astype(np.float64)
    expected = {
        "image": np.square(pixels).mean(),
        "audio": np.square(batch["audio"].astype(np.float64)).mean(),
        "label": math.log(len(SHAPES)),
    }
    for name, value in expected.items():
        assert float(losses[name]) == pytest.approx(value, rel=1e-5)
    assert float(total) == pytest.approx(sum(multimodal.WEIGHTS[n] * v for n, v in expected.items()), rel=1e-5)


def test_a_perfect_prediction_removes_all_error(task: Autoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Autoencoder, "predicted", lambda self, params: perfect(self.test))
    numbers = task.evaluate({})
    assert numbers["error_removed"] == 1
    assert numbers["video_psnr"] == numbers["audio_psnr"] == math.inf
    assert numbers["label_accuracy"] == 1


def test_the_metric_is_the_worst_of_the_three(task: Autoencoder) -> None:
    true, mean = task.test, errors(task.mean, task.test)
    whole = perfect(true)
    halfway = {  # half of the difference is a quarter of its square
        "video": whole._replace(video=(true.video + task.mean.video) / 2),
        "audio": whole._replace(audio=(true.audio + task.mean.audio) / 2),
    }
    for prediction in halfway.values():
        assert error_removed(errors(prediction, true), mean) == pytest.approx(0.75, abs=1e-5)
    wrong = one_hot((true.labels + (np.arange(len(true.labels)) % 4 == 0)) % len(SHAPES))
    frequent = np.mean(true.labels != task.mean.logits.argmax())
    removed = error_removed(errors(whole._replace(logits=wrong), true), mean)
    assert removed == pytest.approx(1 - 0.25 / frequent)
    assert error_removed(mean, mean) == 0


def test_signal_to_noise_ratios_are_of_the_whole_span() -> None:
    assert psnr(0.04) == pytest.approx(20)
    assert psnr(4.0) == pytest.approx(0)
    assert psnr(0.0) == math.inf


def test_baselines_are_their_definitions(task: Autoencoder) -> None:
    seen, true = clips(np.random.default_rng((0, 0, 2)), AVERAGED), task.test
    counts = [int((seen.labels == k).sum()) for k in range(len(SHAPES))]
    mean = {
        "video": float(np.mean([np.square(v - sum(seen.video) / AVERAGED).mean() for v in true.video])),
        "audio": float(np.mean([np.square(a - sum(seen.audio) / AVERAGED).mean() for a in true.audio])),
        "label": float(np.mean([counts[k] != max(counts) for k in true.labels])),
    }
    of_class = [
        [sum(part[seen.labels == k]) / counts[k] for k in range(len(SHAPES))] for part in (seen.video, seen.audio)
    ]
    video = np.mean([np.square(v - of_class[0][k]).mean() for v, k in zip(true.video, true.labels)])
    audio = np.mean([np.square(a - of_class[1][k]).mean() for a, k in zip(true.audio, true.labels)])
    expected = min(1 - video / mean["video"], 1 - audio / mean["audio"])
    assert task.baselines() == {
        "mean video and sound, most frequent label": 0.0,
        "true label, mean video and sound of its clips": pytest.approx(expected, abs=1e-5),
    }
    assert errors(task.mean, true) == pytest.approx(mean, rel=1e-4)
    row = multimodal.RECIPES[0]
    assert not any(row.reached(value, quick=True) for value in task.baselines().values())
    assert not row.reached(task.evaluate(task.init())[row.metric], quick=True)


def test_clips_are_described_and_drawn(task: Autoencoder, tmp_path: Path) -> None:
    written = task.show(task.init(), tmp_path)
    text = written[0].read_text("utf-8")
    assert text.count("test clip") == 3
    assert SHAPES[task.test.labels[0]] in text.splitlines()[0]
    assert "@" in text
    assert all(path.is_file() for path in written)
