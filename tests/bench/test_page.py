"""Targets, tables, JSON files and the page, from a run with invented figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.base import ROOT
from bench.page import BY_HAND, kept, merged, page, read_result
from bench.scaling import AXES, exponents
from bench.table import EXPONENT_HEAD, HEAD, as_markdown, as_text, exponent_table, main_table, seconds, size
from bench.targets import TARGETS, TORCH, Goal, outcomes
from perceiver_ref.errors import InputError


def test_targets_are_met_or_missed(result: dict) -> None:
    found = {(o.target.name, o.target.quantity, o.target.implementation, o.target.against): o for o in outcomes(result)}
    time = found["forward", "time", "ours", "fastest PyTorch"]
    assert (time.value, time.against, time.met) == (0.81, "transformers", True)
    share = found["forward", "share", "ours", ""]
    assert (share.value, share.met) == (0.75, False)
    memory = found["forward", "memory", "ours", "fastest PyTorch"]
    assert memory.value == pytest.approx(1 / 3)
    assert found["forward + backward", "time", "checkpointed", "ours"].value == pytest.approx(1.5)
    assert not found["forward + backward", "time", "checkpointed", "ours"].met
    assert found["forward + backward", "memory", "checkpointed", "ours"].met
    assert found["forward", "exponent", "ours", ""].value == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("backend", "tf32", "beside"), sorted({(target.backend, target.tf32, target.beside) for target in TARGETS})
)
def test_every_target_has_its_verdict_in_a_table(result: dict, backend: str, tf32: bool, beside: int) -> None:
    figures = {key: value for key, value in result["rows"][0].items() if key not in ("case", "pass", "implementation")}
    rows: dict[tuple[str, str, str], dict] = {}
    wanted = [target for target in TARGETS if (target.backend, target.tf32, target.beside) == (backend, tf32, beside)]
    for target in wanted:
        cases = [target.case]
        if "exponent" in target.quantity:
            cases = [f"{target.case}-{n}" for n in AXES[target.case.removeprefix("scaling-")].sizes(backend)]
        others = ("transformers", "flamingo-pytorch") if target.against == TORCH else (target.against or "ours",)
        for case in cases:
            for who in (target.implementation, *others):
                key = {"case": case, "pass": target.name, "implementation": who}
                rows[case, target.name, who] = {**figures, **key, "ratio": 0.5}
    measured = {**result, "backend": backend, "tf32": tf32, "beside": beside, "rows": list(rows.values())}
    measured["exponents"] = exponents(measured["rows"])
    found = outcomes(measured)
    assert [o.target for o in found] == wanted
    notes = "".join(line[-1] + ";" for line in (*main_table(measured), *exponent_table(measured)) if line[-1])
    assert notes.count("met;") + notes.count("MISSED;") == len(found)


def test_a_run_beside_busy_processes_has_a_section_of_its_own(result: dict) -> None:
    """And none of the targets of a machine that is left to it."""
    busy = {**result, "beside": 3, "machine": {**result["machine"], "beside": "3 busy processes"}}
    made = page([result, busy])
    heads = [line for line in made.splitlines() if line.startswith("## ")]
    assert heads == ["## a machine, 2 cores", "## a machine, 2 cores, beside 3 busy processes"]
    assert "MISSED" in made.split(heads[1])[0]
    assert "MISSED" not in made.split(heads[1])[1]
    assert "0 are set for this" in made.split(heads[1])[1]


def test_nothing_is_said_of_what_was_not_measured(result: dict) -> None:
    result["rows"] = [row for row in result["rows"] if row["implementation"] != "transformers"]
    assert all(o.against != "transformers" for o in outcomes(result))
    result["backend"] = "cupy"
    assert all(o.target.backend == "cupy" for o in outcomes(result))


@pytest.mark.parametrize(
    ("quantity", "limit", "value", "met"),
    [
        ("time", 0.9, 0.9, True),
        ("time", 0.9, 0.91, False),
        ("share", 0.8, 0.8, True),
        ("share", 0.8, 0.79, False),
        ("exponent", 1.0, 1.04, True),
        ("exponent", 1.0, 0.96, True),
        ("exponent", 1.0, 1.06, False),
        ("exponent", 1.0, 0.94, False),
        ("memory exponent", 1.05, 0.3, True),
    ],
)
def test_when_a_target_is_met(quantity: str, limit: float, value: float, met: bool) -> None:
    assert Goal("engine", "numpy", "forward", quantity, limit).met(value) is met


def test_the_table_has_the_target_beside_the_ratio(result: dict) -> None:
    text = as_text(HEAD, main_table(result))
    line = next(x for x in text.splitlines() if "transformers" in x)
    assert "0.81" in line
    assert "time <= 0.9: 0.81 met" in line
    assert "memory <= 0.5: 0.33 met" in line
    assert "of product >= 80 %: MISSED" in text
    assert "jax is not installed" in text
    assert "1.00" in as_text(EXPONENT_HEAD, exponent_table(result))


def test_columns_are_aligned(result: dict) -> None:
    lines = as_text(HEAD, main_table(result)).splitlines()
    column = lines[0].index("implementation")
    assert all(line[column - 1] == " " and line[column] != " " for line in lines)


def test_markdown_rows_have_as_many_cells_as_the_head(result: dict) -> None:
    for head, lines in ((HEAD, main_table(result)), (EXPONENT_HEAD, exponent_table(result))):
        table = as_markdown(head, lines).splitlines()
        assert len({line.count("|") for line in table}) == 1
        assert len(table) == len(lines) + 2


def test_units() -> None:
    assert (seconds(2.5), seconds(0.0025), seconds(2.5e-6)) == ("2.5 s", "2.5 ms", "2.5 µs")
    assert (size(3 << 30), size(5 << 20), size(None)) == ("3.00 GiB", "5 MiB", "")


def test_the_page_says_what_it_was_measured_on(result: dict) -> None:
    text = page([result])
    assert "## a machine, 2 cores" in text
    assert "threads 2" in text
    assert "tf32 does not apply" in text
    assert "numpy 2.4.6" in text
    assert "time <= 0.9: 0.81 met" in text
    assert "### Exponents" in text
    assert "scaling-M-262144" not in text  # points are in the exponents alone
    assert page([result]) == text


def test_a_quick_run_makes_no_page(result: dict) -> None:
    result["rows"][0]["quick"] = True
    with pytest.raises(InputError, match="quick run"):
        page([result])


def test_results_of_two_machines_are_two_sections(result: dict) -> None:
    other = {**result, "machine": {**result["machine"], "machine": "another"}}
    assert page([result, other]).count("\n## ") == 2
    assert len(merged([result, result])) == 1


def test_a_later_run_of_a_case_replaces_all_its_lines(result: dict) -> None:
    again = [{**row, "seconds": 1.0} for row in result["rows"] if row["implementation"] == "ours"][:1]
    (made,) = merged([result, {**result, "rows": again, "date": "2026-02-02"}])
    forward = [row for row in made["rows"] if (row["case"], row["pass"]) == ("imagenet-1", "forward")]
    assert [(row["implementation"], row["seconds"]) for row in forward] == [("ours", 1.0)]
    assert len(made["rows"]) == len(result["rows"]) - 2
    assert made["date"] == "2026-02-02"


def test_the_page_is_written_from_files(result: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "a.json", tmp_path / "PERFORMANCE.md"
    source.write_text(json.dumps(result))
    assert main(["--from", str(source), "--write", str(target)]) == 0
    assert target.read_text(encoding="utf-8") == page([read_result(source)])
    assert "perceiver-ref" in capsys.readouterr().out


def test_what_is_written_by_hand_is_kept(result: dict, tmp_path: Path) -> None:
    source, target = tmp_path / "a.json", tmp_path / "PERFORMANCE.md"
    source.write_text(json.dumps(result))
    target.write_text(f"# Before\n\n{BY_HAND}\n\n## Ours\n\nA figure.\n")
    for _ in range(2):
        assert main(["--from", str(source), "--write", str(target)]) == 0
        made = f"{page([read_result(source)])}\n{BY_HAND}\n\n## Ours\n\nA figure.\n"
        assert target.read_text(encoding="utf-8") == made


def test_the_page_in_the_docs_keeps_what_is_by_hand() -> None:
    assert kept(ROOT / "docs" / "PERFORMANCE.md").count("\n## ") >= 2


def test_files_that_are_no_results_are_refused(result: dict, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**result, "version": 7}))
    with pytest.raises(InputError, match="version 7"):
        read_result(path)
    del result["rows"]
    path.write_text(json.dumps(result))
    with pytest.raises(InputError, match="lacks rows"):
        read_result(path)
