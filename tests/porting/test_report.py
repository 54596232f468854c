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

from perceiver_ref.porting.report import (
    Excerpt,
    Report,
    ReportParameter,
    ReportPoint,
    excerpt,
    picture,
    report,
    write_report,
)
from perceiver_ref.porting.report.picture import LEVELS


class Page(HTMLParser):
    """Checks that tags nest, and keeps what is shown."""

    void = ("meta", "line", "circle", "polyline", "rect")

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
    error = picture(HOSTILE, normal(2, 2, 3, 70, 5), normal(3, 2, 3, 70, 5), 1e-5, heads=3)
    rows = [ReportParameter("w", (3, 5), True, 1e-3, wrong=True), ReportParameter(HOSTILE, (), False)]
    two = ["mismatch: 2 differ", "first divergence: b"]
    return [
        Report("Two dumps", False, two, points, shown, "b", ["a remark"], error, rows),
        Report("Parameters alone", True, ["match"], parameters=[ReportParameter("w", (7,))]),
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


def cells_of(text: str) -> list[list[tuple[int, float, float]]]:
    """By panel: (level, width, x) of its rectangles but the background."""
    panels: list[list[tuple[int, float, float]]] = []
    for tag, a in Page(text).seen:
        if tag == "svg" and a["class"] == "picture":
            panels.append([])
        if tag == "rect" and a["class"] != "e0":
            panels[-1].append((int(a["class"][1:]), float(a["width"]), float(a.get("x", 0))))
    return panels


def test_a_picture_shows_where_and_how_much() -> None:
    """Of attention weights (items, heads, queries, keys) one head, and there one key, each ten times as far off."""
    b = np.zeros((2, 3, 4, 7))
    a = b.copy()
    a[1, 2, :, 5] = 1e-3
    a[1, 2, 0, 6] = 1e-1
    a[1, 0, 3, 3] = np.nan
    made = picture("weights", b, a, 1e-5, heads=3)
    assert [panel.title for panel in made.panels] == [f"item 1, head {head}" for head in range(3)]
    assert made.left_out == 3
    panels = cells_of(report(Report("t", False, ["v"], picture=made)))
    assert [len(panel) for panel in panels] == [1, 0, 5]
    assert panels[0][0][0] == LEVELS + 1
    levels = sorted(level for level, _, _ in panels[2])
    assert levels == [4] * 4 + [LEVELS]  # 1e-3 is half way from 1e-5 to 1e-1, on a logarithmic scale


def test_a_large_array_is_shown_by_the_largest_of_blocks() -> None:
    b = np.zeros((500, 300))
    a = b.copy()
    a[499, 299] = 1.0
    made = picture("x", b, a, 1e-5)
    assert made.block == (9, 6)
    rows, columns = len(made.panels[0].levels), len(made.panels[0].levels[0])
    assert (rows, columns) == (56, 50)
    assert made.panels[0].levels[55][49] == LEVELS
    assert sum(map(sum, made.panels[0].levels)) == LEVELS
    assert len(report(Report("t", False, ["v"], picture=made))) < 20_000


def test_heads_that_share_channels_are_parted_by_lines() -> None:
    made = picture("mixed", normal(0, 5, 12), normal(1, 5, 12), 1e-5, heads=4)
    seen = Page(report(Report("t", False, ["v"], picture=made))).seen
    lines = [a for _, a in seen if a.get("class") == "head"]
    widths = [float(a["width"]) for tag, a in seen if tag == "svg"]
    assert [float(line["x1"]) / widths[0] for line in lines] == [0.25, 0.5, 0.75]


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 5), (2, 1, 3, 4, 5)])
def test_every_shape_has_a_picture(shape: tuple[int, ...]) -> None:
    made = picture("x", normal(0, *shape), normal(1, *shape), 1e-5)
    assert made.shape == (1, *shape)[-2:]
    report(Report("t", False, ["v"], picture=made))


def test_what_has_no_picture() -> None:
    assert picture("x", normal(0, 3), normal(0, 4), 1e-5) is None
    assert picture("x", normal(0, 3), normal(0, 3), 1e-5) is None
    assert picture("x", np.zeros(()), np.ones(()), 1e-5) is None


def test_names_stand_below_the_plot_and_long_ones_are_cut() -> None:
    points = [ReportPoint(f"encoder.block.{i}.attention", 1e-9) for i in range(100)]
    text = Page(report(Report("t", True, ["v"], points))).text
    assert "...r.block.0.attention" in text
    assert 30 <= text.count("attention") - 200 <= 40  # beside the titles of dots and the rows of the table


def test_a_page_is_written_as_utf8(tmp_path: Path) -> None:
    write_report(tmp_path / "page.html", Report("Größe \ud800", True, ["match"]))
    assert "Größe \\ud800" in (tmp_path / "page.html").read_text(encoding="utf-8")
