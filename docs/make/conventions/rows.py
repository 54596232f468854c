"""What a row of the table of differences is: a choice, what each implementation chose, and cases that show it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from perceiver_ref.models.conventions import Conventions
from perceiver_ref.porting.deviations.base import Exchange


@dataclass(frozen=True)
class PartOption:
    """A hyper-parameter of all parts of a class of this name; "Conventions" stands for the conventions of any part."""

    owner: str
    name: str

    def __str__(self) -> str:
        return f"{self.owner}.{self.name}"


@dataclass(frozen=True)
class Edit:
    """Another value of an option: `made(value, part)` of the part's own."""

    option: PartOption
    made: Callable[[Any, Any], Any]


Change = Edit | Exchange
"""What is exchanged in a rebuilt model: an option, or what `deviations.base.Exchange` lists."""


@dataclass(frozen=True)
class Evidence:
    """A case in which an implementation's choice can be seen: "peer/name", and what that implementation does there.

    `instead`: another choice -> how it is made here. Without it, a row with an option exchanges that for the values of
    the row's other cases. `option`: where this implementation keeps the row's choice, if not in the row's option.
    `same`: the other choices give the same result here, as a restriction does where it is met.
    """

    case: str
    value: Any
    instead: Mapping[Any, Change] | None = None
    option: PartOption | None = None
    same: bool = False

    @property
    def peer(self) -> str:
        """The name of the peer whose case it is."""
        return self.case.partition("/")[0]


@dataclass(frozen=True)
class Convention:
    """One choice: its name, what it is about, what each implementation does, where it is kept here, and evidence.

    `values` are in words, by column; a column that is left out has no such part. `kept`: an `PartOption`, or in words.
    `paper`: what the paper says, for rows in which the implementations that have cases may all depart from it alike.
    `gradients`: two choices may give the same outputs, so that gradients are compared, too.
    """

    name: str
    about: str
    values: Mapping[str, str]
    kept: PartOption | str
    evidence: tuple[Evidence, ...]
    paper: Any = None
    gradients: bool = False

    @property
    def option(self) -> PartOption | None:
        """The option of a class that keeps the choice, or None where something else does."""
        return self.kept if isinstance(self.kept, PartOption) else None

    def changes(self, evidence: Evidence) -> dict[str, Change]:
        """The other choices, in words, and how each is made in this case."""
        if evidence.instead is not None:
            return {worded(other): change for other, change in evidence.instead.items()}
        option = evidence.option or self.option
        if option is None:
            return {}
        others = [e.value for e in self.evidence] + ([] if self.paper is None else [self.paper])
        return {worded(v): to(option, v) for v in dict.fromkeys(others) if v != evidence.value}


@dataclass(frozen=True)
class Family:
    """The implementations of one architecture, and the rows in which they differ.

    `columns`: a name of `PEERS`, or "paper" -> its conventions, from which rows of conventions take their values.
    """

    title: str
    intro: str
    columns: Mapping[str, Conventions]
    rows: tuple[Convention, ...]


def to(option: PartOption, value: Any) -> Edit:
    """This value of an option, whatever it was."""
    return Edit(option, lambda old, part: value)


def convention(
    field: str, name: str, about: str, columns: Mapping[str, Conventions], cases: tuple[str, ...], **others: Any
) -> Convention:
    """A row of a field of `Conventions`: its values are those of the columns' conventions.

    `others`: `values` that differ in words, `evidence` besides the cases, cases that are the `same` either way, and
    whether `gradients` count.
    """
    values = {column: worded(getattr(made, field)) for column, made in columns.items()} | others.get("values", {})
    same = others.get("same", ())
    evidence = tuple(
        Evidence(case, getattr(columns[case.partition("/")[0]], field), same=case in same) for case in (*cases, *same)
    )
    paper = getattr(columns["paper"], field) if "paper" in columns else None
    every, gradients = evidence + others.get("evidence", ()), others.get("gradients", False)
    return Convention(name, about, values, PartOption("Conventions", field), every, paper, gradients)


def worded(value: Any) -> str:
    """A value as a word."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
