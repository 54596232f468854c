"""The table of deviations: what is planted in which peer, with the cause that `diagnose` has to name."""

from mutants.deviations import (
    deepmind,
    deepmind_positions,
    flamingo,
    flamingo_gated,
    hf,
    hf_order,
    hf_positions,
    hf_tables,
    idefics,
    idefics_layers,
    lucidrains,
    lucidrains_positions,
)
from mutants.deviations.row import Deviation, NotApplicable

DEVIATIONS: tuple[Deviation, ...] = (
    *deepmind.ROWS,
    *deepmind_positions.ROWS,
    *flamingo.ROWS,
    *flamingo_gated.ROWS,
    *hf.ROWS,
    *hf_order.ROWS,
    *hf_positions.ROWS,
    *hf_tables.ROWS,
    *idefics.ROWS,
    *idefics_layers.ROWS,
    *lucidrains.ROWS,
    *lucidrains_positions.ROWS,
)

__all__ = ["DEVIATIONS", "Deviation", "NotApplicable"]
