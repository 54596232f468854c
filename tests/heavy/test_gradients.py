"""`diagnose` against backward mutants: peers' own PyTorch code with right outputs and wrong gradients."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra: perceiver-ref[peers]")
pytest.importorskip("transformers", reason="needs the extra: perceiver-ref[peers]")
pytest.importorskip("perceiver_pytorch", reason="needs the extra: perceiver-ref[peers]")
pytest.importorskip("flamingo_pytorch", reason="needs the extra: perceiver-ref[peers]")

from mutants import make as forward
from mutants.backward import make
from mutants.kinds import MODELS

from perceiver_ref.porting.diagnosis.diagnose import diagnose_file

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]

SEED, FLOAT32_RUNS = 2024, 50
NO_DERIVATIVE = "model_mask_allmasked_row"
"""transformers adds its mask: rows without any key get a uniform mean, and the scores a gradient none the less."""


def test_the_op_is_located_and_the_cause_named(tmp_path: Path) -> None:
    """At least 95 % of at least 40 pairs of a wrong backward and a model: both the cause and where it begins."""
    answers = make.generate(tmp_path, SEED)
    assert len({(answer["variant"], answer["model"]) for answer in answers.values()}) >= 40
    wrong = []
    for name, answer in answers.items():
        found = diagnose_file(tmp_path / name)
        named = found.causes[:1] and found.causes[0] in answer["causes"]
        if not named or not re.search(answer["point"], found.first_divergence or ""):
            told = f"{found.verdict} {found.causes[:3]} at {found.first_divergence}"
            wrong.append(f"{name} {answer['model']}: {answer['variant']} -> {told}")
    assert len(wrong) <= 0.05 * len(answers), "\n".join(wrong)


def test_unmutated_float32_gradients_are_never_accused(tmp_path: Path) -> None:
    """The peers as they are, in float32, over all the models but one, whose gradients are no derivative."""
    models = [model for model in MODELS if model.name != NO_DERIVATIVE]
    wrong = []
    for number in range(FLOAT32_RUNS):
        model = models[number % len(models)]
        example = forward.instance(model, SEED + number)
        arrays = make.lowered(model, example)
        assert all(np.isfinite(array).all() for array in arrays.values())
        path = tmp_path / f"f{number:03}.npz"
        make.write(path, example, arrays)
        found = diagnose_file(path)
        if found.gradients is None or found.gradients.verdict not in ("match", "rounding"):
            wrong.append(f"{model.peer}/{model.name}: {found.verdict} {found.gradients}"[:500])
    assert not wrong, "\n".join(wrong)


def test_gradients_through_rows_without_keys_are_the_peers_own(tmp_path: Path) -> None:
    """Transformers adds the lowest number to such rows, and so does its reference."""
    model = next(model for model in MODELS if model.name == NO_DERIVATIVE)
    example = forward.instance(model, SEED)
    make.write(tmp_path / "case.npz", example, make.right_of(f"{model.peer}/{model.name}", SEED))
    found = diagnose_file(tmp_path / "case.npz")
    assert (found.verdict, found.causes) == ("match", [])
