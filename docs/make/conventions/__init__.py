"""Where the implementations differ: one table, with cases of theirs that show each difference.

rows             what a row is
perceiver        rows of Perceiver and Perceiver IO; those of inputs in perceiver_inputs
autoregressive   rows of Perceiver AR
resampler        rows of Flamingo's resampler
gated            rows of Flamingo's gated cross-attention
later            rows of resamplers that came after
poolers          rows of learned queries that attend once
sets             rows of encoders to latents of other trades
exchange         what becomes of a case when one choice is exchanged for another
page             docs/CONVENTIONS.md, made of the table

Rows of `Conventions` take their values from the dialects in conventions.py; the others say where the choice is kept.
"""

from conventions.autoregressive import AUTOREGRESSIVE
from conventions.gated import GATED
from conventions.later import LATER
from conventions.perceiver import PERCEIVER
from conventions.poolers import POOLERS
from conventions.resampler import RESAMPLER
from conventions.rows import Change, Convention, Edit, Evidence, Family, PartOption
from conventions.sets import SETS

FAMILIES: tuple[Family, ...] = (PERCEIVER, AUTOREGRESSIVE, RESAMPLER, GATED, LATER, POOLERS, SETS)

__all__ = ["FAMILIES", "Change", "Convention", "Edit", "Evidence", "Family", "PartOption"]
