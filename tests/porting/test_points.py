"""The table of traced points: every name that a model gives has a row, every row is seen, the page is up to date."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flamingo import tiny
from ledger.models import MODELS, encoder, filled, image_model
from models import small
from support import normal, random_parameters
from trace_points import ARRANGEMENTS, PLACES, POINTS, markdown, rows

from perceiver_ref import trace
from perceiver_ref.autograd import ops, tree
from perceiver_ref.autograd.observing import observe
from perceiver_ref.models import tracing
from perceiver_ref.models.call import Call
from perceiver_ref.models.conventions import DIALECTS
from perceiver_ref.models.decoder import ClassificationDecoder, Decoder
from perceiver_ref.models.flamingo import GatedCrossAttention, PerceiverResampler
from perceiver_ref.models.flamingo.media import media_mask
from perceiver_ref.models.flamingo.prompts import Chunk, collate, interleave
from perceiver_ref.models.inputs import Pixels
from perceiver_ref.models.outputs import ProjectionOutput
from perceiver_ref.models.perceiver_ar import PerceiverAR
from perceiver_ref.models.perceiver_io import PerceiverIO
from perceiver_ref.models.positions import FourierPositions, ProjectedPositions
from perceiver_ref.models.queries import PositionQueries
from perceiver_ref.models.resamplers import AttentionPool, Resampler

Trace = dict[str, Any]
MODALITIES = ("audio", "image", "label")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "TRACE.md"


def perceiver_io(model: PerceiverIO, sizes: Any) -> None:
    state = tree.map(lambda parameter: np.ones(parameter.shape), model.state())
    model.apply(random_parameters(model), filled(model, sizes, 2, "float64"), call=Call(False, state, key=0))


def flamingo(images: bool) -> None:
    model = tiny.flamingo(images=images)
    media = [normal(i, 1, 4, 4, 2) if images else tiny.features(i) for i in range(2)]
    prompt = interleave([Chunk("a"), *(Chunk("b", medium) for medium in media)])
    tiny.run(model, tiny.parameters(model, "numpy"), collate([prompt], frame_axes=3 if images else 2), "numpy")


def gated(**options: Any) -> None:
    layer = GatedCrossAttention(8, 6, heads=2, widening=2, **options)
    mask = media_mask(np.array([[0, 1, 1]]), media=1, tokens=4)
    layer.apply(random_parameters(layer), normal(0, 1, 3, 8), normal(1, 1, 1, 4, 6), mask=mask)


def resampler() -> None:
    model = PerceiverResampler(6, latents=2, layers=2, heads=2, widening=2, frames=4)
    model.apply(random_parameters(model), normal(0, 1, 2, 3, 5, 6))


def one_set() -> None:
    model = Resampler(6, 5, 4, latents=2, pooled=1, places=8, layers=1, heads=2)
    model.apply(random_parameters(model), normal(0, 2, 3, 5))


def pool() -> None:
    model = AttentionPool(5, 6, 2, 3, projection="affine", norms="before", qk_norm=True, hidden=7, end="norm", last=4)
    model.apply(random_parameters(model), normal(0, 2, 3, 5))


def autoregressive(**options: Any) -> None:
    model = PerceiverAR(
        vocabulary=11, length=9, latents=4, channels=8, layers=2, cross_heads=2, self_heads=2, **options
    )
    model.apply(random_parameters(model), np.arange(9)[None], prefix=5)


def queries_with_projected_positions() -> None:
    queries = PositionQueries(ProjectedPositions(FourierPositions(2, (4, 4)), 8), (4, 4))
    decoder = Decoder(8, queries.channels, queries=queries, outputs=4)
    output = ProjectionOutput(4, 3)
    model = PerceiverIO(encoder(6), None, decoder, output)
    model.apply(random_parameters(model), normal(0, 2, 9, 6))


def masked() -> None:
    paper = replace(DIALECTS["paper"], masked_rows="zero")
    model = PerceiverIO(encoder(6, conventions=paper))
    model.apply(random_parameters(model), normal(0, 2, 9, 6), mask=np.ones((2, 9), bool))


RUNS: dict[str, Callable[[], None]] = {
    **{name: lambda model=model, sizes=sizes: perceiver_io(model, sizes) for name, (model, sizes) in MODELS.items()},
    "gated linear units": lambda: perceiver_io(
        image_model(Pixels(3), FourierPositions(3, (4, 6)), conventions=DIALECTS["lucidrains"]), (4, 6, 3)
    ),
    "projected queries": queries_with_projected_positions,
    "masked": masked,
    "flamingo on features": lambda: flamingo(False),
    "flamingo on images": lambda: flamingo(True),
    "resampler": resampler,
    "resampler of one set": one_set,
    "attention pool": pool,
    "gated cross-attention": gated,
    "gated cross-attention with normed queries": lambda: gated(qk_norm=True),
    "perceiver ar": autoregressive,
    "perceiver ar with a table of positions": lambda: autoregressive(position_table=True),
}


@cache
def traced(name: str) -> Trace:
    with trace() as t:
        RUNS[name]()
    return dict(t)


def everything() -> Iterator[tuple[str, Any]]:
    for name in RUNS:
        yield from traced(name).items()


@pytest.mark.parametrize("name", RUNS)
def test_every_name_has_a_row_of_its_shape(name: str) -> None:
    assert traced(name)
    for point, array in traced(name).items():
        if point == "":
            continue  # the result of a layer that is run alone
        found = rows(point)
        assert found, point
        if all("<modality>" in row.name for row in found):  # which any word may be
            assert point.split(".")[-1] in MODALITIES
        fits = [shape for row in found for shape in row.shape.split(" or ") if has_axes(shape, array.ndim)]
        assert fits, (point, array.shape, found)


def has_axes(shape: str, axes: int) -> bool:
    """Whether a shape as the table writes it may have so many axes."""
    sizes = shape.split(", ")
    if any(size.startswith(("...", "*")) for size in sizes):
        return axes >= len(sizes) - 1
    return axes == len(sizes) or shape == "as given"


def test_every_row_is_seen() -> None:
    seen = {row for name, _ in everything() for row in rows(name)}
    assert [row.name for row in (*PLACES, *POINTS) if row not in seen] == []


@pytest.mark.parametrize(
    "name",
    ["encoders", "encoder.blocks.0", "encoder.blocks.0.x.norm", "gated.0.query_norm", "output.latents.norm", "a.norm"],
)
def test_other_names_have_no_row(name: str) -> None:
    assert rows(name) == []


def test_a_repeated_name_has_the_row_of_the_first() -> None:
    assert rows("encoder.blocks.0.1.norm@12") == rows("encoder.blocks.0.1.norm") != []


def test_names_are_told_once() -> None:
    for rows_of_kind in (
        [place.name for place in PLACES],
        *([p.name for p in POINTS if kind in p.kinds] for kind in {kind for p in POINTS for kind in p.kinds}),
    ):
        assert len(rows_of_kind) == len(set(rows_of_kind))


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(), "write it again: python docs/make trace > docs/TRACE.md"


# what a trace costs


def test_without_a_trace_no_name_is_joined_and_nothing_else_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small.language_model()
    p, ids = random_parameters(model), np.array([[1, 2, 3]])
    calls: dict[str, int] = {}

    def counted(of: Any, name: str) -> None:
        original = getattr(of, name)

        def count(*arguments: Any, **options: Any) -> Any:
            calls[name] = calls.get(name, 0) + 1
            return original(*arguments, **options)

        monkeypatch.setattr(of, name, count)

    counted(tracing.Trace, "name")
    counted(tracing.Trace, "record")
    counted(tracing, "array_of")
    counted(ops, "attention_weights")

    def operations() -> list[str]:
        events: list[Any] = []
        with observe(events.append):
            model.apply(p, ids)
        return [event.op.name for event in events]

    plain = operations()
    assert calls == {}
    with trace() as t:
        listened = operations()
    assert calls["record"] == calls["array_of"] == len(t)  # the counters count
    maps = calls["attention_weights"]
    assert maps == sum(name.endswith("attention.weights") for name in t) > 0
    # a trace adds the maps of weights, each reshaped, and nothing else
    assert len(listened) == len(plain) + 2 * maps
    assert [name for name in listened if name != "attention_weights"].count("reshape") == plain.count("reshape") + maps


def test_a_trace_keeps_the_arrays_themselves() -> None:
    model = small.image_classifier()
    assert isinstance(model.decoder, ClassificationDecoder)
    p = random_parameters(model)
    with trace() as t:
        out = model.apply(p, normal(0, 1, 6, 5, 2))
    assert t["decoder"] is out
    assert np.shares_memory(t["encoder.blocks.1.1"], t["encoder"])


def test_arrangements_of_others_are_recorded_for_sets_of_names_alone() -> None:
    """And are what they are said to be: the keys and values, side by side."""
    model = encoder(6)
    p, x = random_parameters(model), normal(0, 2, 9, 6)
    place = "encoder.blocks.0.0.attention"
    with trace() as everything:
        model.apply(p, x)
    with trace(lambda name: True) as predicate:
        model.apply(p, x)
    with trace({f"{place}.key_value", f"{place}.weights.flat"}) as asked:
        model.apply(p, x)
    assert list(predicate) == list(everything)
    joined = np.concatenate([everything[f"{place}.key"], everything[f"{place}.value"]], axis=-1)
    assert np.array_equal(asked[f"{place}.key_value"], joined)
    weights = everything[f"{place}.weights"]
    assert np.array_equal(asked[f"{place}.weights.flat"], weights.reshape(-1, *weights.shape[-2:]))
    names = {point.name for point in ARRANGEMENTS}
    assert {"attention.key_value", "attention.weights.flat"} <= names
    assert not any(name.endswith(tuple(f".{n}" for n in names - {"attention_gate", "mlp_gate"})) for name in everything)
