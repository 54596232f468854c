"""The diagrams of Flamingo's Perceiver Resampler and GATED XATTN-DENSE."""

from __future__ import annotations

from perceiver_ref.models.published import preset

from .figures import Drawing, Figure, heads
from .svg import Picture

ALPHA = "\N{GREEK SMALL LETTER ALPHA}"


def _resampler(d: Drawing) -> None:
    d.picture = g = Picture("Perceiver Resampler: any number of frames to N latents (Flamingo-3B)", 900, 840)
    model = preset(RESAMPLER.preset)
    layers, at = d.count("resampler.layers.{}"), "resampler.layers.0"
    w, x = 270, 545
    down = x + w / 2
    features = g.box(40, 60, w, "data", "features of the vision encoder", "for every medium, frame and place")
    times = g.box(345, 60, 170, "weights", "time embeddings", "one for each frame")
    added = g.plus(175, 165)
    g.arrow(features.bottom, added.top)
    g.arrow(times.bottom, (times.bottom[0], 165), added.right())
    d.shape(187, 130, "given.0", "B, m, T, S, D")
    d.shape(times.bottom[0] + 12, 130, "parameter.time_embedding", "T, D")
    flat = g.box(40, 205, w, "map", "flatten frames and places")
    g.arrow(added.bottom, flat.top)
    latents = g.box(x, 60, w, "weights", "latents, learned", "the same for every medium")

    g.frame(20, 285, 860, 405, f"{layers} layers, each with weights of its own")
    fn = g.box(40, 325, w, "map", "norm")
    ln = g.box(x, 325, w, "map", "norm")
    g.arrow(flat.bottom, fn.top)
    g.arrow(latents.bottom, ln.top)
    d.shape(187, 254, "resampler.features", "B, m, T S, D")
    d.shape(down + 12, 180, "resampler.latents", "B, m, N, D")
    joined = g.box(40, 400, w, "map", "features, then latents", "concatenated for keys and values")
    g.arrow(fn.bottom, joined.top)
    g.arrow(ln.left(), (360, ln.left()[1]), (360, joined.left(0.25)[1]), joined.right(0.25))
    attention = g.box(x, 410, w, "attention", "attention", heads(model.heads))
    g.arrow(ln.bottom, attention.top)
    d.shape(down + 12, 377, f"{at}.latents_norm", "B, m, N, D")
    g.note(down - 10, 385, "queries", "end")
    g.arrow(joined.right(0.75), (x, joined.right(0.75)[1]))
    g.note(370, 428, "keys, values")
    d.shape(325, 451, f"{at}.attention.key", "B, m, T S + N, H d")
    g.note(x - 8, 480, "weights", "end")
    d.shape(x - 8, 495, f"{at}.attention.weights", "B, m, H, N, T S + N", "end")
    one = g.plus(down, 487)
    g.arrow(attention.bottom, one.top)
    g.arrow((down, 305), (850, 305), (850, 487), one.right())
    norm = g.box(x, 530, w, "map", "norm")
    mlp = g.box(x, 590, w, "map", "MLP with squared ReLU")
    g.arrow(one.bottom, norm.top)
    g.arrow(norm.bottom, mlp.top)
    d.shape(x - 8, 598, f"{at}.mlp.hidden", "B, m, N, w D", "end")
    g.note(x - 8, 627, "between the maps", "end")
    two = g.plus(down, 655)
    g.arrow(mlp.bottom, two.top)
    g.arrow((down, 512), (850, 512), (850, 655), two.right())
    last = g.box(x, 745, w, "map", "norm")
    g.arrow(two.bottom, last.top)
    d.shape(down + 12, 713, at, "B, m, N, D")
    g.arrow(last.bottom, (down, 820))
    d.shape(down + 12, 797, "resampler", "B, m, N, D")


def _gated(d: Drawing) -> None:
    d.picture = g = Picture("GATED XATTN-DENSE before a frozen layer (Flamingo-3B)", 900, 840)
    model = preset(GATED.preset)
    at, w, x = "gated.0", 280, 480
    text = g.box(x, 60, w, "data", "text x", "what the layer below gives")
    norm = g.box(x, 165, w, "map", "norm")
    g.arrow(text.bottom, norm.top)
    d.shape(x + w / 2 + 12, 122, "given.0", "B, L, D")
    attention = g.box(x, 245, w, "attention", "cross-attention", f"{heads(model.block.heads)}; mask: medium φ alone")
    g.arrow(norm.bottom, attention.top)
    d.shape(x + w / 2 + 12, 213, f"{at}.norm", "B, L, D")
    g.note(x - 12, 286, "weights", "end")
    d.shape(x - 12, 301, f"{at}.attention.weights", "B, H, L, m N", "end")
    gate = g.box(x, 330, w, "map", f"times tanh({ALPHA}1)")
    g.arrow(attention.bottom, gate.top)
    d.shape(x + w / 2 + 12, 303, f"{at}.attention", "B, L, D")
    one = g.plus(x + w / 2, 400)
    g.arrow(gate.bottom, one.top)
    g.arrow((x + w / 2, 152), (x + w + 40, 152), (x + w + 40, 400), one.right())
    d.shape(x + w / 2 + 16, 418, f"{at}.attention_residual", "B, L, D")
    norm2 = g.box(x, 455, w, "map", "norm")
    mlp = g.box(x, 520, w, "map", "MLP with squared ReLU")
    gate2 = g.box(x, 600, w, "map", f"times tanh({ALPHA}2)")
    g.arrow(one.bottom, norm2.top)
    g.arrow(norm2.bottom, mlp.top)
    g.arrow(mlp.bottom, gate2.top)
    d.shape(x - 12, 532, f"{at}.mlp.hidden", "B, L, w D", "end")
    g.note(x - 12, 562, "between the maps", "end")
    d.shape(x + w / 2 + 12, 570, f"{at}.mlp", "B, L, D")
    two = g.plus(x + w / 2, 670)
    g.arrow(gate2.bottom, two.top)
    g.arrow((x + w / 2, 444), (x + w + 40, 444), (x + w + 40, 670), two.right())
    frozen = g.box(x, 730, w, "frozen", "layer of the language model", "self-attention and MLP, frozen")
    g.arrow(two.bottom, frozen.top)
    d.shape(x + w / 2 + 12, 697, at, "B, L, D")
    g.arrow(frozen.bottom, (x + w / 2, 810))

    media = g.box(50, 60, 250, "data", "media", "latents of the resampler")
    flat = g.box(50, 165, 250, "map", "media one after the other", "then linear maps: keys, values")
    g.arrow(media.bottom, flat.top)
    d.shape(187, 122, "given.1", "B, m, N, C")
    g.arrow(flat.bottom, (175, 267), attention.left())
    g.note(187, 259, "keys, values")
    d.shape(187, 287, f"{at}.attention.key", "B, m N, H d")
    gates = g.box(50, 330, 250, "weights", f"gates {ALPHA}1, {ALPHA}2", "one number each, 0 at the start")
    g.arrow(gates.right(0.4), (x, gates.y + gates.h * 0.4))
    g.arrow(gates.bottom, (175, gate2.y + gate2.h / 2), gate2.left())
    d.shape(187, 400, "parameter.0.attention_gate", "1")
    g.note(50, 660, "With both gates at 0 the layer gives x itself: training")
    g.note(50, 676, "starts from the unchanged language model.")


RESAMPLER = Figure("resampler", "Flamingo's Perceiver Resampler", "flamingo/resampler-3b", _resampler)
GATED = Figure("gated-xattn", "GATED XATTN-DENSE", "flamingo/gated-xattn-3b", _gated)
