"""Fresh vectors for a porter: cases of any class that the reference can rebuild, and the conformance pack.

small         a published model with the same structure and few parameters
subject       a class, and how its arguments are laid out
layouts       the arguments of our own models; `theirs` those of other implementations
draw          random parameters, inputs and cotangents
adversarial   the table of cases: what each changes and what it catches
operations    the table of single operations
make          one case
pack          the conformance pack
write         a folder of cases with its index
"""
