"""What a port answered, in a file of its own, put into the place of a reference case's answers.

The case has parameters and inputs; the other file has outputs, and whatever else there is of traced values and
gradients, in any format and under names of its own, which are matched as `compare` matches them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import numpy as np

from ...errors import InputError, listed
from ...host.files import AnyPath
from ..cases import Case
from ..cases.case import groups
from .dumps import Dump, as_dump, read_dump
from .layouts import in_layout_of
from .matching import Match, match
from .printed import same_shape
from .values import Entry, agreeing

_SURE = ("name", "translated", "spelling", "values")
"""How a traced value or a gradient must be matched; an output may be the only one of its shape, too, and is named."""
_FIELDS = {"output": "outputs", "trace": "trace", "grad_param": "grad_params", "grad_input": "grad_inputs"}


def answered(case: Case, mine: AnyPath) -> tuple[Case, list[str]]:
    """The case with the answers of a file or folder `mine` in place of its own, and notes for the user.

    Of the case's outputs those that `mine` has are kept; of traced values and gradients as well. Raises `InputError`
    where it has none of the outputs, one in another shape, or only what a text prints of one.
    """
    theirs = read_dump(mine)
    ours = as_dump(
        {
            "meta": np.array(json.dumps(case.meta)),
            **{f"{g}/{n}": a for g, named in groups(case) for n, a in named.items()},
        },
        case.name,
    )
    found = _matched(ours, theirs, mine)
    made: dict[str, dict[str, np.ndarray]] = {field: {} for field in _FIELDS.values()}
    notes = list(theirs.notes)
    for m in found:
        a, b = ours.entries[m.reference], theirs.entries[m.candidate]
        output = a.kind == "output"
        if b.printed:
            if output:
                raise InputError(
                    f"{mine}: {b.label} is printed, rounded and not whole; compare takes it, this does not"
                )
            continue
        layout = in_layout_of(b.array, a.array)
        if layout is None:
            if output:
                raise InputError(
                    f"{mine}: {b.label} has shape {list(b.shape)}, {a.label} of {case.name} {list(a.shape)}"
                )
            continue
        made[_FIELDS[a.kind]][a.name] = np.array(layout.array, order="C")
        if output and (b.name != a.name or layout.said):
            how = "" if m.how != "order" else ", by its shape alone"
            notes.append(f"{a.label} is {b.label} of {mine}{how}{f'; {layout.said}' if layout.said else ''}")
    if not made["outputs"]:
        held = listed([f"{e.label} {list(e.shape)}" for e in theirs.entries], 4)
        wanted = listed([f"{name} {list(array.shape)}" for name, array in case.outputs.items()], 4)
        raise InputError(f"{mine} has none of the outputs of {case.name}: {wanted}; it holds {held}")
    if missing := [name for name in case.outputs if name not in made["outputs"]]:
        notes.append(f"{mine} has no {listed(missing, 4)}; the other outputs are taken")
    made["outputs"] = {name: made["outputs"][name] for name in case.outputs if name in made["outputs"]}
    return dataclasses.replace(case, **made, state_out={}, outputs_as_run={}), notes


def _matched(ours: Dump, theirs: Dump, mine: AnyPath) -> list[Match]:
    """Pairs by the rules of `compare_dumps`, but for outputs: what is called so is one, whatever else has its values.

    Outputs that are left come together with what is left of the other's by shape alone. Raises `InputError` where that
    leaves a choice: a wrong one would be diagnosed as a mistake of the port.
    """
    found = match(
        ours.entries,
        theirs.entries,
        translate_reference=ours.translate if ours.peer else None,
        translate_candidate=theirs.translate if theirs.peer else None,
    )
    near = agreeing(ours.entries, theirs.entries)
    named = _named(ours.entries, theirs.entries)
    said = [j for j, e in enumerate(theirs.entries) if e.kind == "output"]
    sure = [Match(i, j, "name") for i, j in named.items()]
    for m in found:
        if m.reference in named or m.how not in _SURE or (m.how == "values" and (m.reference, m.candidate) not in near):
            continue
        if ours.entries[m.reference].kind == "output" and said and m.candidate not in said:
            continue  # the port says which are its outputs
        sure.append(m)
    done, answers = {m.reference for m in sure}, set(named.values())
    outputs = [i for i, e in enumerate(ours.entries) if e.kind == "output" and i not in done]
    points = [j for j, e in enumerate(theirs.entries) if e.group == "point"]
    if said or len(points) == 1:
        left = [j for j in said or points if j not in answers]
    else:
        taken = {m.candidate for m in sure}
        left = [j for j in points if j not in taken]
    for i in outputs:
        fits = [j for j in left if same_shape(theirs.entries[j].shape, ours.entries[i].shape)]
        rivals = [k for k in outputs if same_shape(ours.entries[k].shape, ours.entries[i].shape)]
        if len(fits) > 1 or (fits and len(rivals) > 1):
            which, name = listed([theirs.entries[j].label for j in fits], 4), ours.entries[i].label
            raise InputError(f"{mine}: {which} may be {name}, by the shape; name it so")
        sure += [Match(i, j, "order") for j in fits]
    return sorted(sure, key=lambda m: m.reference)


def _named(ours: Sequence[Entry], theirs: Sequence[Entry]) -> dict[int, int]:
    """The outputs of a case -> what has their names: outputs, or arrays of no kind where no point is called so."""
    outputs = {e.name: i for i, e in enumerate(ours) if e.kind == "output"}
    points = {e.name for e in ours if e.kind == "trace"}
    found: dict[int, int] = {}
    for kind in ("trace", "output"):
        for j, e in enumerate(theirs):
            if e.kind != kind or e.name not in outputs:
                continue
            i = outputs[e.name]
            if kind == "output" or (e.name not in points and same_shape(e.shape, ours[i].shape)):
                found[i] = j
    return found
