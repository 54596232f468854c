"""Two hundred ports drawn at random from the peers' cases: bound right, called ambiguous or refused, and never wrong.

`python -m heavy.test_bind_random [first] [last] [--jobs N] [--seconds S]`, in tests/, prints a line for each and what
becomes of them by kind; the exit code is 1 where one is bound wrong or ends in an error. It imports numpy and pytest.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Judged:
    """What became of a variant: one of `COLUMNS`."""

    number: int
    case: str
    style: Style
    became: str
    message: str
    seconds: float

    def said(self) -> str:
        """One line."""
        message = " ".join(self.message.split())[:200]
        return f"{self.number} {self.case}: {self.became}, {self.seconds:.1f} s; {self.style.said()}; {message}"


COLUMNS = ("right", "ambiguous", "refused", "WRONG", "ERROR")


def line(number: int, seconds: float) -> Judged:
    """One variant judged; what is raised, even `InputError`, is an error: the arrays of every one are all there."""
    began = time.thread_time()
    try:
        name, style, became, message = judged(number, seconds)
    except Exception as error:
        name, style = CASES[number % len(CASES)], drawn(np.random.default_rng(number))
        became, message = "ERROR", f"{type(error).__name__}: {error}"
    return Judged(number, name, style, became, message, time.thread_time() - began)


def lines(first: int, last: int, jobs: int, seconds: float) -> Iterator[Judged]:
    """Every variant, as soon as it is done."""
    if jobs == 1:
        yield from (line(number, seconds) for number in range(first, last))
        return
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(line, number, seconds) for number in range(first, last)]):
            yield done.result()


def table(found: list[Judged]) -> str:
    """What became of the variants, by each option."""
    counts: dict[str, Counter[str]] = {}
    for row in found:
        for key in ("all", row.case, *(f"{option} {value}" for option, value in vars(row.style).items())):
            counts.setdefault(key, Counter())[row.became] += 1
    rows = [f"{key:45}" + "".join(f"{made[column]:11}" for column in COLUMNS) for key, made in sorted(counts.items())]
    return "\n".join([" " * 45 + "".join(f"{column:>11}" for column in COLUMNS), *rows])


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=int, nargs="?", default=0)
    parser.add_argument("last", type=int, nargs="?", default=COUNT)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    given = parser.parse_args()
    found = []
    for row in lines(given.first, given.last, given.jobs, given.seconds):
        print(row.said(), flush=True)
        found.append(row)
    print(table(found))
    return int(any(row.became in ("WRONG", "ERROR") for row in found))


if __name__ == "__main__":
    sys.exit(main())
