"""A port under names of its own: which of its arrays is which of the reference's, found by values and verified.

bind       from a case to a map
target     what it is bound to, and which input is which argument
tape       a run of the reference, any part of which can be computed again
views      how one array is read out of another
sources    what a parameter may be read from
stacks     layers kept as one array, taken apart
hints      what is tried first
records    the port's values, in whatever layout
quick      whole guesses first, run and compared
guesses    the port's arrays in some order laid along the reference's parameters
identities what gradients say about parameters exactly
narrow     alternatives narrowed by them
climb      choices improved by how far outputs are off
clock      what bounds a search
replay     a tape run again and again
solve      the search, op by op
doubts     what else would do as well
maps       the map as JSON
translate  a case translated by a map
"""
