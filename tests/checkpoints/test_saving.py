"""A model saved and loaded is the same model; one that was tuned leads back to the files that it came from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoints.test_own import CASES
from cli.command import CONFIG, IMAGE_CONFIG, rebuilt, weights

import perceiver_ref as pr
from perceiver_ref.autograd import tree
from perceiver_ref.models import flamingo as fl
from perceiver_ref.models.call import Call
from perceiver_ref.models.decoder import classification_decoder
from perceiver_ref.models.encoder import Encoder
from perceiver_ref.models.inputs import ConvStem, GridInput
from perceiver_ref.models.module import Module
from perceiver_ref.models.positions import FourierPositions
from perceiver_ref.peers import Rebuilt
from perceiver_ref.peers.names import Binding, same
from perceiver_ref.weights.checkpoints import read_checkpoint, remember
from perceiver_ref.weights.formats.npz import read_npz, write_npz
from perceiver_ref.weights.formats.own import tuned


def small() -> pr.PerceiverIO:
    return pr.PerceiverIO(Encoder(7, 3, 10, layers=1, self_heads=5), decoder=classification_decoder(10, 4))


def stem() -> pr.PerceiverIO:
    """With batch norm."""
    inputs = GridInput(ConvStem(3, 5), FourierPositions(2, (2, 2)))
    return pr.PerceiverIO(
        Encoder(inputs.channels, 3, 10, layers=1, self_heads=5), inputs, classification_decoder(10, 4)
    )


def a_flamingo() -> fl.Flamingo:
    return fl.Flamingo(
        fl.LanguageModel(264, 17, 6, 2, heads=2),
        fl.PatchEncoder((4, 6), 2, 6, layers=1, heads=3),
        fl.PerceiverResampler(6, latents=3, layers=1, heads=2),
        fl.GatedLayers(2, 1, fl.GatedCrossAttention(6, 6, heads=3)),
    )


def assert_same(found: object, expected: object) -> None:
    ours, theirs = tree.flatten(found), tree.flatten(expected)
    assert list(ours) == list(theirs)
    for path, array in theirs.items():
        assert (ours[path].dtype, ours[path].tobytes()) == (array.dtype, array.tobytes()), path


@pytest.mark.parametrize("model", [small(), a_flamingo(), pr.PerceiverAR(11, 7, 5, 6, 1, self_heads=3)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_model_of_ours_comes_back(tmp_path: Path, model: Module, dtype: type) -> None:
    params = model.init(3, dtype=dtype)
    pr.save(model, params, tmp_path / "model.npz")
    again, found = pr.load(tmp_path / "model.npz")
    assert again == model
    assert_same(found, params)
    assert [path.name for path in tmp_path.iterdir()] == ["model.npz"]


@pytest.mark.parametrize("name", [*pr.presets(), *pr.variants()])
def test_every_preset_is_written_as_a_configuration(name: str) -> None:
    from perceiver_ref.peers.reference import from_config, rebuilt, to_config

    model = pr.preset(name)
    assert from_config(json.loads(json.dumps(to_config(model)))) == model
    made = rebuilt(model)
    assert {b.path for b in made.bindings} == set(tree.flatten(model.parameters()))


def test_batch_norm_keeps_its_statistics(tmp_path: Path) -> None:
    model, images = stem(), np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype(np.float32)
    params, state = model.init(), model.init_state()
    call = Call(training=True, state=state)
    model.apply(params, images, call=call)
    trained = tree.map(lambda _, new: np.asarray(new), state, {**state, **call.updates})
    with pytest.raises(pr.InputError, match=r"has batch norm: save it with its running statistics, state="):
        pr.save(model, params, tmp_path / "model.npz")
    pr.save(model, params, tmp_path / "model.npz", state=trained)
    again, found, back = pr.load_with_state(tmp_path / "model.npz")
    assert_same(back, trained)
    out = model.apply(params, images, call=Call(state=trained))
    np.testing.assert_array_equal(again.apply(found, images, call=Call(state=back)), out)


@pytest.mark.parametrize("config", [CONFIG, IMAGE_CONFIG], ids=["text", "images"])
def test_a_tuned_checkpoint_goes_back_to_its_peer(tmp_path: Path, config: dict) -> None:
    write_npz(tmp_path / "peer.npz", weights(config, np.float32))
    model, params = pr.load("hf", tmp_path / "peer.npz", config=config)
    changed = tree.map(lambda p: p + np.float32(0.25), params)
    pr.save(model, changed, tmp_path / "tuned.npz")
    back = read_checkpoint(None, tmp_path / "tuned.npz")
    assert (back.peer, back.cls, back.config) == ("hf", config["architectures"][0], config)
    expected = {name: array + np.float32(0.25) for name, array in weights(config, np.float32).items()}
    assert set(back.arrays) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(back.arrays[name], array, err_msg=name)
    again, found = pr.load(tmp_path / "tuned.npz")
    assert again == rebuilt(config).model
    pr.save(again, found, tmp_path / "again.npz")  # and once more
    assert_same(pr.load(tmp_path / "again.npz")[1], changed)


@pytest.mark.parametrize("path", CASES[::9], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_any_class_of_a_peer(path: Path, tmp_path: Path) -> None:
    """Each parameter is doubled, exactly: so is each array of the peer's that is one."""
    case = pr.vectors.read_case(path)
    meta = case.meta
    whole = read_checkpoint(meta["peer"], path, meta["class"], config=meta["config"], inputs=case.inputs)
    model = whole.rebuilt.model
    params, state = whole.rebuilt.load(whole.arrays, path)
    remember(whole, params, state)
    if not tree.flatten(params):
        pytest.skip("no parameters")
    pr.save(model, tree.map(lambda p: 2 * p, params), tmp_path / "tuned.npz", state=state)
    back = read_checkpoint(None, tmp_path / "tuned.npz")
    assert (back.peer, back.cls) == (meta["peer"], whole.cls)
    found, stats = back.rebuilt.load(back.arrays, path)
    assert_same(found, tree.map(lambda p: np.asarray(2 * p), params))
    assert_same(stats, tree.map(np.asarray, state))


def test_a_changed_model_is_saved_as_ours_or_refused(tmp_path: Path) -> None:
    """Its file would lead back to another model."""
    pr.save(small(), small().init(), tmp_path / "ours.npz")
    model, params = pr.load(tmp_path / "ours.npz")
    changed = model.replace("encoder", model.encoder.with_fields(recompute=True))
    pr.save(changed, params, tmp_path / "changed.npz")
    assert pr.load(tmp_path / "changed.npz")[0] == changed
    write_npz(tmp_path / "peer.npz", weights(CONFIG, np.float32))
    model, params = pr.load("hf", tmp_path / "peer.npz", config=CONFIG)
    with pytest.raises(pr.InputError, match="is no part of a model that can be written as a configuration"):
        pr.save(model.replace("encoder", model.encoder.with_fields(recompute=True)), params, tmp_path / "model.npz")


class Mine(Encoder):
    """A user's own class."""


def test_what_cannot_be_saved_is_one_line(tmp_path: Path) -> None:
    path, model = tmp_path / "model.npz", small()
    params = model.init()
    for given, options, text in (
        (
            (Mine(7, 3, 10, layers=0, self_heads=5), Mine(7, 3, 10, layers=0, self_heads=5).init(), path),
            {},
            "a Mine is",
        ),
        ((model, {"encoder": params["encoder"]}, path), {}, "missing: decoder/"),
        ((model, tree.map(lambda p: p * np.nan, params), path), {}, "holds a NaN"),
        ((model, params, tmp_path / "model.pt"), {}, "give such a name"),
        ((model, params, path), {"task": {"labels": np.ones(2)}}, "task is no JSON"),
        ((model, params, path), {"state": {"mean": np.ones(2)}}, "running statistics"),
    ):
        with pytest.raises(pr.InputError, match=text) as error:
            pr.save(*given, **options)
        assert str(error.value).isprintable()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(pr.InputError, match=r"load\('hf'\) names no file; give the path of the weights, too"):
        pr.load("hf")


def with_meta(path: Path, **changes: object) -> None:
    arrays = read_npz(path)
    arrays["meta"] = np.array(json.dumps({**json.loads(str(arrays["meta"])), **changes}))
    write_npz(path, arrays)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"task": [1]}, "task must be an object"),
        ({"config": {"type": "os.system"}}, "unknown type"),
        ({"class": "Tensor"}, "unknown class"),
        ({"config": {"type": "Encoder", "inputs": 1 << 70, "latents": 1, "channels": 8}}, "inputs"),
        ({"config": {}}, "needs"),
        ({"version": 9}, "version 9"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, changes: dict, text: str) -> None:
    pr.save(small(), small().init(), tmp_path / "model.npz")
    with_meta(tmp_path / "model.npz", **changes)
    with pytest.raises(pr.InputError, match=text) as error:
        pr.load(tmp_path / "model.npz")
    assert str(error.value).isprintable()


def test_parameters_that_share_an_array_must_stay_one() -> None:
    """Two of ours that are one array of the peer's, tuned apart: neither is quietly lost."""
    shared = Rebuilt(Module(), [Binding(path, (2,), "theirs", same) for path in ("a", "b")], run=print)
    ours = {"param/a": np.ones(2), "param/b": np.ones(2)}
    tuned(shared, ours, {}, {"theirs": (2,)}, "here")
    with pytest.raises(pr.InputError, match="param/a and param/b are one array, theirs"):
        tuned(shared, {**ours, "param/a": np.zeros(2)}, {}, {"theirs": (2,)}, "here")
