"""A small writer of diagrams as SVG: boxes, arrows and labels, readable on a light and on a dark page.

A picture is drawn with `box`, `frame`, `arrow`, `label` and `plus`, then written by `svg`. Its colours follow the
reader's `prefers-color-scheme`; the background belongs to the picture, so that text is readable wherever it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

TITLE, BODY, SMALL = 13.0, 11.5, 11.0
LEADING = 15.0
TIMES = "\N{MULTIPLICATION SIGN}"
SANS = "system-ui, -apple-system, 'Segoe UI', 'Noto Sans', 'DejaVu Sans', Helvetica, Arial, sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"

_LIGHT = {
    "page": ("#ffffff", "#d0d7de"),
    "data": ("#ddf4ff", "#0969da"),
    "weights": ("#fff8c5", "#9a6700"),
    "attention": ("#fbefff", "#8250df"),
    "map": ("#dafbe1", "#1a7f37"),
    "frozen": ("#eaeef2", "#57606a"),
    "text": ("#1f2328", "#57606a"),
}
_DARK = {
    "page": ("#0d1117", "#30363d"),
    "data": ("#0c2d6b", "#58a6ff"),
    "weights": ("#3d2f00", "#d29922"),
    "attention": ("#3b1f66", "#bc8cff"),
    "map": ("#0f3d1e", "#3fb950"),
    "frozen": ("#21262d", "#8b949e"),
    "text": ("#e6edf3", "#9da7b3"),
}
KINDS = {
    "data": "array",
    "weights": "trained array",
    "attention": "attention",
    "map": "other operation",
    "frozen": "not trained",
}
"""What each colour stands for."""

# Advances in em, at least those of DejaVu Sans, the widest of the fonts above.
_ADVANCES = (
    ("iljI'", 0.32),
    (" .,:;|", 0.35),
    ("ftr()[]/-!", 0.42),
    ("mwMW%@", 1.0),
    (f"ABCDEFGHJKLNOPQRSTUVXYZ+=<>#&{TIMES}", 0.84),
)
_BOLD = 1.18


def width(text: str, size: float, *, mono: bool = False, bold: bool = False) -> float:
    """An upper estimate of how wide a text is, in pixels."""
    if mono:
        return 0.61 * size * len(text)
    em = sum(next((w for letters, w in _ADVANCES if c in letters), 0.66) for c in text)
    return em * size * (_BOLD if bold else 1.0)


@dataclass(frozen=True)
class Box:
    """Where a drawn box is; arrows start and end at its sides."""

    x: float
    y: float
    w: float
    h: float

    @property
    def top(self) -> tuple[float, float]:
        """The middle of its upper edge."""
        return self.x + self.w / 2, self.y

    @property
    def bottom(self) -> tuple[float, float]:
        """The middle of its lower edge."""
        return self.x + self.w / 2, self.y + self.h

    def left(self, at: float = 0.5) -> tuple[float, float]:
        """The point of its left edge at this fraction of its height."""
        return self.x, self.y + self.h * at

    def right(self, at: float = 0.5) -> tuple[float, float]:
        """The point of its right edge at this fraction of its height."""
        return self.x + self.w, self.y + self.h * at


@dataclass
class Picture:
    """A diagram in the making: its title, its size, and the SVG elements so far."""

    title: str
    w: float
    h: float
    elements: list[str] = field(default_factory=list)
    kinds: dict[str, None] = field(default_factory=dict)

    def box(self, x: float, y: float, w: float, kind: str, title: str, *lines: str, h: float | None = None) -> Box:
        """A box as high as its lines, or `h`: the title, then smaller lines."""
        height = 14 + LEADING * (1 + len(lines)) if h is None else h
        made = Box(x, y, w, height)
        self.kinds[kind] = None
        start = y + height / 2 - LEADING * len(lines) / 2 + 4
        rows = [_text(x + w / 2, start, title, "title")]
        rows += [_text(x + w / 2, start + LEADING * (i + 1), line, "small") for i, line in enumerate(lines)]
        rect = f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{w:g}" height="{height:g}" rx="6"/>'
        self.elements.append(f'<g class="box">{rect}{"".join(rows)}</g>')
        return made

    def frame(self, x: float, y: float, w: float, h: float, caption: str) -> None:
        """A dashed frame around what belongs together, its caption inside at the bottom left."""
        self.elements.append(f'<rect class="frame" x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="8"/>')
        self.elements.append(_text(x + 10, y + h - 9, caption, "note", "start"))

    def plus(self, x: float, y: float) -> Box:
        """The sum of two arrows."""
        self.elements.append(f'<circle class="sum" cx="{x:g}" cy="{y:g}" r="9"/>')
        self.elements.append(f'<path class="cross" d="M {x - 5:g} {y:g} H {x + 5:g} M {x:g} {y - 5:g} V {y + 5:g}"/>')
        return Box(x - 9, y - 9, 18, 18)

    def arrow(self, *points: tuple[float, float]) -> None:
        """A line through the points, with a head at the end."""
        path = " L ".join(f"{x:g} {y:g}" for x, y in points)
        self.elements.append(f'<path class="arrow" d="M {path}" marker-end="url(#head)"/>')

    def label(self, x: float, y: float, lines: Sequence[tuple[str, str]], point: str, anchor: str = "start") -> None:
        """Lines of (text, class) from (x, y) downwards; `point` says where the shape among them is from."""
        rows = "".join(_text(x, y + 13.5 * i, text, style, anchor) for i, (text, style) in enumerate(lines))
        self.elements.append(f'<g class="shape" data-point="{escape(point)}">{rows}</g>')

    def note(self, x: float, y: float, text: str, anchor: str = "start") -> None:
        """A remark."""
        self.elements.append(_text(x, y, text, "note", anchor))

    def svg(self, foot: Sequence[str]) -> str:
        """The whole picture as SVG text; `foot` are the lines at the bottom, above the key of colours."""
        lines = [_text(20, self.h + 16 * i, line, "small", "start") for i, line in enumerate(foot)]
        y = self.h + 16 * len(foot) + 2
        x, key = 20.0, []
        for kind in (k for k in KINDS if k in self.kinds):
            key.append(f'<rect class="{kind}" x="{x:g}" y="{y - 9:g}" width="14" height="11" rx="3"/>')
            key.append(_text(x + 20, y, KINDS[kind], "small", "start"))
            x += 38 + width(KINDS[kind], SMALL)
        body = "\n".join([*self.elements, *lines, *key])
        high = y + 18
        size = f'viewBox="0 0 {self.w:g} {high:g}" width="{self.w:g}" height="{high:g}"'
        return f"""\
<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">
<title>{escape(self.title)}</title>
<style>
text {{ font: {BODY:g}px {SANS}; }}
.title {{ font-size: {TITLE:g}px; font-weight: 600; }}
.head {{ font-size: 15px; font-weight: 600; }}
.symbols, .numbers {{ font: {SMALL:g}px {MONO}; }}
.small, .note {{ font-size: {SMALL:g}px; }}
.note {{ font-style: italic; }}
.arrow, .cross {{ fill: none; stroke-width: 1.4; }}
.frame {{ fill: none; stroke-dasharray: 5 4; }}
{_colours(_LIGHT)}
@media (prefers-color-scheme: dark) {{
{_colours(_DARK)}
}}
</style>
<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">\
<path class="point" d="M 0 0.5 L 8 4 L 0 7.5 z"/></marker></defs>
<rect class="page" x="0.5" y="0.5" width="{self.w - 1:g}" height="{high - 1:g}" rx="8"/>
{_text(20, 28, self.title, "head", "start")}
{body}
</svg>
"""


def _text(x: float, y: float, text: str, style: str, anchor: str = "middle") -> str:
    return f'<text class="{style}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text, quote=False)}</text>'


def _colours(theme: dict[str, tuple[str, str]]) -> str:
    text, dim = theme["text"]
    rows = [f".{kind} {{ fill: {fill}; stroke: {line}; }}" for kind, (fill, line) in theme.items() if kind != "text"]
    rows += [
        f"text {{ fill: {text}; }}",
        f".small, .note, .numbers {{ fill: {dim}; }}",
        f".arrow, .cross, .frame {{ stroke: {dim}; }}",
        f".point {{ fill: {dim}; }}",
        f".sum {{ fill: {theme['page'][0]}; stroke: {dim}; }}",
    ]
    return "\n".join(rows)
