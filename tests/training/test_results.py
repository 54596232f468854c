"""The page of results and the README's table, from the result.json of several runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import results

from perceiver_ref.errors import InputError
from perceiver_ref.training.recipes import MODULES, recipe

ROOT = Path(__file__).parents[2]


def written(folder: Path, seed: int, value: float, **changed: object) -> Path:
    """A folder with the result of a run of `digits`."""
    made = {
        "recipe": "digits",
        "metric": "test_accuracy",
        "value": value,
        "seconds": 120.0 + seed,
        "seed": seed,
        "quick": False,
        "parameters": 1234567,
        "steps": 1500,
        "evaluation": {"test_accuracy": value},
        "baselines": {"nearest neighbour": 0.5, "chance": 0.1},
        "machine": "1 of 2 cores, x86_64",
        "files": ["curves.png", "confusions.txt"],
        **changed,
    }
    out = folder / f"digits-{seed}"
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(json.dumps(made))
    (out / "curves.png").write_bytes(b"%d" % seed)
    return out


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [written(tmp_path, seed, value) for seed, value in ((2, 0.975), (0, 0.98), (1, 0.97))]


def test_both_files_are_written(tmp_path: Path, folders: list[Path], capsys) -> None:
    page, readme = tmp_path / "RESULTS.md", tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{results.BEGIN}\nold\n{results.END}\n\nEnd.\n")
    assert results.main([*map(str, folders), "--page", str(page), "--readme", str(readme)]) == 0
    assert "| [digits](#digits) | test accuracy | 0.975 | 0.97 to 0.98 | at least 0.97 | 2.0 |" in page.read_text()
    assert "1,234,567 parameters, 1,500 steps." in page.read_text().replace("\n", " ")
    rows = re.findall(r"^\| (\d) \| (.*?) \| 2\.0 \| 1 of 2 cores, x86_64 \|$", page.read_text(), re.MULTILINE)
    assert rows == [("0", "0.98"), ("1", "0.97"), ("2", "0.975")]
    assert "![digits: curves](results/digits-curves.png)" in page.read_text()
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["digits-curves.png"]
    assert (tmp_path / "results" / "digits-curves.png").read_bytes() == b"0"  # of the first seed
    text = readme.read_text()
    assert text.startswith("# Title\n\n" + results.BEGIN)
    assert text.endswith(results.END + "\n\nEnd.\n")
    assert "test accuracy 0.975 (0.97 to 0.98) | nearest neighbour 0.5 | 2.0 |" in text
    assert "old" not in text
    assert capsys.readouterr().out.endswith("digits (3)\n")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"quick": True}, "is the result of a quick run"),
        ({"seed": 0}, "is a second result of digits with seed 0"),
        ({"recipe": "nothing"}, "unknown recipe 'nothing'"),
    ],
)
def test_other_results_are_refused(tmp_path: Path, folders: list[Path], changed: dict, message: str) -> None:
    more = written(tmp_path / "more", **{"seed": 3, "value": 0.9, **changed})
    with pytest.raises(InputError, match=message):
        results.read_results([*folders, more])


def test_a_file_that_is_no_result_is_refused(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"recipe": "digits"}')
    with pytest.raises(InputError, match="lacks metric, value"):
        results.read_results([tmp_path])


def test_the_readme_needs_its_markers(tmp_path: Path, folders: list[Path], capsys) -> None:
    (tmp_path / "README.md").write_text("# Title\n")
    arguments = [*map(str, folders), "--page", str(tmp_path / "R.md"), "--readme", str(tmp_path / "README.md")]
    assert results.main(arguments) == 2
    assert "has no table between" in capsys.readouterr().err
    assert not (tmp_path / "R.md").exists()


def test_complete_runs_are_not_repeated(tmp_path: Path, folders: list[Path], monkeypatch) -> None:
    ran = []
    monkeypatch.setattr(
        "perceiver_ref.training.loop.train", lambda row, options: ran.append((row.name, options.seed, options.resume))
    )
    (folders[1] / "result.json").unlink()
    assert results.run_all(tmp_path, ["digits"], 3) == sorted(folders)
    assert ran == [("digits", 0, True)]


def test_recorded_results_meet_their_thresholds() -> None:
    if not (ROOT / "docs" / "RESULTS.md").exists():
        pytest.skip("no results are recorded yet")
    table = (ROOT / "docs" / "RESULTS.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[([\w-]+)\]\(#.*?\) \| [\w ]+ \| (\S+) \| (\S+) to (\S+) \| (.*?) \|", table, re.MULTILINE)
    assert rows
    for name, mean, least, most, expected in rows:
        assert name in MODULES
        row = recipe(name)
        assert expected == results._expected(row)
        assert row.reached(float(mean), quick=False)
        assert row.reached(float(least if row.better == "higher" else most), quick=False)
