"""`perceiver-ref generate`: a saved model goes on with a text."""

from __future__ import annotations

import argparse

import numpy as np

from ..autograd.backend import BACKENDS, module, to_backend, to_host
from ..errors import InputError
from ..host.files import write_text
from ..models.flamingo import Chunk, Flamingo, interleave
from ..models.flamingo import generate as continued
from ..models.flamingo.prompts import decode as words
from ..models.inputs.bytes import VOCABULARY, decode, encode
from ..models.perceiver_ar import PerceiverAR
from ..models.perceiver_ar import generate as drawn
from ..training.own.saved import read_saved
from .main import OK
from .result import write_result


def options(command: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = command.add_argument
    add("model", metavar="FILE", help="the model: model.npz of `train generate`, or what pr.save wrote of such a model")
    add("--prompt", required=True, metavar="TEXT", help="what the text begins with")
    add("--most", type=int, default=200, metavar="N", help="bytes to add (default: 200)")
    add("--temperature", type=float, default=0.7, metavar="T", help="0 takes the likeliest byte (default: 0.7)")
    add("--top-p", type=float, default=0.95, metavar="P", help="draw from the likeliest of this share (default: 0.95)")
    add("--seed", type=int, default=0, help="of what is drawn (default: 0)")
    add("--backend", choices=BACKENDS, default="numpy", help="array library (default: numpy)")
    add("--output", metavar="F", help="also write the text")


def generate(given: argparse.Namespace) -> int:
    """`perceiver-ref generate`: 0 when it is done."""
    module(given.backend)
    if given.most < 0 or given.seed < 0:
        raise InputError(f"--most and --seed must be at least 0, got {min(given.most, given.seed)}")
    saved = read_saved(given.model, given.backend)
    chosen = {"most": given.most, "temperature": given.temperature, "top_p": given.top_p, "seed": given.seed}
    prompt = given.prompt.encode("utf-8", errors="surrogateescape")
    if isinstance(saved.model, Flamingo):
        text = prompt.decode("utf-8", errors="replace")
        (ids,) = continued(saved.model, saved.params, [interleave([Chunk(text)], complete=False)], **chosen)
        made = text + words(ids)
    elif isinstance(saved.model, PerceiverAR) and saved.model.vocabulary >= VOCABULARY:
        if not prompt:
            raise InputError("--prompt needs at least one byte to go on from")
        ids = to_backend(np.asarray(encode(prompt))[None], given.backend)
        made = decode(to_host(drawn(saved.model, saved.params, ids, **chosen))[0])
    else:
        raise InputError(
            f"{given.model} holds a {type(saved.model).__name__}, which does not go on with a text of bytes"
        )
    print(made)
    if given.output:
        write_text(given.output, made)
    write_result(given.json, {"model": str(given.model), "prompt": given.prompt, "text": made})
    return OK
