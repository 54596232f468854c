"""The page of a report: whole, alone, escaped, with a plot and the arrays where they differ most."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import normal

from perceiver_ref.porting.report import Excerpt, Report, ReportPoint, excerpt, report, write_report


class Page(HTMLParser):
    """Checks that tags nest, and keeps what is shown."""

    void = ("meta", "line", "circle", "polyline")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = '</title><script>alert("x")</script>&amp;\x00\ud800'


def pages() -> list[Report]:
    points = [
        ReportPoint("a", 0.0, 1e-10, {"float32": 1e-7}),
        ReportPoint("b", 3e-9, 1e-10, {"float32": 2e-7, "bfloat16": 1e-2}, {"shape": "2x3"}, note="a note"),
        ReportPoint("c", np.inf, 1e-10),
        ReportPoint("d", 1e3),
    ]
    shown = excerpt("b", normal(0, 2, 9, 9), normal(1, 2, 9, 9))
    hostile = [ReportPoint(HOSTILE, np.nan, 1.0, {HOSTILE: 1.0}, {HOSTILE: HOSTILE}, HOSTILE)]
    cell = Excerpt(HOSTILE, (0,), (0,), [[HOSTILE]], [[HOSTILE]])
    return [
        Report("Two dumps", False, ["mismatch: 2 differ", "first divergence: b"], points, shown, "b", ["a remark"]),
        Report("Nothing to show", True, ["match"]),
        Report("All zero", True, ["match"], [ReportPoint("a", 0.0)]),
        Report(HOSTILE, False, [HOSTILE], hostile, cell, HOSTILE, [HOSTILE]),
    ]


@pytest.mark.parametrize("number", range(len(pages())))
def test_the_page_is_whole_alone_and_has_the_verdict(number: int) -> None:
    made = pages()[number]
    text = report(made)
    page = Page(text)
    assert "".join(page.text.split()).count("".join(made.verdict[0].split())) >= 1
    assert not [tag for tag, _ in page.seen if tag in ("script", "link", "img", "iframe", "object", "base", "form")]
    assert not [key for _, attributes in page.seen for key in attributes if key in ("src", "href", "action", "onload")]
    assert "://" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert "prefers-color-scheme: dark" in text
    dots = [attributes for tag, attributes in page.seen if tag == "circle"]
    assert len(dots) == len(made.points)
    assert all(np.isfinite([float(dot["cx"]), float(dot["cy"])]).all() for dot in dots)


def test_the_plot_is_logarithmic() -> None:
    points = [ReportPoint(f"p{i}", 10.0**-i) for i in (2, 4, 6)] + [ReportPoint("inf", np.inf)]
    heights = [float(a["cy"]) for tag, a in Page(report(Report("t", True, ["v"], points))).seen if tag == "circle"]
    assert heights[3] < heights[0]  # the axis points down
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.02)  # written to 0.01
    assert heights[1] - heights[0] > 10


@given(st.lists(st.integers(1, 7), max_size=4), st.data())
def test_excerpts_show_the_largest_difference(shape: list[int], data: st.DataObject) -> None:
    reference = normal(0, *shape)
    index = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    candidate = reference + 1e-3
    candidate = np.array(candidate)
    candidate[index] = data.draw(st.sampled_from([5.0, np.nan, np.inf]))
    shown = excerpt("x", reference, candidate)
    row, column = shown.marked
    assert shown.index == index
    assert shown.reference[row][column] == f"{reference[index]:.8g}"
    assert shown.candidate[row][column] == f"{candidate[index]:.8g}"
    assert [len(r) for r in shown.reference] == [len(r) for r in shown.candidate]
    assert len(shown.reference) <= 5
    assert len(shown.reference[0]) <= 5


@pytest.mark.parametrize(("index", "marked"), [((4, 4), (2, 2)), ((0, 0), (0, 0)), ((8, 8), (4, 3)), ((1, 8), (1, 3))])
def test_the_largest_difference_is_in_the_middle_where_it_can_be(
    index: tuple[int, int], marked: tuple[int, int]
) -> None:
    reference, candidate = np.zeros((9, 9)), np.zeros((9, 9))
    candidate[index] = 1
    shown = excerpt("x", reference, candidate)
    assert shown.marked == marked
    assert (len(shown.reference), len(shown.reference[0])) == (5, 4)


def test_names_of_limits_are_not_on_top_of_each_other() -> None:
    roundings = {f"format {i}": 1e-6 * (1 + i / 100) for i in range(4)}
    page = Page(report(Report("t", True, ["v"], [ReportPoint("a", 1e-9, 1e-6, roundings)])))
    heights = [float(a["y"]) for tag, a in page.seen if tag == "text" and a.get("class", "").endswith("-name")]
    assert len(heights) == 5
    assert min(np.diff(sorted(heights))) >= 12  # the size of the letters


def test_a_page_is_written_as_utf8(tmp_path: Path) -> None:
    write_report(tmp_path / "page.html", Report("Größe \ud800", True, ["match"]))
    assert "Größe \\ud800" in (tmp_path / "page.html").read_text(encoding="utf-8")
