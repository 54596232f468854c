"""Resamplers and poolers written again, in NumPy and from their equations alone, right or with one mistake planted.

Nothing here is the package's: the mistakes that its table of deviations has to name are made without it. Each function
of `vision`, `projectors` and `speech` takes a case's configuration, call, parameters and inputs, and the name of a
mistake ("" for none), and gives the outputs by their names. `MODELS` says which function is whose, by "peer/class".
"""

from restated import projectors, speech, vision
from restated.basics import Given, Outputs

MODELS = {**vision.MODELS, **projectors.MODELS, **speech.MODELS}

__all__ = ["MODELS", "Given", "Outputs"]
