"""docs/RESULTS.md and the README's table, from the result.json of many runs.

In a clone of the repository, `python docs/make results --run results` trains every recipe with seeds 0,
1 and 2 in folders below `results`, goes on with runs that were stopped, leaves complete ones, and writes both files,
with the pictures of each recipe's first seed beside the page.
`python docs/make results results/*` only writes them, from folders that may come from another machine.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from perceiver_ref.errors import InputError
from perceiver_ref.host.files import check_apart, check_writable, read_json, replace_between, write_text
from perceiver_ref.training.recipe import Recipe
from perceiver_ref.training.recipes import MODULES, recipe

BEGIN, END = "<!-- results: written by docs/make -->", "<!-- end of results -->"
_INTRO = """\
# Results of the recipes

Each recipe trained with several seeds: the mean of its metric, and the least and the largest value. All runs are of
the full form, `perceiver-ref train RECIPE`; times are of one run, on the machine named with it. Baselines are simpler
methods on the same data. This page is made by `python docs/make results --run results`.
"""
PICTURES = "results"
"""The folder beside the page that the pictures are in."""
_KEYS = ("recipe", "metric", "value", "seconds", "seed", "quick", "parameters", "steps", "baselines", "machine")


def read_results(folders: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """Recipe -> the results of its seeds, in the table's order; `InputError` for a quick run or a seed given twice."""
    found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in MODULES}
    for folder in folders:
        path = folder / "result.json" if folder.is_dir() else folder
        result = read_json(path, "the result of `perceiver-ref train RECIPE --out DIR`")
        if missing := [key for key in _KEYS if key not in result]:
            raise InputError(f"{path} lacks {', '.join(missing)}; it is no result of `perceiver-ref train`")
        name, seed = result["recipe"], result["seed"]
        recipe(name)
        if result["quick"]:
            raise InputError(f"{path} is the result of a quick run; results are recorded of full ones")
        if seed in found[name]:
            raise InputError(f"{path} is a second result of {name} with seed {seed}; give one of each")
        result["pictures"] = [path.parent / file for file in result.get("files", ()) if file.endswith(".png")]
        found[name][seed] = result
    return {name: [results[seed] for seed in sorted(results)] for name, results in found.items() if results}


def page(results: dict[str, list[dict[str, Any]]]) -> str:
    """docs/RESULTS.md."""
    lines = [_INTRO, "| recipe | metric | mean | least to largest | expected | minutes |", "| --- " * 6 + "|"]
    for name, runs in results.items():
        row, values = recipe(name), [run["value"] for run in runs]
        minutes = statistics.mean(run["seconds"] for run in runs) / 60
        spread = f"{_number(min(values))} to {_number(max(values))}"
        mean = _number(statistics.mean(values))
        lines.append(
            f"| [{name}](#{name}) | {_words(row.metric)} | {mean} | {spread} | {_expected(row)} | {minutes:.1f} |"
        )
    return "\n".join([*lines, "", *(line for name, runs in results.items() for line in _section(recipe(name), runs))])


def copy_pictures(results: dict[str, list[dict[str, Any]]], folder: Path) -> None:
    """What the first seed of each recipe has drawn, as `folder`/RECIPE-NAME.png; other pictures there are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    for name, (first, *_) in results.items():
        for picture in first["pictures"]:
            shutil.copyfile(picture, folder / f"{name}-{picture.name}")


def readme_table(results: dict[str, list[dict[str, Any]]]) -> str:
    """The README's table, between its markers."""
    lines = ["| recipe | what | result | baseline | minutes |", "| --- " * 5 + "|"]
    for name, runs in results.items():
        row, values = recipe(name), [run["value"] for run in runs]
        spread = f"{_number(statistics.mean(values))} ({_number(min(values))} to {_number(max(values))})"
        minutes = statistics.mean(run["seconds"] for run in runs) / 60
        best = _best(row, runs[0]["baselines"])
        lines.append(f"| `{name}` | {row.what} | {_words(row.metric)} {spread} | {best} | {minutes:.1f} |")
    more = "Means of several seeds, with the least and the largest value; more in [docs/RESULTS.md](docs/RESULTS.md)."
    return "\n".join([BEGIN, "", *lines, "", more, "", END])


def replace_table(readme: str, table: str) -> str:
    """The README with another table; `InputError` when it has not one pair of markers."""
    return replace_between(readme, BEGIN, END, table, "the README")


def run_all(folder: Path, names: Sequence[str], seeds: int) -> list[Path]:
    """Train these recipes with seeds 0, 1, ... and return the folders; complete runs are left as they are."""
    from perceiver_ref.training.loop import train
    from perceiver_ref.training.recipe import Options

    folders = []
    for name in names:
        for seed in range(seeds):
            out = folder / f"{name}-{seed}"
            folders.append(out)
            if not (out / "result.json").exists():
                print(f"\n{name}, seed {seed}: {out}", flush=True)
                train(recipe(name), Options(seed, out=out, resume=True))
    return folders


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 when both files are written, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python docs/make results", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR", help="folders of complete runs")
    parser.add_argument("--run", type=Path, metavar="DIR", help="train every recipe in folders below DIR first")
    parser.add_argument("--recipes", nargs="+", choices=MODULES, default=list(MODULES), help="with --run: only these")
    parser.add_argument("--seeds", type=int, default=3, help="with --run: the number of seeds (default: 3)")
    parser.add_argument("--page", type=Path, default=Path("docs/RESULTS.md"), metavar="F", help="page to write")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), metavar="F", help="README with the table")
    given = parser.parse_args(arguments)
    try:
        check_writable(given.page)
        check_apart({"--page": given.page, "--readme": given.readme}, ())
        readme = given.readme.read_text(encoding="utf-8")
        replace_table(readme, "")
        made = run_all(given.run, given.recipes, given.seeds) if given.run else []
        results = read_results([*given.folders, *made])
        if not results:
            raise InputError("give folders of complete runs, or --run DIR")
        copy_pictures(results, given.page.parent / PICTURES)
        write_text(given.page, page(results))
        write_text(given.readme, replace_table(readme, readme_table(results)))
    except (InputError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    print(f"{given.page} and {given.readme}: {', '.join(f'{name} ({len(runs)})' for name, runs in results.items())}")
    return 0


def _section(row: Recipe, runs: list[dict[str, Any]]) -> list[str]:
    text = f"{row.what} {_sentence(row.model)} Data: {_sentence(row.data)} In the papers: {_sentence(row.paper)}"
    first = runs[0]
    facts = f"{first['parameters']:,} parameters, {first['steps']:,} steps."
    lines = [f"## {row.name}", "", fill(f"{text} {facts}", 120, break_long_words=False, break_on_hyphens=False), ""]
    lines += ["| seed | " + " | ".join(_words(key) for key in first["evaluation"]) + " | minutes | machine |"]
    lines += ["| --- " * (3 + len(first["evaluation"])) + "|"]
    for run in runs:
        numbers = [_number(run["evaluation"].get(key, float("nan"))) for key in first["evaluation"]]
        cells = [str(run["seed"]), *numbers, f"{run['seconds'] / 60:.1f}", run["machine"]]
        lines.append(f"| {' | '.join(cells)} |")
    if first["baselines"]:
        lines += ["", f"| baseline | {_words(row.metric)} |", "| --- | --- |"]
        lines += [f"| {name} | {_number(value)} |" for name, value in first["baselines"].items()]
    for picture in first["pictures"]:
        lines += ["", f"![{row.name}: {picture.stem}]({PICTURES}/{row.name}-{picture.name})"]
    return [*lines, ""]


def _best(row: Recipe, baselines: dict[str, float]) -> str:
    if not baselines:
        return ""
    name = row.baseline or (max if row.better == "higher" else min)(baselines, key=lambda key: baselines[key])
    return f"{name} {_number(baselines[name])}"


def _expected(row: Recipe) -> str:
    return f"{'at least' if row.better == 'higher' else 'at most'} {_number(row.threshold)}"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."
