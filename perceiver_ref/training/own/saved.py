"""A saved model in use: outputs of arrays, classes of examples, masked bytes of a text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...autograd import backend as backends
from ...autograd import tree
from ...autograd.backend import to_host
from ...autograd.tree import Tree
from ...errors import InputError, input_errors
from ...host.files import AnyPath, existing_file
from ...models.call import Call
from ...models.inputs import TextInput
from ...models.inputs.bytes import MASK, PAD, VOCABULARY, encode
from ...models.inputs.bytes import decode as text_of
from ...weights.checkpoints import read_checkpoint
from ...weights.saving import first_argument
from .examples import Scaling, scaling_of

MASKED = "[MASK]"
"""What stands for one masked byte of a text."""
_LONGEST = 1 << 24  # bytes of a text
Run = Callable[[Mapping[str, Any]], dict[str, np.ndarray]]


@dataclass(frozen=True)
class SavedModel:
    """What `save` wrote: the model with its parameters and statistics, and what it is for.

    `run` computes outputs by name from arguments by name; `argument` is the name of the inputs.
    """

    path: Path
    model: Any
    params: Tree
    task: Mapping[str, Any]
    run: Run
    argument: str

    @property
    def kind(self) -> str:
        """ "classify", "language", "generate", or "" where nothing says."""
        kind = self.task.get("task", "")
        return kind if isinstance(kind, str) else ""

    def outputs(self, arguments: Mapping[str, np.ndarray], batch: int) -> dict[str, np.ndarray]:
        """Outputs by name of arguments by name, `batch` examples at a time."""
        if not arguments:
            raise InputError("there are no inputs")
        first = next(iter(arguments.values()))
        count = len(first) if first.ndim else 0
        if not count:
            raise InputError("the inputs hold no examples")
        pieces: list[dict[str, np.ndarray]] = []
        for start in range(0, count, batch):
            some = {k: a[start : start + batch] if a.ndim and len(a) == count else a for k, a in arguments.items()}
            pieces.append(self.run(some))
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def scaling(self) -> Scaling:
        """How examples are scaled for a classifier."""
        return scaling_of(self.task.get("inputs"), self.path)

    def classes(self, count: int) -> list[str]:
        """The names of classes, if the file has as many as there are logits; else their numbers."""
        named = self.task.get("classes")
        right = isinstance(named, list) and len(named) == count and all(isinstance(name, str) for name in named)
        return list(named) if right and named is not None else [str(i) for i in range(count)]

    def probabilities(self, inputs: np.ndarray, batch: int) -> np.ndarray:
        """Of each class, (N, classes), for inputs (N, ...), scaled as in training where the file says how."""
        if self.kind == "classify":
            inputs = self.scaling().apply(inputs)
        (logits,) = self.outputs({self.argument: inputs}, batch).values()
        if logits.ndim != 2:
            raise InputError(f"{self.path} is no classifier: its outputs are of shape {logits.shape}")
        shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True).astype(np.float64))
        made: np.ndarray = shifted / shifted.sum(-1, keepdims=True)
        return made

    def filled(self, text: str, batch: int) -> str:
        """A text with its masked bytes filled in, each by the likeliest; `MASKED` stands for one of them.

        Windows of the model's length are filled in on their own.
        """
        preprocessor = getattr(self.model, "preprocessor", None)
        if not isinstance(preprocessor, TextInput) or preprocessor.vocabulary < VOCABULARY:
            raise InputError(f"{self.path} is no model of bytes of text; a text is no input of it")
        pieces = re.split(re.escape(MASKED), text)
        ids = encode(pieces[0])
        for piece in pieces[1:]:
            ids = np.concatenate([ids, [MASK], encode(piece)])
        if len(pieces) == 1:
            raise InputError(f"the text has no {MASKED}, which stands for each byte to be filled in")
        if len(ids) > _LONGEST:
            raise InputError(f"the text has more than {_LONGEST >> 20} MiB; give a part of it")
        length = preprocessor.length
        windows = np.full((-(-len(ids) // length), length), PAD, np.int64)
        windows.reshape(-1)[: len(ids)] = ids
        arguments = {self.argument: windows}
        if len(ids) % length:
            arguments["mask"] = (windows != PAD) | (np.arange(windows.size).reshape(windows.shape) < len(ids))
        (logits,) = self.outputs(arguments, batch).values()
        guesses = logits[..., 6:VOCABULARY].argmax(-1).reshape(-1)[: len(ids)] + 6
        return text_of(np.where(ids == MASK, guesses, ids))


def read_saved(path: AnyPath, backend: str = "numpy") -> SavedModel:
    """The model of a file that `save`, `fit`, a recipe or `convert` wrote; `InputError` for any other file."""
    path = existing_file(path, "a saved model, an .npz file")
    checkpoint = read_checkpoint(None, path)
    made = checkpoint.rebuilt

    def placed(array: np.ndarray) -> Any:
        return backends.to_backend(array, backend)

    params, state = (tree.map(placed, part) for part in made.load(checkpoint.arrays, path))
    dtype = next((p.dtype for _, p in tree.leaves(params) if p.dtype.kind == "f"), np.dtype(np.float32))

    def run(arguments: Mapping[str, Any]) -> dict[str, np.ndarray]:
        given = {k: placed(a.astype(dtype)) if a.dtype.kind == "f" else a for k, a in arguments.items()}
        with input_errors(f"{path}: these inputs do not fit the model"):
            out = made.run(made.model, params, given, {}, Call(state=state))
        return {name: to_host(array) for name, array in out.items()}

    return SavedModel(path, made.model, params, checkpoint.task or {}, run, _argument(checkpoint.peer, made.model))


def _argument(peer: str, model: Any) -> str:
    """The name of the inputs among a class's arguments."""
    return first_argument(model) if peer == "perceiver-ref" else "inputs"
