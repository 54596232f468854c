"""A few of the ports drawn at random: what is right stays so, and a map that gives some outputs alone is none."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from heavy.test_bind_random import CASES, VECTORS
from porting.port_variants import Style, outcome, variant
from porting.proposed_models import port

from perceiver_ref.errors import InputError
from perceiver_ref.porting.bind.maps import as_json, from_json
from perceiver_ref.porting.bind.translate import translate
from perceiver_ref.porting.bind.views import layouts
from perceiver_ref.porting.cases import read_case
from perceiver_ref.porting.check import check_case


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


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("without", ["/attention/.*/bias", "/attention/(query|key|value)/bias"])
def test_matrices_of_each_head_and_no_biases(without: str, fresh: bool) -> None:
    """The reference has biases of attention, the port has not, and records whole layers alone."""
    style = Style("letters", matrices="kept", heads="split", trace="blocks")
    made = port("decoder", style=style, seed=4, without=without, fresh=fresh, graded=True)
    became, found = outcome(made)
    assert became == "right", (became, found.message)
    assert found.map.parameters["decoder/cross_attention/attention/query/bias"].parts == ()


STACKED = (
    Style(stacked=0),
    Style("letters", matrices="transposed", trace="none", stacked=0),
    Style("letters", matrices="transposed", trace="blocks", stacked=1),
    Style(heads="split", stacked=0, trace="blocks"),
    Style("letters", "shuffled", trace="none", stacked=0),
    Style("letters", "shuffled", fused="qkv", trace="none", stacked=1),
)


@pytest.mark.parametrize("style", STACKED, ids=Style.said)
def test_layers_stacked(style: Style) -> None:
    """One array for each kind of parameter, with an axis for the layers, as a scan or a batch of blocks has it."""
    made = port("decoder", style=style, seed=3, graded=style.order == "shuffled")
    count = made.case.meta["config"]["encoder"]["layers"]
    stacked = [a for a in made.port.params.values() if a.ndim == 3 and a.shape[style.stacked or 0] == count]
    assert len(stacked) >= 4
    became, found = outcome(made)
    assert became in ("right", "ambiguous"), found.message
    assert found.left_over == []
    # the map holds for gradients, too: what is read from a stack adds up where it was read
    translated = translate(made.port, from_json(json.loads(json.dumps(as_json(found.map))), "map.json"))
    assert check_case(translated).status == "pass"
    assert bool(translated.grad_params) == (style.order == "shuffled")


def test_two_lists_stacked() -> None:
    """Cross-attention and self-attention, each a stack of its own."""
    made = variant(read_case(VECTORS / "lucidrains-perceiver/perceiver_1d.npz"), Style(stacked=0), 3)
    assert outcome(made)[0] in ("right", "ambiguous")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_view_within_a_stack(axis: int) -> None:
    """What a view reads of a layer is what it reads within the stack."""
    rng = np.random.default_rng(axis)
    layers = rng.standard_normal((4, 6, 15))  # inputs 6; 15 = 3 maps of 5, or 5 channels of 3
    stack = np.stack(list(layers), axis=axis)
    seen = 0
    for view in layouts((6, 15), (6, 5), (5,)) + layouts((6, 15), (6, 11)) + layouts((6, 15), (15, 6)):
        wanted = view.read(layers[2], None).shape
        try:
            within = view.within(stack.shape, axis, 2)
        except ValueError:
            continue
        np.testing.assert_array_equal(within.read(stack, wanted), view.read(layers[2], wanted))
        seen += 1
    assert seen >= 9


@pytest.mark.parametrize("trace", ["blocks", "none"])
def test_biases_alone_in_one_array(trace: str) -> None:
    """As PyTorch's MultiheadAttention keeps them where keys have a width of their own."""
    made = port("decoder", style=Style("letters", fused="biases", matrices="transposed", trace=trace), seed=5)
    began = time.thread_time()
    assert outcome(made)[0] == "right"
    assert time.thread_time() - began < 10  # 1 s; the search op by op takes longer, and without values finds nothing


def test_a_way_to_give_inputs_that_only_points_find_out() -> None:
    """With an axis more the decoder's outputs have a shape, and its weights of attention none."""
    style = Style(order="shuffled", fused="kv", trace="blocks", gradients=False, arguments="renamed")
    made = variant(read_case(VECTORS / "krasserm/decoder_no_residual.npz"), style, 9)
    assert outcome(made, 1)[0] in ("right", "ambiguous", "refused")


def test_what_a_search_lacked_is_said() -> None:
    """Nothing but outputs, in an order of its own: there is no way to tell, and the message says so."""
    made = port("gated", traced=False, style=Style("letters", "shuffled", "qkv", matrices="each", trace="none"), seed=1)
    made.port.outputs = {name: array + 0.1 for name, array in made.port.outputs.items()}
    became, found = outcome(made, 0.5)
    assert became == "refused"
    assert "without gradients, arrays in an order of their own are found by recorded values alone" in found.message
    assert "--seconds gives more" in found.message


def test_what_is_not_foreseen_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    made = port("gated")

    def broken(*_: object) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr("perceiver_ref.porting.bind.quick.Quick.find", broken)
    with pytest.raises(InputError, match=r"cannot be bound: IndexError: list index out of range") as error:
        outcome(made)
    assert "\n" not in str(error.value)


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
