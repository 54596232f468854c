"""docs/MODELS.md: each model for a port in another language, made of tables.

fields       every field of a configuration, and what null means
courses      what is computed, in the order of the trace
arguments    what every class is called with
activations  each activation as a formula
page         the command, which prints the page
"""
