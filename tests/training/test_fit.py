"""`fit` on data of one's own: what it computes, against definitions by hand; stopped and gone on with; every option."""

from __future__ import annotations

import csv
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.command import CONFIG, weights

import perceiver_ref as pr
from perceiver_ref.autograd import ops, optim, tree
from perceiver_ref.models.decoder import classification_decoder
from perceiver_ref.models.encoder import Encoder
from perceiver_ref.models.inputs import ConvStem, GridInput
from perceiver_ref.models.module import Module, Parameter, ones
from perceiver_ref.models.positions import FourierPositions
from perceiver_ref.training import Fitted, fit
from perceiver_ref.training.interrupts import Interrupted
from perceiver_ref.weights.checkpoints import read_checkpoint
from perceiver_ref.weights.formats.npz import read_npz, write_npz

RNG = np.random.default_rng(11)
X = RNG.normal(size=(53, 5, 7)).astype(np.float32)
Y = (X[:, 0].sum(-1) > 0).astype(np.int64)


def classifier(**options: Any) -> pr.PerceiverIO:
    return pr.PerceiverIO(Encoder(7, 3, 10, layers=1, self_heads=5, **options), decoder=classification_decoder(10, 2))


@dataclass(frozen=True)
class Line(Module):
    """y = x w."""

    inputs: int

    def parameters(self) -> Any:
        return {"weight": Parameter((self.inputs, 1), ones)}

    def apply(self, p: Any, x: Any) -> Any:
        return ops.matmul(x, p["weight"])


def quick(model: Any = None, loss: Any = "cross_entropy", **options: Any) -> Fitted:
    given = {"train": (X, Y), "steps": 12, "batch": 8, "quiet": True, "log_every": 1, "save_every": 5}
    return fit(model or classifier(), loss, **{**given, **options})


def losses(found: Fitted) -> np.ndarray:
    return np.array([line["loss"] for line in found.history])


def assert_same(found: Any, expected: Any) -> None:
    ours, theirs = tree.flatten(found), tree.flatten(expected)
    assert list(ours) == list(theirs)
    for path, array in theirs.items():
        assert ours[path].tobytes() == array.tobytes(), path


def test_descent_by_hand() -> None:
    """Plain descent on a line: w' = w - rate 2 X^T (X w - y) / n, in order, with a last batch that is smaller."""
    x, y = X[:, 0].astype(np.float64), X[:, 0].astype(np.float64) @ np.arange(7.0)
    w = np.ones(7)
    expected = []
    for _ in range(2):
        for start in range(0, 53, 20):
            some, wanted = x[start : start + 20], y[start : start + 20]
            error = some @ w - wanted
            expected.append((error**2).mean())
            w = w - 0.01 * 2 * some.T @ error / len(some)
    found = fit(
        Line(7),
        lambda params, batch: ops.squared_error(ops.matmul(batch["x"], params["weight"])[:, 0], batch["y"]),
        train={"x": x, "y": y},
        epochs=2,
        batch=20,
        shuffle=False,
        optimizer=optim.sgd(0.01),
        log_every=1,
        quiet=True,
    )
    assert found.steps == 6
    np.testing.assert_allclose(losses(found), expected, rtol=1e-5)  # float32, some ten roundings
    np.testing.assert_allclose(found.params["weight"][:, 0], w, rtol=1e-5)


def test_it_learns_and_evaluates() -> None:
    found = quick(steps=60, validation=0.2, metrics=["accuracy"], learning_rate=1e-2)
    first = found.history[0]["loss"]
    assert found.evaluation["loss"] < first
    held = {line["evaluation"]["loss"] for line in found.history if "evaluation" in line}
    assert found.evaluation["loss"] == min(held)  # the best, not the last
    outputs = found.predict(X)
    assert outputs.shape == (53, 2)
    np.testing.assert_allclose(outputs, classifier().apply(found.params, X), rtol=1e-5, atol=1e-6)


def stop_at(step: int):
    """Ctrl-C while the batch of this step is made."""
    made = iter(range(1000))

    def augment(batch: dict, rng: np.random.Generator) -> dict:
        if next(made) == step:
            os.kill(os.getpid(), signal.SIGINT)
        return noisy(batch, rng)

    return augment


def noisy(batch: dict, rng: np.random.Generator) -> dict:
    return {**batch, "inputs": batch["inputs"] + rng.normal(size=batch["inputs"].shape).astype(np.float32)}


@pytest.mark.parametrize("step", [0, 4, 6, 11])
def test_stopped_and_gone_on_with_is_the_same_run(tmp_path: Path, step: int) -> None:
    options = {"validation": 0.2, "average": 0.9, "evaluate_every": 3, "accumulate": 2}
    whole = quick(out=tmp_path / "whole", augment=noisy, **options)
    with pytest.raises(
        Interrupted, match=rf"after step {step + 1}, which is saved; go on with: fit\(..., resume=True\)"
    ):
        quick(out=tmp_path / "run", augment=stop_at(step), **options)
    found = quick(out=str(tmp_path / "run"), resume=True, augment=noisy, **options)
    assert_same(found.params, whole.params)
    assert found.evaluation == whole.evaluation
    for name in ("metrics.jsonl", "model.npz"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    with pytest.raises(pr.InputError, match=r"holds a run; go on with resume=True, or choose another folder"):
        quick(out=tmp_path / "run", augment=noisy, **options)
    with pytest.raises(pr.InputError, match="of another run"):
        quick(out=tmp_path / "run", resume=True, augment=noisy, **{**options, "learning_rate": 0.5})


def test_the_folder_holds_a_model_and_a_result(tmp_path: Path) -> None:
    found = quick(out=tmp_path, validation=(X[:9], Y[:9]), evaluate_every=4, task={"kind": "mine"})
    model, params = pr.load(tmp_path / "model.npz")
    assert model == classifier()
    assert_same(params, found.params)
    with pytest.raises(pr.InputError, match=r"is a checkpoint of a training run; its model is model\.npz"):
        pr.load(tmp_path / "checkpoint.npz")
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["metric"], result["value"]) == ("loss", found.evaluation["loss"])
    assert {path.name for path in found.files} == set(result["files"]) >= {"model.npz"}
    assert json.loads(str(read_npz(tmp_path / "model.npz")["meta"]))["task"] == {"kind": "mine"}
    own = fit(Line(7), by_hand, train={"x": X[:, 0], "y": X[:, 0, :1]}, steps=2, out=tmp_path / "line", quiet=True)
    assert own.files[0].name == "params.npz"  # of a class that a file cannot name
    assert_same(read_npz(own.files[0]), own.params)


def by_hand(params: Any, batch: Any) -> Any:
    return ops.squared_error(ops.matmul(batch["x"], params["weight"]), batch["y"])


@pytest.mark.parametrize("accumulate", [2, 3, 8])
def test_parts_of_a_batch_are_the_batch(accumulate: int) -> None:
    """Within rounding: the batches of 8 and a last one of 5 rows, of three and eight unequal parts."""
    np.testing.assert_allclose(losses(quick(accumulate=accumulate)), losses(quick()), rtol=2e-5)


def test_early_stopping_gives_the_best(tmp_path: Path) -> None:
    values = iter([5.0, 3.0, 4.0, 3.5, 3.25, 1.0])
    seen = []

    def validation(params: Any) -> dict[str, float]:
        seen.append(tree.map(np.array, params))
        return {"error": next(values)}

    found = quick(steps=100, validation=validation, monitor="error", patience=3, evaluate_every=2, out=tmp_path)
    assert (found.steps, found.best, found.evaluation) == (10, 4, {"error": 3.0})
    assert_same(found.params, seen[1])
    assert_same(pr.load(tmp_path / "model.npz")[1], seen[1])
    assert_same(pr.load(tmp_path / "last.npz")[1], seen[4])
    again = quick(
        steps=100, validation=validation, monitor="error", patience=3, evaluate_every=2, out=tmp_path, resume=True
    )
    assert (again.steps, again.best) == (10, 4)  # over, with nothing evaluated again
    assert_same(again.params, seen[1])
    assert next(values) == 1.0


def test_a_higher_number_may_be_better() -> None:
    values = iter([1.0, 3.0, 2.0])
    found = quick(validation=lambda p: {"hits": next(values)}, monitor="hits", better="higher", evaluate_every=4)
    assert (found.best, found.evaluation["hits"]) == (8, 3.0)


def test_the_moving_average_is_what_is_evaluated() -> None:
    """With descent on a line: a' = a + (1 - d) (w - a), by hand."""
    x, y = np.ones((4, 1)), np.full((4, 1), 3.0)
    w, a = 1.0, 1.0
    for _ in range(5):
        w -= 0.1 * 2 * (w - 3)
        a += (1 - 0.75) * (w - a)
    found = fit(Line(1), by_hand, train={"x": x, "y": y}, steps=5, batch=4, optimizer=optim.sgd(0.1), average=0.75,
                quiet=True)  # fmt: skip
    np.testing.assert_allclose(found.params["weight"], [[a]], rtol=1e-6)


def test_float16_with_a_scaled_loss() -> None:
    """As float32 up to float16's rounding, 2^-11, some ten times over; by descent, which does not divide by it."""
    descent = optim.sgd(0.05)
    with pytest.warns(UserWarning, match="float16 on a CPU is slower"):
        mixed = quick(precision="mixed", steps=6, optimizer=descent, loss_scale=256.0)
    np.testing.assert_allclose(losses(mixed), losses(quick(steps=6, optimizer=descent)), rtol=5e-3)
    assert {p.dtype for _, p in tree.leaves(mixed.params)} == {np.dtype(np.float32)}


def test_an_overflow_leaves_the_update_out_and_halves_the_scale() -> None:
    made = optim.Scaled(optim.sgd(1.0), start=8.0, after=2)
    params = {"w": np.ones(2, np.float32)}
    state = made.init(params)
    same, state = made.step(params, {"w": np.array([np.inf, 1], np.float32)}, state)
    assert_same(same, params)
    assert made.scale(state) == 4.0
    for _ in range(2):
        params, state = made.step(params, {"w": np.full(2, 4, np.float32)}, state)  # 1 after the scale
    np.testing.assert_array_equal(params["w"], [-1, -1])
    assert made.scale(state) == 8.0


def test_what_is_trained_can_be_chosen() -> None:
    before, after = classifier().init(0), quick(trainable="decoder").params
    moved = {path for path, p in tree.leaves(after) if (p != tree.flatten(before)[path]).any()}
    assert moved
    assert all(path.startswith("decoder/") for path in moved)
    assert quick(trainable=lambda path: path.endswith("weight")).steps == 12


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ("decodr", "unknown beginning of trainable parameters 'decodr'; did you mean 'decoder'"),
        (["decoder", "encoder/latent"], "unknown beginning .*'encoder/latent'; did you mean 'encoder/latents'"),
        ("", "unknown beginning"),
        ([], "chooses none of the parameters"),
        (lambda path: False, "chooses none of the parameters"),
    ],
)
def test_what_is_trained_must_be_there(chosen: Any, said: str) -> None:
    with pytest.raises(pr.InputError, match=said):
        quick(trainable=chosen)


class Foreign:
    """A tensor of another framework, as far as it is looked at."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, array.shape, "foreign.float32"

    def detach(self) -> Foreign:
        return self

    cpu = detach

    def numpy(self) -> np.ndarray:
        return self.array


def test_tensors_of_pytorch_are_data_and_no_arguments() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 7, 3)), rng.integers(2, size=12)
    model = pr.training.table_model(7, 2, layers=1)
    params = model.init(0)
    x = x[:, :, :1].astype(np.float32)
    made = [
        pr.training.fit(model, train=d, steps=2, batch=4, quiet=True).params for d in ((x, y), (Foreign(x), Foreign(y)))
    ]
    assert all((a == b).all() for (_, a), (_, b) in zip(*map(tree.leaves, made)))
    with pytest.raises(
        pr.InputError, match=r"are a tensor of PyTorch; give an array, .*\.detach\(\)\.cpu\(\)\.numpy\(\)"
    ):
        model.apply(params, Foreign(x))
    with pytest.raises(pr.InputError, match="are a str; give an array"):
        model.apply(params, "hello")


def test_recomputing_is_the_same_training() -> None:
    found = quick(recompute=True)
    assert_same(found.params, quick().params)
    assert found.model == classifier()
    with pytest.raises(pr.InputError, match="Encoder\\(recompute=True\\)"):
        quick(loss=by_hand, recompute=True)


def test_a_perceiver_ar_recomputes_too() -> None:
    model = pr.PerceiverAR(7, 9, latents=4, channels=8, layers=2, self_heads=2)
    ids = np.random.default_rng(0).integers(0, 7, (6, 10))
    once, again = (
        pr.training.fit(model, train={"ids": ids}, loss="next_token", steps=3, quiet=True, recompute=recompute)
        for recompute in (False, True)
    )
    assert_same(once.params, again.params)
    assert any((p != q).any() for (_, p), (_, q) in zip(tree.leaves(once.params), tree.leaves(model.init(0))))


def test_batch_norm_keeps_its_statistics(tmp_path: Path) -> None:
    inputs = GridInput(ConvStem(3, 5), FourierPositions(2, (2, 2)))
    model = pr.PerceiverIO(Encoder(inputs.channels, 3, 10, layers=1, self_heads=5), inputs,
                           classification_decoder(10, 2))  # fmt: skip
    images = RNG.normal(3, size=(20, 8, 8, 3))
    found = quick(model, train=(images, Y[:20]), validation=(images[:5], Y[:5]), out=tmp_path, steps=9)
    stats = tree.flatten(found.state)
    assert any(path.endswith("/mean") and abs(a).max() > 0 for path, a in stats.items())
    assert_same(pr.load_with_state(tmp_path / "model.npz")[2], found.state)
    assert found.predict(images).shape == (20, 2)


def test_a_transformers_checkpoint_is_tuned_and_given_back(tmp_path: Path) -> None:
    write_npz(tmp_path / "hf.npz", weights(CONFIG, np.float32))
    model, params = pr.load("hf", tmp_path / "hf.npz", config=CONFIG)
    ids = RNG.integers(11, size=(12, 7))
    found = fit(model, train=(ids, ids), params=params, steps=5, batch=4, out=tmp_path / "run", quiet=True)
    back = read_checkpoint(None, tmp_path / "run" / "model.npz")
    assert (back.peer, set(back.arrays)) == ("hf", set(weights(CONFIG)))
    changed = [n for n, a in weights(CONFIG, np.float32).items() if (back.arrays[n] != a).any()]
    assert len(changed) > 10
    assert_same(pr.load(tmp_path / "run" / "model.npz")[1], found.params)


def test_numbers_are_written_as_a_table(tmp_path: Path) -> None:
    told = []
    found = quick(out=tmp_path, writers=["csv"], validation=0.2, callbacks=[lambda event: told.append(event.line)])
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == [line["loss"] for line in found.history]
    assert [row["evaluation/loss"] for row in rows if row["evaluation/loss"]]
    assert told == found.history


def test_a_callback_may_stop() -> None:
    assert quick(callbacks=[lambda event: event.stop() if event.line["step"] == 5 else None]).steps == 5


def test_tensorboard_needs_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in ("torch.utils.tensorboard", "tensorboardX"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(pr.InputError, match="pip install tensorboardX"):
        quick(out=tmp_path, writers=["tensorboard"])


def test_a_nan_is_named_with_its_step_and_where_it_comes_from() -> None:
    spoilt = X.copy()
    spoilt[17, 2, 3] = np.nan
    with pytest.raises(pr.InputError, match=r"the loss of step 3 is nan; 'inputs' of its batch holds a NaN, in row 1"):
        quick(train=(spoilt, Y), shuffle=False)

    def root(params: Any, batch: Any) -> Any:
        return ops.mean(ops.log(ops.subtract(params["weight"], 1.0)))

    with pytest.raises(pr.InputError, match=r"the loss of step 1 is -?inf; first: log\(float32\[7, 1\]\)"):
        fit(Line(7), root, train={"x": X}, steps=3, quiet=True)


def drawn(rng: np.random.Generator) -> dict:
    x = rng.normal(size=(8, 5, 7))
    return {"inputs": x, "targets": (x[:, 0].sum(-1) > 0).astype(int)}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"steps": None}, r"with epochs= or with steps="),
        ({"epochs": 2}, r"with epochs= or with steps="),
        ({"train": drawn, "steps": None, "epochs": 2}, "say steps="),
        ({"steps": 0}, "at least one step, got 0"),
        ({"batch": 0}, "batch must be a whole number of at least 1, got 0"),
        ({"loss": "crossentropy"}, "did you mean 'cross_entropy'"),
        ({"loss": lambda params: 0}, r"must be a function of \(params, batch\)"),
        (
            {"loss": lambda params, batch: params["encoder"]["latents"]},
            r"must be one number, a mean or a sum, got \(3, 10\)",
        ),
        ({"metrics": ["acuracy"]}, "did you mean 'accuracy'"),
        ({"loss": lambda p, b: 0, "metrics": ["accuracy"]}, "returns"),
        ({"optimizer": "adamm"}, "did you mean"),
        ({"schedule": "cosine"}, "did you mean"),
        ({"patience": 2}, "patience needs validation"),
        ({"train": (X, Y[:9])}, "inputs has 53, targets has 9"),
        ({"train": (X, np.array(["a"] * 53))}, r"targets of the data holds text; .*numpy\.unique"),
        ({"train": X}, "data must be arrays by name"),
        ({"train": {}}, "hold no arrays"),
        ({"train": (X, Y.astype(float))}, "needs integer targets"),
        ({"train": (X, Y + 5)}, "classes from 5 to 6, but the model has 2 outputs"),
        ({"train": {"x": X, "targets": Y}}, "a named loss needs 'inputs' in the data, which hold x, targets"),
        ({"train": {"inputs": X}}, "a named loss needs 'targets' or 'labels'"),
        ({"validation": 2.0}, "must be between 0 and 1"),
        ({"train": drawn, "validation": 0.2}, "give validation data"),
        ({"writers": ["csv"]}, "out="),
        ({"writers": ["cvs"]}, "did you mean 'csv'"),
        ({"params": {"encoder": {}}}, "missing"),
        ({"precision": "half"}, "precision"),
        ({"distributed": "mpy"}, "did you mean 'mpi'"),
    ],
)
def test_bad_input_is_one_clear_error(options: dict, text: str) -> None:
    with pytest.raises(pr.InputError, match=text) as error:
        quick(**options)
    assert str(error.value).isprintable()
