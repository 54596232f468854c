"""Backward mutants: peers' own PyTorch code whose outputs are right and whose gradients are wrong.

`wrong` holds the autograd functions that are planted, `rows` and `changes` the table of what is planted where, `make`
writes cases with the answers: `python -m mutants.backward.make OUT --seed S`.
"""
