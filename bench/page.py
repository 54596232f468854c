"""Results as JSON files, merged, and docs/PERFORMANCE.md made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

from perceiver_ref.errors import InputError
from perceiver_ref.host.files import read_json
from perceiver_ref.models.ledger import RULE

from .cases import case
from .scaling import exponents
from .session import VERSION
from .table import EXPONENT_HEAD, HEAD, as_markdown, exponent_table, main_table
from .targets import TARGETS, outcomes

_KEYS = ("version", "backend", "tf32", "machine", "date", "rows", "exponents")
BY_HAND = "<!-- From here on by hand: `--write` keeps it. -->"
_INTRO = """\
# Performance

Made by `python -m bench --write docs/PERFORMANCE.md`, or of results of several machines by
`python -m bench --from FILE ... --write docs/PERFORMANCE.md`; `python -m bench --list` prints the cases.

Every implementation runs in a process of its own, in float32, on the same weights and inputs. Its outputs and the norm
of its gradients are compared with ours before it is timed. Then all take turns, so that what else the machine does
hits all alike. Ours keeps freed memory (`autograd.keep_memory`), as `perceiver-ref train` does.

- time: the median of the turns; spread: half the distance of their quartiles.
- ours / it: our time (or memory) as a share of the other's, the median of the ratios turn by turn. Below 1 is faster.
- memory: the most that a call needs above parameters and inputs: of the process on a CPU, in arrays on a GPU.
- of product: FLOP/s as a share of the machine's own matrix product in the same run. Forward and backward count 3 times
  the forward. FLOPs: {rule}.
- beside n busy processes (`--beside n`): loops that never pause run meanwhile, and get their shares of the cores.
- A line with words in place of figures says why there are none.
"""


def read_result(path: Path) -> dict[str, Any]:
    """A file that `--json` wrote."""
    result = read_json(path, "the result of `python -m bench --json FILE`")
    if missing := [key for key in _KEYS if key not in result]:
        raise InputError(f"{path} lacks {', '.join(missing)}; it is no result of `python -m bench --json`")
    if result["version"] != VERSION:
        raise InputError(f"{path} has version {result['version']} of the format; this bench writes {VERSION}")
    return result


def merged(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One result for each machine with its backend, threads and versions.

    Of a case and pass that several of them have, the last one's lines are kept, all of one run; and with them, the
    exponents are fitted again.
    """
    groups: dict[str, dict[str, Any]] = {}
    for result in results:
        key = repr((result["backend"], result["tf32"], sorted(result["machine"].items())))
        if key not in groups:
            groups[key] = {**result, "rows": []}
        group, new = groups[key], {(row["case"], row["pass"]) for row in result["rows"]}
        kept = [row for row in group["rows"] if (row["case"], row["pass"]) not in new]
        group["rows"] = [*kept, *result["rows"]]
        group["date"] = max(group["date"], result["date"])
    for group in groups.values():
        group["exponents"] = exponents(group["rows"])
    return list(groups.values())


def kept(path: Path) -> str:
    """What a page that is to be written again holds by hand: from `BY_HAND` on."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return f"\n{text[text.index(BY_HAND) :]}" if BY_HAND in text else ""


def page(results: Sequence[Mapping[str, Any]]) -> str:
    """docs/PERFORMANCE.md; `InputError` for a quick run, whose sizes say nothing."""
    if any(row.get("quick") for result in results for row in result["rows"]):
        raise InputError("these are results of a quick run; the page is made of full ones")
    parts = [_INTRO.format(rule=RULE)]
    for result in merged(results):
        parts.append(_section(result))
    return "\n".join(parts)


def _section(result: Mapping[str, Any]) -> str:
    about = result["machine"]
    tf32 = ", TF32" if result["tf32"] else ""
    beside = f", beside {about['beside']}" if "beside" in about else ""
    names = dict.fromkeys(row["case"] for row in result["rows"] if not row["case"].startswith("scaling-"))
    found = outcomes(result)
    met = sum(outcome.met for outcome in found)
    tables = [as_markdown(HEAD, [line for line in main_table(result) if not line[0].startswith("scaling-")])]
    if result["exponents"]:
        tables.append("### Exponents\n\nTime, FLOPs and memory grow as size^e along an axis, the other sizes fixed.\n")
        tables.append(as_markdown(EXPONENT_HEAD, exponent_table(result)))
    head = f"""\
        ## {about["machine"]}{tf32}{beside}

        {result["date"]}; {"; ".join(f"{key} {text}" for key, text in about.items() if key != "machine")}.
        Targets: {met} of {len(found)} measured ones are met; {_count(result)} are set for this backend.
        """
    cases = "\n".join(f"- {name}: {case(name).what}" for name in names)
    return "\n".join([dedent(head), cases, "", *tables, ""])


def _count(result: Mapping[str, Any]) -> int:
    """The targets of the table that a run like this can say something about."""
    cpu = result["backend"] == "numpy"
    alike = [t for t in TARGETS if t.backend == result["backend"] and t.beside == result.get("beside", 0)]
    return sum(cpu or t.tf32 == result["tf32"] for t in alike)
