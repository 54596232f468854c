"""Why gradients differ where outputs agree: which op's backward pass, and why.

diagnose    the verdict on a case's gradients
target      the gradients under test
graph       the recorded backward pass, walked again with changes
backward/   the table of wrong backward rules
search      the one of them that explains the difference
large       the same of a large case, near the first wrong gradients
large_target   what of its gradients is wrong, told in one walk
walking     walks that keep little, from where another has passed
light       what a recorded step keeps of a large graph
rounding    the errors that correct arithmetic makes in gradients
finishing   what is done to gradients after the pass: averages, clipping, factors
"""
