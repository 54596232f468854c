"""What Perceivers cost here and in other implementations: time, memory, and the share of the machine that is used.

`python -m bench`, in a clone with the package installed (`python -m pip install -e ".[peers]"`, and `jax`, for
everything to compare with). Every implementation runs in a process of its own, all on the same weights and inputs;
their outputs and gradients are compared first, and then they take turns, so that what else the machine does hits all
of them alike. What is not installed is a line that says so.

case             what a case is
cases            what is measured: a table of rows, each with its full and its quick sizes
subjects         the models of the cases: another implementation's class with its configuration and inputs
digits, engines  models that are no other implementation's class: of a recipe, and for the engine alone
implementations  what measures a case: ours, and each other one
targets          what the figures should be: a table of rows
worker           the process of one implementation; `process` is its other end
session          turns, ratios
busy             processes that keep the machine busy meanwhile, if asked for
scaling          exponents
page             docs/PERFORMANCE.md
"""
