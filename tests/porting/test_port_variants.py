"""A few of the ports drawn at random: what is right stays so, and a map that gives some outputs alone is none."""

from __future__ import annotations

import numpy as np
import pytest
from heavy.test_bind_random import CASES, VECTORS
from porting.port_variants import Style, outcome, variant

from perceiver_ref.porting.cases import read_case


@pytest.mark.parametrize(
    ("name", "style"),
    [
        ("lucidrains-perceiver/feed_forward", Style("letters", "shuffled", matrices="conv1d", trace="none")),
        ("lucidrains-perceiver/attention_queries_contribute", Style("letters", "shuffled", matrices="transposed")),
        ("hf/layer_cross", Style(matrices="transposed")),
    ],
)
def test_right(name: str, style: Style) -> None:
    assert outcome(variant(read_case(VECTORS / f"{name}.npz"), style, 38))[0] in ("right", "ambiguous")


def test_weights_of_attention_alone_verify_nothing() -> None:
    """Two outputs of other names, of which the first needs values and output, too."""
    style = Style(fused="qkv", matrices="transposed", heads="split", trace="none", arguments="renamed")
    assert outcome(variant(read_case(VECTORS / "kosmos2/kosmos2_eager.npz"), style, 36), 3)[0] != "WRONG"


@pytest.mark.parametrize("number", range(len(CASES)))
def test_a_variant_holds_the_same_numbers(number: int) -> None:
    """Whatever its layout: sorted, a port's elements are its case's."""
    case = read_case(VECTORS / f"{CASES[number]}.npz")
    style = Style("letters", "shuffled", "some", "(3 h d)", "each", "split", "none", False)
    made = variant(case, style, number)
    ours = np.sort(np.concatenate([a.ravel() for a in made.truth.values()]))
    theirs = np.sort(np.concatenate([a.ravel() for a in made.port.params.values()]))
    if case.meta["tied"] or len(ours) != len(theirs):
        assert set(theirs) >= set(ours)
    else:
        assert np.array_equal(ours, theirs)
