"""Docstrings as text of the specification: their first sentences, their equations, and links to their files."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from perceiver_ref.autograd import registry
from perceiver_ref.autograd.core import Op
from perceiver_ref.errors import InputError

ROOT = Path(__file__).resolve().parents[3]
"""The clone that the pages are made in."""

_PACKAGES = ("perceiver_ref.models", "perceiver_ref.training", "perceiver_ref", "perceiver_ref.autograd")


def named(name: str) -> Any:
    """The object of a dotted name below `perceiver_ref` or `perceiver_ref.autograd`, `ops.<name>` for an op.

    Raises `InputError` for none.
    """
    if name.startswith("ops.") and name[4:] in registry:
        return registry[name[4:]]
    for package in _PACKAGES:
        parts = f"{package}.{name}".split(".")
        for cut in range(len(parts), 1, -1):
            try:
                found = importlib.import_module(".".join(parts[:cut]))
            except ModuleNotFoundError:
                continue
            try:
                for part in parts[cut:]:
                    found = getattr(found, part)
            except AttributeError:
                break
            return found
    raise InputError(f"the specification names {name}, which is not there")


def link(name: str, text: str | None = None) -> str:
    """`text` (default: the last parts of the name) as a link to the file in which it is defined."""
    path = file_of(name)
    return f"[`{text or shortened(name)}`](../{path})"


def shortened(name: str) -> str:
    """The name without its modules; of an op, with `ops.` before it."""
    if isinstance(named(name), Op):
        return f"ops.{name.rpartition('.')[2]}"
    parts = name.split(".")
    first = next((i for i, part in enumerate(parts) if part[0].isupper()), len(parts) - 1)
    return ".".join(parts[first:])


def file_of(name: str) -> str:
    """The file that defines the object of this name, from the root of the repository."""
    found = named(name)
    source = getattr(found, "__wrapped__", found) if isinstance(found, Op) else inspect.unwrap(found)
    if isinstance(source, (dict, property)) or not hasattr(source, "__module__"):
        source = named(name.rpartition(".")[0])
    return Path(inspect.getsourcefile(source) or "").resolve().relative_to(ROOT).as_posix()


def paragraphs(name: str) -> list[str]:
    """The paragraphs of a docstring; those that are indented, equations, begin with spaces."""
    text = inspect.getdoc(named(name))
    if not text:
        raise InputError(f"the specification quotes {name}, which has no docstring")
    return [paragraph.strip("\n") for paragraph in re.split(r"\n\s*\n", text)]


def is_equation(paragraph: str) -> bool:
    """Whether a paragraph of a docstring is an equation: indented, or beginning with `y =`."""
    return paragraph.startswith("    ") or bool(re.match(r"\w+ = ", paragraph))


def quote(name: str) -> str:
    """The first paragraph of a docstring, its equations with what leads to them, and its shapes.

    Of a class: what `apply` takes and gives.
    """
    first, *rest = paragraphs(name)
    lines = [f"{link(name)}: {_marked(flowing(first))}"]
    for paragraph, following in zip(rest, [*rest[1:], ""]):
        if is_equation(paragraph):
            lines += ["", "```text", *inspect.cleandoc(paragraph).splitlines(), "```"]
        elif paragraph.endswith(":") and is_equation(following):
            lines += ["", _marked(flowing(paragraph))]
    if not inspect.isclass(named(name)):
        lines += [line for p in rest if "->" in p and not is_equation(p) for line in ("", _marked(flowing(p)))]
    elif "apply" in vars(named(name)):
        lines += ["", f"`apply`: {_marked(flowing(paragraphs(f'{name}.apply')[0]))}"]
    return "\n".join(f"> {line}".rstrip() for line in lines)


def operations(names: list[str]) -> str:
    """Ops of the engine as a table: first paragraphs of their docstrings, equations and shapes."""
    rows = ["| operation | what it computes | equation, shapes |", "| --- | --- | --- |"]
    for name in names:
        if name not in registry:
            raise InputError(f"the specification names the op {name}, which is not there")
        first, *rest = paragraphs(f"ops.{name}")
        equations = [_code(line) for p in rest if is_equation(p) for line in inspect.cleandoc(p).splitlines()]
        shapes = [_code(s) for p in rest if not is_equation(p) for s in re.split(r"(?<=\.) ", flowing(p)) if "->" in s]
        about = _escaped(flowing(first))
        rows.append(f"| {link(f'ops.{name}')} | {about} | {'<br>'.join([*equations, *shapes])} |")
    return "\n".join(rows)


def by_file() -> dict[str, list[str]]:
    """All ops of the registry by the file that defines them, in the order of definition."""
    found: dict[str, list[str]] = {}
    for name, op in registry.items():
        if op.__module__.startswith("perceiver_ref.autograd.ops."):
            found.setdefault(op.__module__.rpartition(".")[2], []).append(name)
    return found


def flowing(paragraph: str) -> str:
    """A paragraph as one line."""
    return " ".join(paragraph.split())


def _marked(text: str) -> str:
    """A docstring's sentence as Markdown: `*grid` is no emphasis, `<name>` no tag."""
    return text.replace("*", r"\*").replace("<", r"\<")


def _escaped(text: str) -> str:
    """The same within a table."""
    return _marked(text).replace("|", r"\|")


def _code(text: str) -> str:
    """Code within a table: a backtick inside would end it, a bar the cell."""
    spaced = re.sub(r"\s{3,}", ";  ", text)
    return "`" + spaced.replace("`", "").replace("|", r"\|") + "`"
