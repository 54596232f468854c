"""Large cases with few outputs and no traced points: a few of the latents tell which deviations are run.

Here small image models are taken for large; the full sizes are in tests/heavy/test_full_size_diagnosis.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import support
from porting.diagnosing import diagnose, on_backend
from porting.test_diagnose import case_of, option, outputs_of, weights
from porting.test_large_cases import in_float32

from perceiver_ref.models import positions
from perceiver_ref.porting.cases import Case
from perceiver_ref.porting.deviations import Candidate
from perceiver_ref.porting.diagnosis import few
from perceiver_ref.porting.diagnosis.screen import Screen
from perceiver_ref.porting.subject import Subject, large

pytestmark = on_backend
FIRST = "perceiver.encoder.cross_attention.attention.self"


@pytest.fixture(autouse=True)
def all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "LARGE", 0)
    monkeypatch.setattr(few, "MANY", 4)


def images() -> Case:
    """An image model with 64 latents, two blocks that share their weights, and 60 classes."""
    case, rng = case_of("hf/image_fourier"), np.random.default_rng(0)
    case = option(num_latents=64, num_labels=60, num_blocks=2)(case)
    shapes = {
        "perceiver.embeddings.latents": (64, 16),
        "perceiver.decoder.decoder.final_layer.weight": (60, 16),
        "perceiver.decoder.decoder.final_layer.bias": (60,),
    }
    made = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    return replace(
        case,
        params=case.params | made,
        inputs={"inputs": case.inputs["inputs"]},
        outputs={"logits": np.zeros((2, 60))},
        trace={},
    )


PLANTED: dict[str, tuple[str, str, int, Callable[[Case], Case]]] = {
    "everywhere": ("activation", "everywhere", 3, option(hidden_act="quick_gelu")),
    "in self-attention": (
        "bias-missing",
        "in self-attention",
        3,
        weights(lambda name, a: 0 * a if ".self_attends." in name and name.endswith("output.dense.bias") else a),
    ),
    "at the first attention": (
        "bias-missing",
        "in the encoder's cross-attention",
        25,
        weights(lambda name, a: 0 * a if name == f"{FIRST}.value.bias" else a),
    ),
}
"""What is planted -> the cause, its place, the most runs, of some hundred deviations, and the change"""


@pytest.mark.parametrize("plant", PLANTED)
def test_few_are_run_in_the_whole_model(plant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cause, place, most, change = PLANTED[plant]
    case = images()
    wrong = outputs_of(change(case), traced=False)
    whole: list[Candidate] = []
    deviating = Subject.deviating

    def counted(self: Any, chosen: Any, gate: Any = None) -> Any:
        whole.append(chosen[0])
        return deviating(self, chosen, gate)

    monkeypatch.setattr(Subject, "deviating", counted)
    found = diagnose(in_float32(replace(case, outputs=wrong.outputs, trace={})))
    assert (found.verdict, found.causes) == ("deviation", [cause])
    assert found.explanation[0].variant.endswith(place)
    assert len(set(whole)) <= most


def test_a_wrong_cause_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of outputs that no deviation gives none is said to."""
    case = outputs_of(images(), traced=False)
    noise = np.random.default_rng(1).standard_normal(case.outputs["logits"].shape)
    found = diagnose(in_float32(replace(case, outputs={"logits": case.outputs["logits"] + noise})), budget=3)
    assert (found.verdict, found.causes) == ("unexplained", [])


def test_stretches_give_our_outputs_without_a_deviation() -> None:
    subject = large.LargeSubject(in_float32(outputs_of(images(), traced=False)), support.BACKEND)
    model = few.FewLatents.of(subject)
    assert model is not None
    assert model.middle is not None
    assert model.first is not None
    assert len(model.middle.part.needed) < len(model.first.part.needed) < len(model.course.steps)
    for stretch in (model.middle, model.first, model.whole):
        made = model.made(stretch.part)
        assert made is not None
        np.testing.assert_array_equal(made["output/logits"], stretch.ours["output/logits"])


def test_a_part_of_a_run_leaves_no_table_behind() -> None:
    """A table of positions that is kept between runs is not made of what stands for numbers in a part of a run."""
    positions._grid_features.cache_clear()
    subject = large.LargeSubject(in_float32(outputs_of(images(), traced=False)), support.BACKEND)
    screen = Screen(subject, [])
    subject.ending(screen.part)
    made = subject.deviating(())
    assert made is not None
    np.testing.assert_array_equal(made["output/logits"], subject.ours["output/logits"])
    assert screen.part.number == len(subject.course.steps) - 1
