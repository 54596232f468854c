"""The diagrams of Perceiver and Perceiver IO, and of the layer that both are made of."""

from __future__ import annotations

from perceiver_ref.models.encoder import Encoder
from perceiver_ref.models.published import preset

from .figures import Drawing, Figure, heads
from .svg import Picture


def _perceiver(d: Drawing) -> None:
    d.picture = g = Picture("Perceiver: attend to the inputs, think, attend again", 860, 785)
    encoder: Encoder = preset(PERCEIVER.preset).encoder
    crosses, blocks, layers = (
        d.count("encoder.cross_attention.{}"),
        d.count("encoder.blocks.{}.0"),
        d.count("encoder.blocks.0.{}"),
    )
    assert (encoder.shared_cross, encoder.shared_blocks, crosses) == ("later", "all", blocks)

    image = g.box(30, 60, 250, "data", "image", "pixels, 3 channels")
    fourier = g.box(30, 165, 250, "map", "concatenate positions", "Fourier features of the pixel's place")
    g.arrow(image.bottom, fourier.top)
    d.shape(167, 122, "given.0", "B, 224, 224, 3")
    inputs = g.box(30, 270, 250, "data", "inputs X", "one element a pixel", "no order, no grid: a set", h=190)
    g.arrow(fourier.bottom, inputs.top)
    d.shape(167, 232, "input", "B, M, C")

    x, w = 520, 290
    latents = g.box(x, 60, w, "weights", "latents Z, learned", "the same for every example")
    first = g.box(x, 165, w, "attention", "cross-attention 0", f"{heads(encoder.cross_heads)}, weights of its own")
    block = g.box(x, 270, w, "attention", f"block 0: {layers} self-attentions", heads(encoder.self_heads))
    g.frame(x - 20, 352, w + 40, 190, f"{crosses - 1} times, same weights")
    again = g.box(x, 375, w, "attention", f"cross-attention 1 to {crosses - 1}", "one set of weights for all of them")
    more = g.box(x, 470, w, "attention", f"block 1 to {blocks - 1}: {layers} self-attentions", "the weights of block 0")
    mean = g.box(x, 595, w, "map", "mean over the latents")
    logits = g.box(x, 675, w, "map", "linear map", "logits of the classes")
    for a, b in ((latents, first), (first, block), (block, again), (again, more), (more, mean), (mean, logits)):
        g.arrow(a.bottom, b.top)
    right = x + w / 2 + 12
    d.shape(right, 122, "encoder.latents", "B, N, D")
    d.shape(right, 227, "encoder.cross_attention.0", "B, N, D")
    d.shape(right, 330, "encoder.blocks.0.5", "B, N, D")
    d.shape(right, 437, "encoder.cross_attention.1", "B, N, D")
    d.shape(right, 564, "encoder", "B, N, D")
    d.shape(right, 644, "decoder.mean", "B, D")
    g.arrow(logits.bottom, (x + w / 2, 764))
    d.shape(right, 740, "decoder", "B, V")

    g.arrow((280, 300), (340, 300), (340, first.left()[1]), first.left())
    g.arrow((280, again.left()[1]), again.left())
    for at, y in ((0, first.left()[1]), (1, again.left()[1])):
        g.note(355, y - 8, "keys and values")
        d.shape(355, y + 18, f"encoder.cross_attention.{at}.key_value_norm", "B, M, C")
    g.note(30, 500, "The inputs are read again and again; what is learned")
    g.note(30, 516, "about them stays in the latents, whose number N does")
    g.note(30, 532, "not grow with M.")


def _perceiver_io(d: Drawing) -> None:
    d.picture = g = Picture("Perceiver IO: encode, process, decode (the language model)", 900, 608)
    model = preset(PERCEIVER_IO.preset)
    encoder, decoder = model.encoder, model.decoder
    layers, blocks = d.count("encoder.blocks.0.{}"), d.count("encoder.blocks.{}.0")
    assert blocks == 1
    w, left, middle, right = 200, 25, 350, 675
    g.note(left, 60, "encode: once, linear in M")
    g.note(middle, 60, "process: independent of M and O")
    g.note(right, 60, "decode: linear in O")

    tokens = g.box(left, 80, w, "data", "token ids", "bytes of text")
    embed = g.box(left, 185, w, "map", "embedding + positions", "both learned tables")
    inputs = g.box(left, 290, w, "data", "inputs X", h=60)
    g.arrow(tokens.bottom, embed.top)
    d.shape(137, 143, "given.0", "B, M")
    g.arrow(embed.bottom, inputs.top)
    d.shape(137, 253, "input", "B, M, C")

    latents = g.box(middle, 80, w, "weights", "latents Z, learned", "the same for every text")
    cross = g.box(middle, 290, w, "attention", "cross-attention", heads(encoder.cross_heads), h=60)
    g.arrow(latents.bottom, cross.top)
    d.shape(462, 200, "encoder.latents", "B, N, D")
    g.arrow(inputs.right(), cross.left())
    g.note(236, 312, "keys, values")
    block = g.box(middle, 415, w, "attention", f"{layers} self-attentions", heads(encoder.self_heads), h=60)
    g.arrow(cross.bottom, block.top)
    d.shape(462, 377, "encoder.cross_attention", "B, N, D")

    queries = g.box(right, 80, w, "weights", "queries U, learned", "one for each place of output")
    out = g.box(right, 415, w, "attention", "cross-attention", heads(decoder.heads), "no query residual", h=60)
    g.arrow(queries.bottom, out.top)
    d.shape(787, 265, "decoder.queries", "B, O, E")
    g.arrow(block.right(), out.left())
    g.note(561, 437, "keys, values")
    d.shape(561, 463, "encoder", "B, N, D")
    logits = g.box(right, 530, w, "map", "linear map", "the embedding, transposed")
    g.arrow(out.bottom, logits.top)
    d.shape(787, 497, "decoder", "B, O, E")
    g.arrow(logits.left(), (560, logits.left()[1]))
    d.shape(550, logits.left()[1] - 3, "output", "B, O, V", "end")
    g.note(550, logits.left()[1] + 26, "logits of the vocabulary", "end")


def _layer(d: Drawing) -> None:
    d.picture = g = Picture("The cross-attention layer (the language model's encoder)", 900, 868)
    at = "encoder.cross_attention"
    w = 190
    xs, zs = 110, 540
    x0 = g.box(xs, 55, w, "data", "x", "what attends")
    z0 = g.box(zs, 55, w, "data", "z", "what is attended to")
    nq = g.box(xs, 150, w, "map", "norm")
    nk = g.box(zs, 150, w, "map", "norm")
    query = g.box(xs, 240, w, "map", "linear map: queries q")
    key = g.box(zs - 110, 240, w, "map", "linear map: keys k")
    value = g.box(zs + 110, 240, w, "map", "linear map: values v")
    for a, b in ((x0, nq), (z0, nk), (nq, query)):
        g.arrow(a.bottom, b.top)
    for b in (key, value):
        g.arrow(nk.bottom, (nk.bottom[0], 210), (b.top[0], 210), b.top)
    d.shape(217, 118, f"{at}.query_norm", "B, N, D")
    d.shape(647, 118, f"{at}.key_value_norm", "B, M, C")
    weights = g.box(
        xs + 85, 350, 360, "attention", "softmax over unmasked keys of q kᵀ / √d", "for every head on its own"
    )
    g.arrow(query.bottom, (query.bottom[0], 350))
    g.arrow(key.bottom, (key.bottom[0], 350))
    d.shape(217, 300, f"{at}.attention.query", "B, N, H d")
    d.shape(537, 300, f"{at}.attention.key", "B, M, H d")
    mixed = g.box(xs + 85, 455, 360, "attention", "weights times values, heads side by side")
    g.arrow(weights.bottom, mixed.top)
    d.shape(387, 420, f"{at}.attention.weights", "B, H, N, M")
    g.arrow(value.bottom, (value.bottom[0], mixed.y + mixed.h / 2), mixed.right())
    d.shape(757, 300, f"{at}.attention.value", "B, M, H e")
    merge = g.box(xs + 85, 545, 360, "map", "linear map: output")
    g.arrow(mixed.bottom, merge.top)
    d.shape(387, 508, f"{at}.attention.mixed", "B, N, H e")
    first = g.plus(375, 615)
    g.arrow(merge.bottom, first.top)
    g.arrow((xs, 75), (60, 75), (60, 615), first.left())
    g.note(75, 608, "query residual (optional)")
    d.shape(395, 612, f"{at}.attention_residual", "B, N, D")
    norm = g.box(xs + 85, 655, 360, "map", "norm")
    g.arrow(first.bottom, norm.top)
    hidden = g.box(xs + 85, 715, 360, "map", "MLP with GELU")
    g.arrow(norm.bottom, hidden.top)
    d.shape(575, 727, f"{at}.mlp.hidden", "B, N, w D")
    g.note(575, 757, "between the maps")
    last = g.plus(375, 785)
    g.arrow(hidden.bottom, last.top)
    g.arrow((375, 638), (60, 638), (60, 785), last.left())
    g.arrow(last.bottom, (375, 850))
    d.shape(395, 815, at, "B, N, D")


PERCEIVER = Figure("perceiver", "Perceiver on ImageNet", "perceiver/imagenet", _perceiver)
PERCEIVER_IO = Figure("perceiver-io", "Perceiver IO as a language model", "perceiver-io/language", _perceiver_io)
LAYER = Figure("layer", "The cross-attention layer", "perceiver-io/language", _layer)
