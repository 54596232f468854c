"""A case under test: the reference rebuilt for it, run as it is and with deviations.

subject   what it is run on, and what its results are compared with
close     how close large arrays are
memo      results kept, so that a run computes only what a deviation changes
tiles     many runs with deviations in one
tile      such a run: what copies share, and what each has in its place
cause     what explains a difference, and when it does
"""

from .cause import EXPLAINED, NOTHING, Cause
from .subject import CANNOT_BE_RUN, Arrays, Subject

__all__ = ["CANNOT_BE_RUN", "EXPLAINED", "NOTHING", "Arrays", "Cause", "Subject"]
