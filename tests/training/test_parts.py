"""The parts of training on their own: settings, threads, progress, pictures."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from perceiver_ref.autograd import optim, threads
from perceiver_ref.training import pictures, progress
from perceiver_ref.training.metrics import Metrics
from perceiver_ref.training.recipes import Settings

cpu_threads = sys.modules["perceiver_ref.autograd.kernels.cpu.threads"]  # the package's `threads` is the function


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "lamb"])
def test_settings_name_an_optimizer(optimizer: str) -> None:
    made = Settings(10, 1, 0.1, optimizer, "constant", weight_decay=0.5, max_norm=None).make_optimizer(
        lambda path: path == "w"
    )
    params = {"w": np.full((2, 2), 3, np.float32), "b": np.full(2, 3, np.float32)}
    still = {name: np.zeros_like(p) for name, p in params.items()}
    after, _ = made.step(params, still, made.init(params))
    assert (after["w"] < 3).all()  # decayed
    np.testing.assert_array_equal(after["b"], params["b"])


def test_settings_name_a_schedule() -> None:
    rates = {kind: Settings(100, 1, 0.5, schedule=kind, warmup=10).rate() for kind in ("constant", "warmup_cosine")}
    assert [rates["constant"](i) for i in (0, 99)] == [0.5, 0.5]
    assert [rates["warmup_cosine"](i) for i in (0, 5, 10, 100)] == [0.0, 0.25, 0.5, 0.0]
    flat = Settings(100, 1, 0.5, schedule="flat_cosine", warmup=10).rate()
    assert [flat(i) for i in (0, 10, 100)] == [0.5, 0.5, 0.0]
    assert flat(55) == pytest.approx(optim.cosine(0.5, 0.0, 90)(45))


def test_options_reach_the_optimizer() -> None:
    with pytest.raises(TypeError, match="b3"):
        Settings(10, 1, 0.1, options={"b3": 0.5}).make_optimizer(lambda path: True)


def test_blas_threads_are_set_and_put_back() -> None:
    found = cpu_threads.control()
    if found is None:
        pytest.skip("this NumPy has another BLAS")
    read = found.read
    before = read()
    with threads(before + 1):
        assert read() == before + 1
    assert read() == before


def test_another_blas_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found = cpu_threads.control()
    before = found.read() if found else 0
    with monkeypatch.context() as patch:
        patch.setattr(cpu_threads, "control", lambda: None)
        with threads(before + 1):
            assert found is None or found.read() == before
    assert found is None or found.read() == before


def test_plain_lines_have_rate_loss_and_time_left(capsys, monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    shown = progress.Progress(50, 10)  # 10 steps were made by an earlier process
    for step in range(11, 51):
        now[0] += 0.5
        shown.step(step)
        if step % 2 == 0:
            shown.log({"step": step, "loss": 1 / step, **({"evaluation": {"error": 0.5}} if step == 26 else {})})
    shown.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step 12/50  loss 0.0833  2.0 steps/s  0:19 left"
    assert "step 26/50  loss 0.0385  2.0 steps/s  0:12 left  error 0.5" in lines
    assert lines[-1] == "step 50/50  loss 0.0200  2.0 steps/s  0:00 left"
    assert len(lines) < 14  # two seconds apart


def test_a_bar_where_a_terminal_sees_it(capsys, monkeypatch) -> None:
    pytest.importorskip("tqdm", reason="needs the extra progress")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    shown = progress.Progress(50, 10)
    shown.step(11)
    shown.log({"step": 11, "loss": 0.25})
    shown.step(50)
    shown.close()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "50/50" in printed.err
    assert "loss 0.25" in printed.err


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (125, "2:05"), (3723, "1:02:03")])
def test_durations(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_lines_after_the_checkpoint_and_broken_ones_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\nnoise\n[3]\n{"step": 3}\n{"st')
    kept = Metrics(tmp_path, 2)
    kept.write({"step": 3, "loss": 0.5})
    kept.close()
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3, "loss": 0.5}\n'
    assert [line["step"] for line in kept.lines] == [1, 2, 3]


LINES = [
    {"step": 1, "stage": "train", "loss": 2.0},
    {"step": 2, "stage": "train", "loss": 1.0, "evaluation": {"test_accuracy": 0.5}},
]
DRAWN = pictures.Drawn("digits", "test_accuracy", 0.97, {"nearest neighbour": 0.9})


def test_curves_and_maps_are_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra plot")
    (curves,) = pictures.curves(LINES, DRAWN, tmp_path)
    maps = [np.zeros((4, 4))] * 2
    (attention,) = pictures.attention_maps([np.ones((4, 4))], [maps], ["input", "a", "b"], tmp_path / "maps.png")
    for path in (curves, attention):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_curves_show_the_runs_own_threshold_and_its_stages(monkeypatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra plot")
    kept = []
    monkeypatch.setattr(pictures, "save", lambda made, path: kept.append(made) or path)
    later = [{"step": 3, "stage": "tune", "loss": 0.9, "evaluation": {"test_accuracy": 0.7}}]
    pictures.curves(LINES + later, DRAWN, tmp_path)
    left, right = kept[0].axes
    assert kept[0].get_suptitle() == "digits"
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["train", "tune"]
    shown = [text.get_text() for text in right.get_legend().get_texts()]
    assert shown == ["expected 0.97", "nearest neighbour 0.9"]
    assert any(line.get_ydata()[0] == 0.97 for line in right.lines)
    kept[0].canvas.draw()
    ticks = [label.get_text() for label in left.get_yticklabels() if label.get_text()]
    assert len(ticks) >= 3  # within one decade
    assert all("10^" not in tick for tick in ticks)


def test_maps_say_what_was_true_and_what_predicted(monkeypatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra plot")
    kept = []
    monkeypatch.setattr(pictures, "save", lambda made, path: kept.append(made) or path)
    maps = [[np.eye(4), np.zeros((4, 4))]] * 2
    pictures.attention_maps([np.ones((4, 4))] * 2, maps, ["input", "a", "b"], tmp_path / "m.png", [(3, 3), (5, 8)])
    labels = [axis.get_ylabel() for axis in kept[0].axes if axis.get_ylabel()]
    assert labels == ["true 3\npredicted 3", "true 5\npredicted 8"]
    assert len(kept[0].axes) == 2 * 3 + 2  # a colour bar a row


def test_lines_fit_80_columns(capsys) -> None:
    shown = progress.Progress(4000, 0)
    found = {f"evaluation_of_number_{i}": 0.123456 for i in range(5)}
    shown.log({"step": 4000, "loss": 0.25, "evaluation": found}, 3 << 30)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "3.0 GiB" in lines[0]
    assert sum(line.count("evaluation_of_number_") for line in lines) == 5


def test_without_matplotlib_there_are_no_pictures(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert pictures.curves(LINES, DRAWN, tmp_path) == []
    assert pictures.attention_maps([np.ones((4, 4))], [[np.ones((4, 4))]], ["a", "b"], tmp_path / "maps.png") == []
    assert not list(tmp_path.iterdir())
