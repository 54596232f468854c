"""The table of small models: one row for each kind that deviations are planted in."""

from mutants.kinds.deepmind import DEEPMIND_MODELS
from mutants.kinds.flamingo import FLAMINGO_MODELS
from mutants.kinds.hf import HF_MODELS
from mutants.kinds.idefics import IDEFICS_MODELS
from mutants.kinds.lucidrains import LUCIDRAINS_MODELS

MODELS = (*HF_MODELS, *LUCIDRAINS_MODELS, *FLAMINGO_MODELS, *IDEFICS_MODELS, *DEEPMIND_MODELS)

__all__ = ["MODELS"]
