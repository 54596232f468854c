"""What `diagnose` names of mutants: `python -m mutants.rate FOLDER ... --jobs N` (tests/ on the path; needs no torch).

A folder is one that `mutants.make` or `mutants.backward.make` wrote.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Entry = dict[str, Any]
GOALS = {"single": 0.99, "pair": 0.95, "triple": 0.8, "labelled": 0.95, "backward": 0.95, "backward-pair": 0.8}
"""By kind the part that has to be right; all of the others"""


@dataclass(frozen=True)
class Judged:
    """A mutant, its answer, and what the tool said."""

    path: str
    answer: Entry
    verdict: str
    causes: list[str]
    first_divergence: str | None
    variants: list[str]
    seconds: float
    stopped: bool = False

    @property
    def kind(self) -> str:
        """What is planted: "single", "pair", "lowered", ..."""
        backward = "backward" if "point" in self.answer else ""
        several = {1: "single", 2: "pair", 3: "triple"}.get(len(self.answer.get("causes", [])), "")
        return str(self.answer.get("kind") or backward or (several or self.answer["verdict"]))

    @property
    def right(self) -> bool:
        """Whether the causes, the first of which count, are an answer that is as good; of others, the verdict."""
        answer = self.answer
        if "point" in answer:
            return _backward(self)
        if answer["verdict"] != "deviation":
            return self.verdict in ("match", "rounding") and not self.causes
        number = len(answer["causes"])
        return sorted(self.causes[:number]) in [sorted(each) for each in answer["acceptable"]]

    @property
    def pointed(self) -> bool | None:
        """Whether the first point is right; None where none is to be found."""
        wanted = self.answer.get("first_divergence")
        return None if wanted is None else self.first_divergence == wanted

    def __str__(self) -> str:
        planted = self.answer.get("detail") or self.answer.get("variant")
        said = f"{self.verdict} {self.causes[:3]} {self.variants[:3]} at {self.first_divergence}"
        wanted = f"{self.answer['causes']} at {self.answer.get('first_divergence', self.answer.get('point'))}"
        spent = f" [{self.seconds:.0f} s{', stopped' if self.stopped else ''}]"
        return f"{self.path} {self.answer['model']}: {planted}\n    wanted {wanted}\n    said   {said}{spent}"


def _backward(found: Judged) -> bool:
    points, causes = found.answer["point"], found.answer["causes"]
    several = isinstance(points, list)
    named = found.causes[: len(points)] if several else found.causes[:1]
    if several:
        return all(set(named) & set(each) for each in causes)
    return bool(named) and named[0] in causes and bool(re.search(points, found.first_divergence or ""))


def judged(job: tuple[Path, Entry]) -> Judged:
    """The tool's word on one file."""
    from perceiver_ref.porting.diagnosis.diagnose import diagnose_file

    path, answer = job
    began = time.perf_counter()
    found = diagnose_file(path)
    return Judged(
        str(path),
        answer,
        found.verdict,
        list(found.causes),
        found.first_divergence,
        [cause.variant for cause in found.explanation],
        time.perf_counter() - began,
        found.stopped,
    )


def judge(folders: Iterable[Path], jobs: int, kinds: str = "") -> Iterator[Judged]:
    """All mutants of these folders, as they are done."""
    work = []
    for folder in folders:
        answers = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
        work += [(folder / name, answer) for name, answer in answers.items()]
    work = [job for job in work if re.search(kinds, job[1].get("kind", ""))]
    if jobs == 1:
        yield from map(judged, work)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(judged, work)


def rates(found: Iterable[Judged]) -> str:
    """A line for each kind, and one for first points."""
    by_kind: dict[str, list[Judged]] = {}
    for each in found:
        by_kind.setdefault(each.kind, []).append(each)
    lines = []
    for kind, of in by_kind.items():
        right = sum(each.right for each in of)
        goal = GOALS.get(kind, 1.0)
        short = "" if right >= goal * len(of) else "  short of it"
        most = f"{max(each.seconds for each in of):.0f} s at most"
        lines.append(f"{kind:<16} {right:>4} of {len(of):<4} {right / len(of):7.1%}  (goal {goal:.0%}){short}; {most}")
    points = [each.pointed for of in by_kind.values() for each in of if each.pointed is not None]
    if points:
        lines.append(f"{'first point':<16} {sum(points):>4} of {len(points):<4} {sum(points) / len(points):7.1%}")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--kinds", default="", help="a pattern of the kinds to be judged")
    parser.add_argument("--json", type=Path, help="what was said of each is written here")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes of the pool
    made = []
    for each in judge(options.folders, options.jobs, options.kinds):
        made.append(each)
        if not each.right or each.pointed is False:
            print(f"{'MISS' if not each.right else 'POINT'} {each.kind} {each}", flush=True)
    print(rates(made))
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in made], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
