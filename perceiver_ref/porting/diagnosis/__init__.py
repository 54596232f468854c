"""Why outputs differ: rounding, or which deviation.

diagnose   the verdict on a case
envelope   the errors that correct arithmetic of a dtype makes at each point
search     single deviations, parts in less precision, pairs
at_once    deviations beside the same others, many in one run
nearby     the ops before the first point that differs
parts      parts in less precision
pairs      two deviations at once
fit        how much of the difference a run explains
parameters  whether each is used, and its gradient
points     each compared array, measured
formats    which format the numbers were computed in
"""
