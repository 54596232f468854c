"""docs/SPEC.md, the architectures as equations, and its diagrams: made of docstrings, traces and ledgers.

Written out anew, in a clone of the repository, by `python docs/make specification docs`.

text/        the chapters
page         the page: chapters with what is made put in
symbols      the notation, each symbol once
quotes       docstrings, and links to code
shapes       shapes of the published models, from a trace
costs        FLOPs and parameters
svg          a writer of diagrams
figures      what diagrams share
perceivers   the diagrams of Perceiver, Perceiver IO and their layer
flamingos    the diagrams of the Resampler and GATED XATTN-DENSE
"""
