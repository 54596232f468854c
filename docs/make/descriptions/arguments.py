"""What every class is called with."""

from __future__ import annotations

ARGUMENTS: dict[str, dict[str, str]] = {
    "PerceiverIO": {
        "inputs": "what the preprocessor takes: images (B, H, W, C) or video (B, T, H, W, C), token ids (B, M), audio "
        "(B, samples, channels), points or vectors (B, M, C); several modalities by name, `inputs.audio`",
        "mask": "(B, M), True where an element is real",
        "bias": "added to the logits of the cross-attention, broadcast to (B, heads, N, M)",
        "latents": "(B, N, D), in place of the learned ones",
        "pos": "positions of the elements (B, M, axes), in place of the grid's",
        "queries": "(B, O, E), in place of the decoder's",
        "query_mask": "(B, O), True where a query is real: others give rows without any key",
        "points": "(O,), flat row-major indices of the outputs wanted; of several modalities by name, `points.audio`",
    },
    "PerceiverResampler": {
        "features": "(B, m, T, S, D), or (B, m, S, D) of single frames, or (B, S, D) of single media",
        "mask": "of the same shape without D, True where a token is real",
    },
    "Resampler": {
        "features": "(..., S, C), all axes before S together being B",
        "latents": "(B, N, D), where the model has no learned ones",
        "mask": "(B, S), True where a feature is real",
        "key_mask": "(B, keys), in its place: the same of all keys, latents among them, in their order",
    },
    "AttentionPool": {
        "features": "(B, S, C)",
        "mask": "(B, S), True where a feature is real",
        "bias": "added to the logits, broadcast to (B, heads, N, keys)",
        "query_positions": "(N, D), added to the normed latents",
        "key_positions": "(S, D) or (B, S, D), added to what keys are made of, but not values",
    },
    "LatentAttention": {
        "x": "(B, N, D)",
        "features": "(B, S, C)",
        "mask": "(B, S), True where a feature is real",
    },
    "CrossAttention": {
        "x": "(B, N, q_inputs)",
        "z": "(B, M, kv_inputs)",
        "mask": "broadcast to (B, N, M), True where x may attend to z",
        "bias": "added to the logits, broadcast to (B, heads, N, M)",
    },
    "SelfAttention": {
        "x": "(B, N, channels)",
        "mask": "broadcast to (B, N, N), True where an element may attend to another",
        "bias": "added to the logits, broadcast to (B, heads, N, N)",
    },
    "GatedCrossAttention": {
        "text": "(B, L, D)",
        "media": "(B, m, N, C)",
        "locations": "(B, L), True at the tag of a medium; without it all text sees all media",
        "which": '"immediate": text sees the last medium before it or at it; "all": all of these',
    },
    "PerceiverAR": {
        "ids": "(B, M), whole numbers from 0 to `vocabulary` - 1",
        "mask": "(B, M), True where a token is real; padding is on the left",
        "prefix": "the number P of tokens that are no latents",
    },
}
"""By class, what it is called with: arrays, and options of `call`. Those of other classes are a part of these."""
ARGUMENTS["GatedLayers"] = ARGUMENTS["GatedCrossAttention"]
