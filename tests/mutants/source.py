"""A peer's modules run from their source text, with pieces of it replaced for a while."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

NO_DOCSTRING = "lambda *a, **_: a[0] if a else (lambda f: f)"
SCOPE_TEST = 'if getattr(self, "where", "") in {scopes!r}:'


@dataclass(frozen=True)
class Edit:
    """Whole lines `old` of a source, in `inside` (a class or function; "" means anywhere), to become `new`.

    Both are written without the indentation that the source gives them. With `scopes`, the edit holds only in modules
    whose attribute `where` is among them.
    """

    old: str
    new: str
    inside: str = ""

    @property
    def first(self) -> str:
        """The first of the lines, by which a text is passed over quickly."""
        return self.old.strip().splitlines()[0]

    def apply(self, text: str, scopes: tuple[str, ...] = ()) -> tuple[str, int]:
        """The text with every occurrence replaced, and the number of them."""
        done: list[str] = []
        count = 0
        old = textwrap.dedent(self.old).strip("\n").splitlines()
        lines = text.splitlines()
        i = 0
        while i < len(lines):
            found = lines[i : i + len(old)]
            margin = lines[i][: len(lines[i]) - len(lines[i].lstrip())]
            if found == [margin + line if line else "" for line in old]:
                done += _replacement(old, textwrap.dedent(self.new).strip("\n").splitlines(), margin, scopes)
                i += len(old)
                count += 1
            else:
                done.append(lines[i])
                i += 1
        return "\n".join(done) + "\n", count


def _replacement(old: list[str], new: list[str], margin: str, scopes: tuple[str, ...]) -> list[str]:
    if not scopes:
        return [margin + line for line in new]
    inner = margin + "    "
    return [
        margin + SCOPE_TEST.format(scopes=scopes),
        *(inner + line for line in new),
        margin + "else:",
        *(inner + line for line in old),
    ]


@dataclass(frozen=True)
class Source:
    """One module run from its text: what it defines, and the text of each of its classes and functions."""

    space: dict[str, Any]
    pieces: dict[str, str]


def sources(names: Sequence[str], literal: Iterable[tuple[str, str, str]] = (), *, promote: bool) -> list[Source]:
    """These modules, run from their text; a later one sees what an earlier one defines.

    literal: (class, old, new) replacements of constants that a peer's class has written into it. promote: the steps
    that the peer computes in float32 whatever its weights' dtype are in float64.
    """
    found: list[Source] = []
    for name in names:
        original = importlib.import_module(name)
        text = Path(str(original.__file__)).read_text(encoding="utf-8")
        if promote:
            text = text.replace("torch.float32", "torch.float64")
        for inside, old, new in literal:
            piece = _pieces(text)[inside]
            assert old in piece, (inside, old)
            text = text.replace(piece, piece.replace(old, new))
        # the decorators that write transformers' documentation read files; they are of no use here
        text = text.replace("\nlogger = logging", f"\nauto_docstring = {NO_DOCSTRING}\nlogger = logging")
        for earlier in names[: len(found)]:  # what it imports from them has just been run
            text = re.sub(rf"(?m)^from {earlier} import (\([^)]*\)|.*)\n", "", text)
        module = ModuleType(name)
        module.__package__, module.__file__ = original.__package__, original.__file__
        for done in found:
            vars(module).update({k: v for k, v in done.space.items() if not k.startswith("__")})
        exec(compile(text, f"<{name} as run>", "exec", dont_inherit=True), vars(module))
        found.append(Source(vars(module), _pieces(text)))
    return found


def _pieces(text: str) -> dict[str, str]:
    """The classes and functions of a text, with their decorators, by name."""
    lines = text.splitlines(keepends=True)
    nodes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    starts = (min([node.lineno, *(each.lineno for each in node.decorator_list)]) for node in nodes)
    return {node.name: "".join(lines[start - 1 : node.end_lineno]) for node, start in zip(nodes, starts)}


@contextlib.contextmanager
def planted(run: Iterable[Source], edits: Iterable[Edit], scopes: tuple[str, ...] = ()) -> Iterator[None]:
    """The edits hold inside the context: methods and functions are those of the edited text.

    Every edit must apply somewhere. Constructors stay as they are.
    """
    edits = tuple(edits)
    applied = [0] * len(edits)
    undo: list[tuple[Any, str, Any]] = []
    try:
        for source in run if edits else ():
            for name, piece in source.pieces.items():
                text = piece
                for k, edit in enumerate(edits):
                    if edit.inside in ("", name) and edit.first in piece:
                        text, count = edit.apply(text, scopes)
                        applied[k] += count
                if text.rstrip() != piece.rstrip():
                    _replace(source.space, name, text, undo)
        missing = [edit.old for edit, count in zip(edits, applied) if not count]
        assert not missing, missing
        yield
    finally:
        for owner, name, value in reversed(undo):
            if isinstance(owner, dict):
                owner[name] = value
            else:
                setattr(owner, name, value)


def _replace(space: dict[str, Any], name: str, text: str, undo: list[tuple[Any, str, Any]]) -> None:
    local: dict[str, Any] = {}
    exec(compile("from __future__ import annotations\n" + text, f"<{name} edited>", "exec"), space, local)
    made, original = local[name], space[name]
    if not inspect.isclass(made):
        undo.append((space, name, original))
        space[name] = made
        return
    for method, function in vars(made).items():
        if inspect.isfunction(function) and method != "__init__":
            undo.append((original, method, vars(original)[method]))
            setattr(original, method, function)
