"""Weights: read from files, fitted to a peer's names or ours, and written.

checkpoints   another implementation's checkpoint as a model and its parameters, and back
formats/      the files that weights come in, one reader each
"""
