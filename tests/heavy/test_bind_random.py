"""Two hundred ports drawn at random from the peers' cases: bound right, called ambiguous or refused, and never wrong.

`python -m heavy.test_bind_random [first] [last]`, in tests/, prints what becomes of them by kind.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from porting.port_variants import Style, drawn, outcome, variant

from perceiver_ref.porting.cases import read_case

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]
VECTORS = Path(__file__).parents[1] / "vectors"
COUNT = 200
SECONDS = 20
"""For the search of one; its cases are small."""
CASES = (
    "hf/layer_self",
    "hf/layer_cross",
    "hf/model_cross_only",
    "hf/decoder_basic",
    "lucidrains-perceiver/feed_forward",
    "lucidrains-perceiver/attention_queries_contribute",
    "lucidrains-perceiver/block_no_cross",
    "lucidrains-perceiver/io_latents_only",
    "lucidrains-flamingo/gated_immediate",
    "lucidrains-flamingo/resampler_3d",
    "idefics/gated_xattn_sdpa_no_mask",
    "idefics/gated_xattn_vector",
    "idefics2/resampler_gqa",
    "krasserm/decoder_no_residual",
    "krasserm/decoder_residual",
    "krasserm/encoder_1cross_1block",
    "open-flamingo/gated_all",
    "open-flamingo/gated_more_locations",
    "perceiver-ar/ar_decoder_only",
    "perceiver-ar/ar_absolute_sinusoidal",
    "mllama/cross_attention_layer_sdpa_no_mask",
    "ip-adapter/attention",
    "ip-adapter/resampler_plain",
    "timm/pool_map",
    "timm/pool_qknorm_pos_avg",
    "xtts/resampler_proj_context",
    "chatterbox/perceiver",
    "aria/projector",
    "shape2vecset/attention_self",
    "pulid/attention_ca",
    "siglip/head",
    "aurora/resampler",
    "edgetam/resampler_1d_pos",
    "nemo/perceiver_bridge",
    "diffusers/plus",
    "open-clip/pooler",
    "kosmos2/kosmos2_eager",
)


def judged(number: int, seconds: float = SECONDS) -> tuple[str, Style, str, str]:
    """The case, the style, the outcome of this variant, and what `bind` said of it."""
    name, style = CASES[number % len(CASES)], drawn(np.random.default_rng(number))
    made = variant(read_case(VECTORS / f"{name}.npz"), style, number)
    became, found = outcome(made, seconds)
    return name, style, became, found.message


@pytest.mark.parametrize("number", range(COUNT))
def test_none_is_bound_wrong(number: int) -> None:
    name, style, became, message = judged(number)
    assert became != "WRONG", (name, style.said(), message)


def table(first: int, last: int) -> str:
    """What became of the variants, by each option."""
    counts: dict[str, Counter[str]] = {}
    for number in range(first, last):
        start = time.monotonic()
        name, style, became, message = judged(number)
        seconds = time.monotonic() - start
        print(f"{number} {name}: {became}, {seconds:.1f} s; {style.said()}; {message[:150]}", flush=True)
        for key in ("all", name, *(f"{option} {value}" for option, value in vars(style).items())):
            counts.setdefault(key, Counter())[became] += 1
    columns = ("right", "ambiguous", "refused", "WRONG")
    rows = [f"{key:45}" + "".join(f"{found[column]:11}" for column in columns) for key, found in sorted(counts.items())]
    return "\n".join([" " * 45 + "".join(f"{column:>11}" for column in columns), *rows])


if __name__ == "__main__":
    print(table(*(int(a) for a in sys.argv[1:3])) if len(sys.argv) > 2 else table(0, COUNT))
