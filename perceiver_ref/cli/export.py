"""`perceiver-ref export`: fresh vectors of a published or a configured model, and the conformance pack."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..errors import InputError, listed, one_of
from ..host.progress import clear
from ..models.published import is_preset
from ..porting.audit.matrix import SECONDS
from ..porting.cases import Case
from ..porting.cases.samples import COUNT
from ..porting.export.adversarial import ROWS, Kind, rows
from ..porting.export.find import Wanted, find
from ..porting.export.make import ExportOptions, make
from ..porting.export.pack import pack
from ..porting.export.probes import make_probe
from ..porting.export.subject import Exported
from ..porting.export.write import INDEX, check_folder, write_folder
from .audit import audit, is_cases, stored
from .main import OK
from .result import write_result
from .seconds import seconds


def options(command: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = command.add_argument
    add("model", nargs="?", metavar="PRESET|CONFIG", help="a published model, or a configuration in JSON")
    add("--out", metavar="DIR", help="folder for the cases and their index")
    add("--pack", metavar="DIR", help="write the conformance pack instead: every kind of model and each operation")
    add("--peer", help="the implementation that a CONFIG is of, such as hf (default: perceiver-ref's own)")
    add("--class", dest="cls", metavar="CLASS", help="its class (default: what CONFIG names)")
    add("--weights", metavar="F", help="parameters to use (default: random ones)")
    add(
        "--probe",
        action="store_true",
        help="one case of kilobytes for a model of any size, a preset as published unless --small: inputs of a stated "
        "generator, samples of all answers",
    )
    add("--samples", type=int, metavar="N", help=f"with --probe: elements kept of each array (default: {COUNT})")
    size = command.add_mutually_exclusive_group()
    size.add_argument(
        "--small", action="store_false", dest="full", help="a small model of a preset's structure (default)"
    )
    size.add_argument(
        "--full", action="store_true", help="a preset as published: one case, without traces unless asked"
    )
    command.set_defaults(full=None)
    add("--sizes", metavar="SIZES", help="sizes of the small model, such as latents=7,channels=16,layers=3")
    add(
        "--inputs",
        metavar="SIZES|F",
        help="shape of one example, such as 224x224x3 or text=9x8,media=2x3x6; or an .npz",
    )
    add("--batch", type=int, metavar="B", help="examples (default: 2, and what an adversarial case needs)")
    add("--seed", type=int, default=0, help="of parameters, inputs and cotangents (default: 0)")
    add("--dtype", choices=("float64", "float32"), default="float64", help="precision (default: float64)")
    add("--dialect", help="conventions of a preset, such as hf (default: deepmind, for Flamingo paper)")
    add("--cases", metavar="IDS", help=f"some of {', '.join(row.id for row in ROWS)} (default: all that there are)")
    flag: Any = argparse.BooleanOptionalAction
    add("--gradients", action=flag, default=True, help="gradients of all parameters and inputs, for fixed cotangents")
    add("--trace", action=flag, default=None, help="intermediate values")
    add(
        "--audit",
        action="store_true",
        help="try every known deviation on the cases: which of them tell it apart (no PRESET: those of the pack; a "
        "folder or file of cases in place of one: those; nothing is written without --out or --pack)",
    )
    add("--budget", type=seconds, metavar="SECONDS", help=f"with --audit: for a case at most (default: {SECONDS:g})")
    add("--safetensors", action="store_true", help="also write each case as .safetensors")
    add("--force", action="store_true", help="replace an earlier export in DIR")


def export(given: argparse.Namespace) -> int:
    """`perceiver-ref export`: writes the cases, and prints one line each."""
    if (given.pack and given.model) or not (given.pack or given.model or given.audit):
        raise InputError("give a PRESET or CONFIG with --out DIR, or --pack DIR alone")
    if given.budget is not None and not given.audit:
        raise InputError("--budget goes with --audit")
    if given.seed < 0:
        raise InputError(f"--seed must be at least 0, got {given.seed}")
    if given.batch is not None and given.batch < 1:
        raise InputError(f"--batch must be at least 1, got {given.batch}")
    if given.samples is not None and (not given.probe or given.samples < 1):
        raise InputError("--samples goes with --probe, and is at least 1")
    given.full = (
        (given.probe and not given.sizes and is_preset(given.model or "")) if given.full is None else given.full
    )
    folder = given.pack or given.out
    if given.audit and not folder:
        return audit(_made(given), given)
    if not folder:
        raise InputError("say where to write with --out DIR")
    check_folder(folder, force=given.force)
    kept: list[Case] = []
    cases = _kept(_made(given), kept) if given.audit else _made(given)
    index = write_folder(
        folder, cases, safetensors=given.safetensors or bool(given.pack), force=given.force, written=_say
    )
    print(f"\n{folder}: {len(index['cases'])} cases and {INDEX}; perceiver-ref check {folder} runs them")
    found = {"folder": str(folder), "cases": [row["id"] for row in index["cases"]]}
    if given.audit:
        print()
        return audit(kept, given, found)
    write_result(given.json, found)
    return OK


def _made(given: argparse.Namespace) -> Iterator[Case]:
    """The cases that are asked for."""
    if given.model is None:
        return _packed(given)
    if given.audit and not is_preset(given.model) and is_cases(given.model):
        return stored(given)
    return _cases(given)


def _kept(cases: Iterator[Case], kept: list[Case]) -> Iterator[Case]:
    for case in cases:
        kept.append(case)
        yield case


def _packed(given: argparse.Namespace) -> Iterator[Case]:
    names = ("out", "peer", "cls", "weights", "sizes", "inputs", "batch", "dialect", "cases")
    if given.full or given.probe or any(getattr(given, name) is not None for name in names):
        raise InputError("--pack has its own models and sizes; only --seed, --dtype, --gradients and --trace change it")
    return pack(ExportOptions(given.seed, given.dtype, given.gradients, given.trace is not False))


def _cases(given: argparse.Namespace) -> Iterator[Case]:
    """The cases, made one by one; everything that can be wrong in the arguments is found here and now."""
    subject = find(
        Wanted(given.model, given.peer, given.cls, given.weights, given.inputs, given.sizes, given.full, given.dialect)
    )
    chosen = _rows(subject, given)
    trace = given.trace if given.trace is not None else given.probe or not given.full
    settings = ExportOptions(given.seed, given.dtype, given.gradients, trace, given.batch)
    count = subject.rebuilt.model.count()
    print(f"{given.model}: {subject.peer} {subject.cls}, {count:,} parameters, {given.dtype}")
    if "reduced: " in subject.notes:
        changes = subject.notes.partition("reduced: ")[2].split("; ")
        see = f", see notes in {INDEX}" if len(changes) > 6 else ""
        print(f"smaller than published (--full is not): {listed(changes, 6, '; ')}{see}")
    print()
    if given.probe:
        return (make_probe(subject, replace(row, id="probe"), settings, given.samples or COUNT) for row in chosen)
    return (make(subject, row, settings) for row in chosen)


def _rows(subject: Exported, given: argparse.Namespace) -> list[Kind]:
    known = {row.id: row for row in rows(subject)}
    if given.probe and given.cases is not None:
        raise InputError("--probe makes one case, of usual inputs; leave out --cases")
    if given.cases is None and given.probe:
        return [known["plain"]]
    if given.cases is None:
        return [known["plain"]] if given.full else list(known.values())
    names = given.cases.split(",")
    for name in names:
        if name not in {row.id for row in ROWS}:
            raise one_of("case", name, [row.id for row in ROWS])
        if name not in known:
            raise InputError(f"{subject.id} has no case {name!r}; it has {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)]


def _say(row: dict[str, Any]) -> None:
    clear()
    print(f"{row['id']:<44}  {row['catches']}", flush=True)
