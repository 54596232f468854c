"""The models: hyper-parameters as frozen dataclasses, parameters as nested dicts, and a pure `apply`.

perceiver_io        Perceiver and Perceiver IO: inputs/, encoder, decoder with queries, outputs/
perceiver_ar/       Perceiver AR
pointing            units that point to each other, on any body
flamingo/           Perceiver Resampler, GATED XATTN-DENSE, and a whole Flamingo
resamplers/         resamplers of one set of features, and poolers that attend once
attention, layers, positions, rotary, modalities, masks, resize, tiling    what they are made of
module, call        a model as a tree of parameters and a pure `apply`; what one call needs besides
conventions         where implementations differ, each choice an option
published/          the published configurations; ledger/ has what they cost
tracing             names of intermediate values
classification      labels and accuracy; sampling draws tokens from logits
"""
