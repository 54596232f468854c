"""Why outputs differ: rounding, or which deviation.

diagnose   the verdict on a case
subject    the reference rebuilt for a case, run as it is and with deviations
memo       results kept, so that a run computes only what a deviation changes
search     single deviations, parts in less precision, pairs
nearby     the ops before the first point that differs
parts      parts in less precision
pairs      two deviations at once
fit        how much of the difference a run explains
"""
