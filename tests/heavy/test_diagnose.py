"""`diagnose` against mutants: peers' own PyTorch code with planted deviations (tests/mutants), with answers known.

The deviations are edits of the peers' sources, none of which goes through this package: the tool does not test itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra: perceiver-ref[peers]")
pytest.importorskip("transformers", reason="needs the extra: perceiver-ref[peers]")
pytest.importorskip("perceiver_pytorch", reason="needs the extra: perceiver-ref[peers]")
pytest.importorskip("flamingo_pytorch", reason="needs the extra: perceiver-ref[peers]")

from mutants import make, models
from mutants.deviations import DEVIATIONS
from mutants.kinds import MODELS

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]

VECTORS = Path(__file__).parent.parent / "vectors"
COUNT, SEED = 260, 2024
CAUSES = """
activation layer-norm-eps norm-missing norm-after attention-scale head-layout key-value-swapped weight-transposed
bias-missing query-residual mlp-residual softmax-axis mask-inverted mask-ignored fully-masked-row fourier-order
fourier-frequencies position-grid position-axes weight-sharing block-order latents-not-in-keys time-embedding final-norm
gate-not-tanh gate-missing media-mask dtype
"""
STAND_INS = {
    "deepmind": (
        "imagenet_pixels_fourier",
        "imagenet_input_mask",
        "imagenet_conv1x1_trainable_project",
        "imagenet_sine_only",
        "mlm_fully_masked_row",
        "mlm_no_mask",
        "mlm_same_masks",
        "flow_nonsquare",
        "flow_residual_heads",
        "encoder_input_mask",
        "encoder_qk_v_channels",
        "encoder_shared_blocks",
    ),
    "open-flamingo": ("resampler_embs", "resampler_plain", "gated_all", "gated_more_locations"),
}
"""Cases that the stand-ins for the two peers that cannot be run here have to reproduce."""


@pytest.mark.parametrize(("peer", "name"), [(peer, name) for peer, names in STAND_INS.items() for name in names])
def test_stand_ins_are_their_peers(peer: str, name: str) -> None:
    """Outputs and traces of the peers that are rewritten for the mutants, to the rounding of float64."""
    with np.load(VECTORS / peer / f"{name}.npz", allow_pickle=False) as case:
        arrays = {key: case[key] for key in case.files}
    meta = json.loads(str(arrays["meta"]))
    inputs = {key[6:]: array for key, array in arrays.items() if key.startswith("input/")}
    names = tuple(key[7:] for key in arrays if key.startswith("output/"))
    modules = models.DEEPMIND if peer == "deepmind" else models.OPEN_FLAMINGO
    cls = meta["class"] if peer == "deepmind" else meta["class"].rsplit(".", 1)[-1]
    shape = next(iter(inputs.values())).shape
    model = models.Model(name, peer, modules, cls, meta["config"], lambda _: {}, outputs=names, shape=shape)
    module = models.build(model, make.run_sources(model)[-1].space)
    models.load(model, module, {key[6:]: array for key, array in arrays.items() if key.startswith("param/")})
    outputs, trace = models.execute(model, module, inputs)
    compared = {f"output/{key}": value for key, value in outputs.items()}
    compared |= {f"trace/{key}": value for key, value in trace.items() if f"trace/{key}" in arrays}
    for key, value in compared.items():
        # sums of some tens of products: a few hundred units in the last place of float64 at most
        np.testing.assert_allclose(value, arrays[key], rtol=1e-12, atol=1e-12, err_msg=key)


@pytest.fixture(scope="module")
def table() -> list[make.Single]:
    """Every deviation in every model in which it makes a difference."""
    return make.table()


def test_every_row_makes_a_difference_somewhere(table: list[make.Single]) -> None:
    """A row of the table that no model shows would prove nothing."""
    shown = {id(single.row) for single in table}
    assert [(row.cause, row.variant) for row in DEVIATIONS if id(row) not in shown] == []


def test_every_cause_of_the_table_is_planted(table: list[make.Single]) -> None:
    """All the causes that `diagnose` has to name, and every model."""
    assert {single.row.cause for single in table} == set(CAUSES.split())
    assert {id(single.model) for single in table} == {id(model) for model in MODELS}


@dataclass(frozen=True)
class Judged:
    """A mutant, its answer and what the tool said."""

    name: str
    answer: dict[str, Any]
    verdict: str
    causes: list[str]
    first_divergence: str | None

    def __str__(self) -> str:
        planted = f"{self.answer['model']}: {self.answer['detail']}"
        return f"{self.name} {planted} -> {self.verdict} {self.causes[:3]} at {self.first_divergence}"


def judge(folder: Path, answers: dict[str, dict[str, Any]]) -> Iterator[Judged]:
    """The tool's word on each file."""
    from perceiver_ref.porting.diagnosis.diagnose import diagnose_file

    for name, answer in answers.items():
        found = diagnose_file(folder / name)
        yield Judged(name, answer, found.verdict, list(found.causes), found.first_divergence)


@pytest.fixture(scope="module")
def judged(table: list[make.Single], tmp_path_factory: pytest.TempPathFactory) -> list[Judged]:
    """A set of mutants in the proportions of the public examples, and the tool's word on each."""
    folder = tmp_path_factory.mktemp("mutants")
    return list(judge(folder, make.generate(folder, table, seed=SEED, count=COUNT)))


def planted(judged: list[Judged], number: int) -> list[Judged]:
    """Those with so many deviations."""
    return [each for each in judged if each.answer["verdict"] == "deviation" and len(each.answer["causes"]) == number]


def told(wrong: list[Judged]) -> str:
    """What went wrong, a line each."""
    return "\n".join(map(str, wrong))


def test_the_first_cause_of_single_deviations_is_right(judged: list[Judged]) -> None:
    """At least 95 % of the (deviation, model) pairs, of which there are at least 60."""
    singles = planted(judged, 1)
    assert len({(each.answer["model"], each.answer["detail"].split(";")[0]) for each in singles}) >= 60
    wrong = [each for each in singles if each.causes[:1] not in each.answer["acceptable"]]
    assert len(wrong) <= 0.05 * len(singles), told(wrong)


def test_both_causes_of_pairs_are_named(judged: list[Judged]) -> None:
    """At least 80 % of at least 30 pairs, both causes among the first two."""
    pairs = planted(judged, 2)
    assert len(pairs) >= 30
    wrong = [each for each in pairs if sorted(each.causes[:2]) not in each.answer["acceptable"]]
    assert len(wrong) <= 0.2 * len(pairs), told(wrong)


def test_the_first_point_to_differ_is_found(judged: list[Judged]) -> None:
    """Where the trace is stored, for all of them: nothing has to be guessed here."""
    traced = [each for each in judged if each.answer["first_divergence"] is not None]
    wrong = [each for each in traced if each.first_divergence != each.answer["first_divergence"]]
    assert traced
    assert not wrong, told(wrong)


def test_lower_precision_is_no_deviation(judged: list[Judged]) -> None:
    """Unmutated peers in float32, tf32, bfloat16 and float16 are rounding, and exact ones match."""
    right = [each for each in judged if each.answer["verdict"] in ("match", "rounding")]
    wrong = [each for each in right if each.verdict != each.answer["verdict"] or each.causes]
    assert right
    assert not wrong, told(wrong)


def test_unmutated_float32_is_never_accused(tmp_path: Path) -> None:
    """200 runs of the peers as they are, in float32, over all the models."""
    writer = make.Writer(tmp_path, np.random.default_rng(SEED))
    while len(writer.answers) < 200:
        writer.lowered(MODELS[len(writer.answers) % len(MODELS)], "float32")
    wrong = [each for each in judge(tmp_path, writer.answers) if each.verdict == "deviation" or each.causes]
    assert not wrong, told(wrong)


def test_deviations_in_half_precision_are_named(table: list[make.Single], tmp_path: Path) -> None:
    """At least 95 % of those that differ by ten times what rounding makes; and correct peers are rounding there."""
    wanted = {"labelled": 40, "labelled-right": 12}
    found = list(judge(tmp_path, make.generate(tmp_path, table, seed=SEED, wanted=wanted)))
    named = [each for each in found if each.answer["kind"] == "labelled"]
    wrong = [each for each in named if each.causes[:1] not in each.answer["acceptable"]]
    assert len(wrong) <= 0.05 * len(named), told(wrong)
    accused = [each for each in found if each.answer["kind"] == "labelled-right" and each.causes]
    assert not accused, told(accused)
