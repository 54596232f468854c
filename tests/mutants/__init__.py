"""Mutants: peers' own PyTorch code with one or two planted deviations, for the proof of `diagnose`.

`deviations` holds the table of what is planted, as edits of the peers' sources or changes of the built modules;
`models` the small models it is planted in; `make` writes vector cases with the answers beside them:
`python -m mutants.make OUT --seed S --count N`; `rate` says how many of them `diagnose`
names: `python -m mutants.rate OUT --jobs N`.
"""
