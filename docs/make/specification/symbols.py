"""Every symbol of the specification, once: the table of notation, docs/SPEC.md's and that of the diagrams."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Symbol:
    """A symbol as code and shapes have it, the same in LaTeX, and what it stands for.

    `short`: its name in the foot of a diagram, for sizes.
    """

    name: str
    latex: str
    meaning: str
    short: str = ""


SIZES = (
    Symbol("B", "B", "examples in a batch", "batch"),
    Symbol("M", "M", "input elements; inside an attention, whatever is attended to", "inputs"),
    Symbol("C", "C", "channels of an input element; of whatever is attended to", "input channels"),
    Symbol("N", "N", "latents; inside an attention, whatever attends", "latents"),
    Symbol("D", "D", "channels of a latent; of whatever an operation is applied to", "latent channels"),
    Symbol("O", "O", "queries of the decoder, each of which gives one output", "outputs"),
    Symbol("E", "E", "channels of a decoder's query; what a linear map leads to", "query channels"),
    Symbol("H", "H", "heads of an attention", "heads"),
    Symbol("d", "d", "channels of one head of queries and of keys", "channels a head, q and k"),
    Symbol("e", "e", "channels of one head of values", "channels a head, v"),
    Symbol("w", "w", "widening: how many times wider than its input an MLP is inside", "widening"),
    Symbol("A", "A", "axes of a grid: 1 for sound, 2 for images, 3 for video", "axes"),
    Symbol("K", "K", "frequency bands of Fourier features", "bands"),
    Symbol("V", "V", "what a logit stands for: entries of a vocabulary, or classes", "classes or vocabulary"),
    Symbol("P", "P", "tokens of a Perceiver AR before the first latent", "prefix"),
    Symbol("L", "L", "tokens of text in Flamingo", "text tokens"),
    Symbol("m", "m", "media (images or videos) of one text", "media"),
    Symbol("T", "T", "frames of a medium; 1 for an image", "frames"),
    Symbol("S", "S", "elements of a frame: places of the vision encoder's last feature map", "elements a frame"),
)

ARRAYS = (
    Symbol("X", "X", "inputs with their positions, (B, M, C)"),
    Symbol("Z", "Z", "latents, (B, N, D); with an index, after so many layers"),
    Symbol("U", "U", "queries of the decoder, (B, O, E)"),
    Symbol("Y", "Y", "outputs of the decoder, (B, O, E)"),
    Symbol("x", "x", "whatever an equation is applied to, one element in its last axis"),
    Symbol("y", "y", "what an equation gives"),
    Symbol("z", "z", "whatever x attends to"),
    Symbol("q", "q", "queries of a head, (N, d)"),
    Symbol("k", "k", "keys of a head, (M, d)"),
    Symbol("v", "v", "values of a head, (M, e)"),
    Symbol("s", "s", "scores of an attention before its softmax, (N, M)"),
    Symbol("p", "p", "weights of an attention, (N, M); in a loss, probabilities"),
    Symbol("t", "t", "targets of a loss"),
)

TRAINED = (
    Symbol("W", "W", "weight of a linear map, (inputs, outputs); its index says of which map"),
    Symbol("b", "b", "bias of the map with the same index"),
    Symbol("gamma", r"\gamma", "scale of a norm, (D,)"),
    Symbol("beta", r"\beta", "offset of a norm, (D,)"),
    Symbol("alpha", r"\alpha", "gates of GATED XATTN-DENSE, 0 at the start; 1: attention's, 2: the MLP's"),
)

OTHERS = (
    Symbol("epsilon", r"\epsilon", "the small number in a norm's root"),
    Symbol("pi", r"\pi", "3.14159..."),
    Symbol("f", "f", "a frequency of Fourier features, in half turns a unit of position"),
    Symbol("mu", r"\mu", "resolution: samples along an axis, twice the highest frequency"),
    Symbol("r", "r", "channels of a head that a rotary embedding turns"),
    Symbol("phi", r"\phi", "how many media come up to a token"),
    Symbol("omega", r"\omega", "how far a rotary embedding turns a pair of channels, radians a token"),
    Symbol("lambda", r"\lambda", "weight of one loss among several"),
    Symbol("i", "i", "index of what attends, or of an output"),
    Symbol("j", "j", "index of what is attended to, or of an input"),
    Symbol("h", "h", "index of a head"),
    Symbol("n", "n", "index of one of several parts: bands, losses, layers"),
)

GROUPS = {
    "Sizes": SIZES,
    "Arrays": ARRAYS,
    "Trained": TRAINED,
    "Others": OTHERS,
}
"""Title -> its rows."""


def table(title: str) -> str:
    """One group of symbols as a table."""
    rows = [f"| {_written(symbol)} | {symbol.meaning} |" for symbol in GROUPS[title]]
    return "\n".join(["| symbol | what it stands for |", "| --- | --- |", *rows])


def _written(symbol: Symbol) -> str:
    return f"${symbol.latex}$" if symbol.name == symbol.latex else f"${symbol.latex}$ (`{symbol.name}`)"
