"""Battles: their targets by a plain loop; the models' sizes and FLOPs; that a unit's place in the list is nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perceiver_ref.autograd.backend import to_backend, to_host
from perceiver_ref.training.recipe import accuracy
from perceiver_ref.training.recipes.battles import SQUADS, UNITS, Battles, battles
from perceiver_ref.training.recipes.entities import KEYS, LAYERS, MODELS, WIDTH, Entities, comparison, cost


@pytest.fixture(scope="module")
def given() -> Battles:
    return battles(np.random.default_rng(5), 6)


def test_battles_are_places_and_squads_none_of_which_is_empty(given: Battles) -> None:
    assert (given.places.shape, given.places.dtype) == ((6, UNITS, 2), np.float32)
    assert (given.units.shape, given.units.dtype) == ((6, UNITS, 2 + SQUADS), np.float32)
    assert all(set(row) == set(range(SQUADS)) for row in given.squads.tolist())


def test_targets_are_the_enemies_nearest_to_the_centre_of_the_squad(given: Battles) -> None:
    for places, squads, targets in zip(given.places.astype(float), given.squads.tolist(), given.targets.tolist()):
        for unit, target in enumerate(targets):
            own = [places[j] for j in range(UNITS) if squads[j] == squads[unit]]
            centre = sum(own) / len(own)
            enemies = [j for j in range(UNITS) if (squads[j] < 4) != (squads[unit] < 4)]
            assert target == min(enemies, key=lambda j: np.hypot(*(places[j] - centre)))


def test_a_units_target_depends_on_the_places_of_others(given: Battles) -> None:
    moved = given.places.copy()
    first = int(np.flatnonzero(given.squads[0] == given.squads[0, 0])[-1])
    moved[0, first] += 10  # a comrade of unit 0, so far away that the centre moves
    assert first != 0
    assert Battles(moved, given.squads).targets[0, 0] != given.targets[0, 0]


def test_tests_are_no_training_batches() -> None:
    task = Entities(0, 8, "perceiver_io", 8)
    batches = np.concatenate([task.batch(step)["units"] for step in range(3)])
    assert not any((batches == units).all((1, 2)).any() for units in task.data.units)


def test_nearest_enemy_and_any_enemy_are_what_they_say() -> None:
    task = Entities(0, 8, "perceiver_io", 16)
    data, right, share = task.data, 0, 0.0
    for places, squads, targets in zip(data.places.astype(float), data.squads, data.targets):
        for unit in range(UNITS):
            enemies = np.flatnonzero((squads < 4) != (squads[unit] < 4))
            right += enemies[np.argmin(np.hypot(*(places[enemies] - places[unit]).T))] == targets[unit]
            share += 1 / len(enemies)
    want = {"nearest enemy": right / data.targets.size, "any enemy": share / data.targets.size}
    assert task.baselines() == pytest.approx(want, rel=1e-9)  # sums of 768 numbers in another order
    assert want["any enemy"] < want["nearest enemy"] < 0.5


@pytest.mark.parametrize("name", MODELS)
def test_the_order_of_units_changes_nothing_but_the_order_of_answers(name: str, given: Battles, backend: str) -> None:
    model = MODELS[name]()
    params = model.init(0, backend=backend)
    order = np.random.default_rng(0).permutation(UNITS)
    logits = to_host(model.apply(params, to_backend(given.units, backend)))
    permuted = to_host(model.apply(params, to_backend(given.units[:, order], backend)))
    assert logits.shape == (6, UNITS, UNITS)
    # the same sums of at most 64 numbers in another order, a few layers deep, in float32
    np.testing.assert_allclose(permuted, logits[:, order][:, :, order], atol=1e-4)


def test_both_models_are_of_one_size_and_flops_are_the_papers_sums() -> None:
    sizes = {name: MODELS[name]().count() for name in MODELS}
    assert sizes["perceiver_io"] == pytest.approx(sizes["transformer"], rel=0.02)

    def attention(queries: int, keys: int) -> int:  # Q and output, K and V, logits and mixing with their softmax
        return 2 * WIDTH**2 * (2 * queries + 2 * keys) + queries * keys * (4 * WIDTH + 3 * 4)

    def mlp(rows: int) -> int:
        return 4 * WIDTH**2 * rows

    both = 2 * UNITS * ((2 + SQUADS) * WIDTH + WIDTH * 2 * KEYS)  # embedding and last map
    plain = (LAYERS + 2) * (attention(UNITS, UNITS) + mlp(UNITS))
    latent = (
        attention(16, UNITS) + LAYERS * attention(16, 16) + attention(UNITS, 16) + mlp(16) * (LAYERS + 1) + mlp(UNITS)
    )
    assert cost("transformer").flops == both + plain
    assert cost("perceiver_io").flops == both + latent
    assert cost("perceiver_io").parameters == sizes["perceiver_io"]


def test_accuracy_counts_units(backend: str) -> None:
    targets = np.array([[0, 1, 2, 1]])
    logits = to_backend(np.eye(3, dtype=np.float32)[targets], backend)
    assert float(accuracy(logits, targets)) == 1
    assert float(accuracy(logits, np.array([[0, 1, 2, 2]]))) == 0.75


def test_the_comparison_has_all_models_and_baselines(tmp_path: Path) -> None:
    task = Entities(0, 4, "perceiver_io", 4)
    params = task.init(Entities(0, 4, "transformer", 4).init())
    (written,) = task.show(params, tmp_path)
    found = task.evaluate(params)
    assert written.read_text() == comparison(found, task.baselines())
    names = [line.rsplit("  ", 1)[0].split("  ")[0] for line in written.read_text().splitlines()[1:]]
    assert names == ["transformer", "perceiver io", "nearest enemy", "any enemy"]
    assert f"{found['transformer_flops']:,.0f}" in written.read_text()


def test_only_the_stages_own_model_is_trained() -> None:
    task = Entities(0, 4, "perceiver_io", 4)
    assert task.trainable("perceiver_io/embedding/weight")
    assert not task.trainable("transformer/embedding/weight")
