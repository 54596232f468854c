"""The page of a report: plain HTML with its style, and a plot as SVG inside; everything given is escaped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape

from ...host.files import AnyPath, write_text
from .contents import Excerpt, Report, ReportPoint
from .picture import svg

_Scale = Callable[[float], float]
_Limit = tuple[str, str, list[tuple[int, float]]]
"""The class of a line, its name, and its places and values."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --faint: #6a737d; --line: #d0d7de;
  --good: #1a7f37; --bad: #c62828; --error: #0b5fad; --band: #8250df; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --faint: #9aa4af; --line: #30363d;
  --good: #4cc26a; --bad: #ff7b72; --error: #6cb6ff; --band: #c297ff; } }
body { color: var(--ink); background: var(--paper); font: 15px/1.5 system-ui, sans-serif; max-width: 64em;
  margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.3em; } h2 { font-size: 1.1em; margin-top: 2em; }
.verdict { border-left: 5px solid; padding: .3em 1em; } .good { border-color: var(--good); }
.bad { border-color: var(--bad); } .verdict p { margin: .2em 0; } .verdict p:first-child { font-weight: bold; }
.good p:first-child { color: var(--good); } .bad p:first-child { color: var(--bad); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font: 13px/1.4 ui-monospace, monospace; }
th, td { padding: .2em .7em; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } caption { text-align: left; color: var(--faint); }
td small { display: block; white-space: normal; color: var(--faint); }
tr.off td { color: var(--bad); } tr.first td { font-weight: bold; } td.marked { outline: 2px solid var(--bad); }
.pair { display: flex; flex-wrap: wrap; gap: 2em; } .faint { color: var(--faint); }
svg.plot { width: 100%; height: auto; } svg text { font: 12px ui-monospace, monospace; fill: var(--faint); }
.grid { stroke: var(--line); } .error { stroke: var(--error); fill: none; stroke-width: 1.5; }
.dot { fill: var(--error); } .dot.off { fill: var(--bad); }
.limit { stroke: var(--bad); stroke-dasharray: 6 4; fill: none; }
.band { stroke: var(--band); stroke-dasharray: 2 3; fill: none; } .begin { stroke: var(--bad); stroke-width: 1; }
.panels { display: flex; flex-wrap: wrap; gap: 1em; } figure { margin: 0; max-width: 100%; }
svg.picture { max-width: 100%; height: auto; border: 1px solid var(--line); display: block; }
figcaption { color: var(--faint); font-size: 13px; } .picture .head { stroke: var(--ink); stroke-width: .7; }
.scale { font: 12px ui-monospace, monospace; color: var(--faint); }
.scale span { display: inline-block; width: 1.1em; height: 1.1em; margin: 0 .35em 0 .9em; vertical-align: -.2em;
  border: 1px solid var(--line); }
svg text.limit-name { fill: var(--bad); } svg text.band-name { fill: var(--band); }
"""
_COLOURS = ["#fff3d6", "#fddf9e", "#fcc266", "#f89d3c", "#ee7328", "#d84a1c", "#b02418", "#7a0f1e"]
"""Of the levels of a picture, from small errors to large ones; what is not finite is neither."""
_STYLE += ".e0 { fill: var(--paper); background: var(--paper); }\n" + "".join(
    f".e{level} {{ fill: {colour}; background: {colour}; }}\n"
    for level, colour in enumerate([*_COLOURS, "#6f42c1"], start=1)
)
_LOWEST = -17  # a decade below the rounding of float64; smaller errors and 0 are drawn there
_LEFT, _RIGHT, _TOP, _BOTTOM, _WIDTH, _HEIGHT = 110, 150, 16, 155, 900, 445
_NAMES, _LETTERS = 40, 22
"""At most so many names below the plot, and letters of one"""


def report(given: Report) -> str:
    """The report as one HTML page, which needs no network and no scripts."""
    return "\n".join(_page(given)) + "\n"


def write_report(path: AnyPath, given: Report) -> None:
    """Write the page, whole or not at all."""
    write_text(path, report(given))


def _page(given: Report) -> Iterator[str]:
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width">'
    yield "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    yield f"<title>{escape(given.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>"
    yield f"<h1>{escape(given.title)}</h1>"
    yield f'<div class="verdict {"good" if given.good else "bad"}">'
    yield from (f"<p>{escape(line)}</p>" for line in given.verdict)
    yield "</div>"
    if given.points:
        yield "<h2>How the error grows</h2>"
        yield from _plot(given)
        yield from _table(given)
    if given.picture is not None:
        yield from svg(given.picture)
    if given.excerpt is not None:
        yield from _excerpt(given.excerpt)
    if given.parameters:
        yield from _parameters(given)
    if given.notes:
        yield "<h2>Notes</h2>\n<ul>"
        yield from (f"<li>{escape(note)}</li>" for note in given.notes)
        yield "</ul>"
    yield "</body>\n</html>"


def _table(given: Report) -> Iterator[str]:
    heads = list(dict.fromkeys(head for point in given.points for head in point.cells))
    dtypes = list(dict.fromkeys(dtype for point in given.points for dtype in point.roundings))
    limited = any(point.tolerance is not None for point in given.points)
    columns = [
        "point",
        *heads,
        "error",
        *(["tolerance"] if limited else []),
        *(head for d in dtypes for head in (f"{d} rounding", "in units of it")),
    ]
    yield '<div class="wide">\n<table>\n<caption>error: the largest difference, in units of the largest reference'
    yield "value or 1, whichever is larger</caption>"
    yield f"<thead><tr>{''.join(f'<th>{escape(head)}</th>' for head in columns)}</tr></thead>\n<tbody>"
    for point in given.points:
        marks = [*(["off"] if _off(point) else []), *(["first"] if point.name == given.first else [])]
        note = f"<small>{escape(point.note)}</small>" if point.note else ""
        cells = [f"<td>{escape(point.name)}{note}</td>"]
        cells += [f"<td>{escape(point.cells.get(head, ''))}</td>" for head in heads]
        cells.append(f"<td>{_written(point.error)}</td>")
        if limited:
            cells.append(f"<td>{'' if point.tolerance is None else _written(point.tolerance)}</td>")
        for dtype in dtypes:
            cells.append(f"<td>{_written(point.roundings[dtype]) if dtype in point.roundings else ''}</td>")
            cells.append(f"<td>{format(point.units[dtype], '.2g') if dtype in point.units else ''}</td>")
        yield f'<tr class="{" ".join(marks)}">{"".join(cells)}</tr>'
    yield "</tbody>\n</table>\n</div>"


def _parameters(given: Report) -> Iterator[str]:
    """Name, shape, whether it is used, and the error of its gradient."""
    yield "<h2>Parameters</h2>"
    used = any(row.used is not None for row in given.parameters)
    compared = any(row.gradient_error is not None for row in given.parameters)
    heads = ["parameter", "shape", *(["used"] if used else []), *(["error of its gradient"] if compared else [])]
    yield '<div class="wide">\n<table>'
    yield f"<thead><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr></thead>\n<tbody>"
    for row in given.parameters:
        cells = [row.name, "x".join(map(str, row.shape)) or "scalar"]
        cells += [{True: "yes", False: "no", None: ""}[row.used]] if used else []
        cells += ["-" if row.gradient_error is None else _written(row.gradient_error)] if compared else []
        off = ' class="off"' if row.wrong else ""
        yield f"<tr{off}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
    yield "</tbody>\n</table>\n</div>"


def _excerpt(given: Excerpt) -> Iterator[str]:
    yield f"<h2>{escape(given.name)}: around the largest difference, at {_index(given.index)}</h2>"
    yield '<div class="pair">'
    row, column = given.marked
    for title, rows in (("reference", given.reference), ("candidate", given.candidate)):
        yield f'<div class="wide">\n<table>\n<caption>{title}, from {_index(given.starts)}</caption>\n<tbody>'
        for i, values in enumerate(rows):
            cells = "".join(
                f'<td class="marked">{escape(v)}</td>' if (i, j) == (row, column) else f"<td>{escape(v)}</td>"
                for j, v in enumerate(values)
            )
            yield f"<tr>{cells}</tr>"
        yield "</tbody>\n</table>\n</div>"
    yield "</div>"


def _plot(given: Report) -> Iterator[str]:
    """Errors on a logarithmic scale in the order of computation; infinite ones at the top edge."""
    points = given.points
    values = [v for p in points for v in (p.error, p.tolerance or 0.0, *p.roundings.values())]
    top = max([math.ceil(math.log10(v)) for v in values if v > 0 and math.isfinite(v)], default=0)
    top = max(top, _LOWEST + 2)

    def x(i: float) -> float:
        return round(_LEFT + (i + 0.5) * (_WIDTH - _LEFT - _RIGHT) / len(points), 2)

    def y(value: float) -> float:
        power = top + 1 if not math.isfinite(value) else max(math.log10(value), _LOWEST) if value > 0 else _LOWEST
        return round(_TOP + (top + 1 - power) * (_HEIGHT - _TOP - _BOTTOM) / (top + 1 - _LOWEST), 2)

    label = "error at each point, logarithmic scale"
    yield f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
    for power in [*range(top, _LOWEST, -max(1, math.ceil((top - _LOWEST) / 8))), _LOWEST]:
        at = y(10.0**power)
        yield f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at}" y2="{at}"/>'
        yield f'<text x="{_LEFT - 8}" y="{at + 4}" text-anchor="end">{"0" if power == _LOWEST else f"1e{power}"}</text>'
    for i in range(0, len(points), max(1, math.ceil(len(points) / _NAMES))):
        below = f'x="{x(i)}" y="{_HEIGHT - _BOTTOM + 12}" transform="rotate(-60 {x(i)} {_HEIGHT - _BOTTOM + 12})"'
        yield f'<text {below} text-anchor="end">{escape(_short(points[i].name))}</text>'
    first = next((i for i, point in enumerate(points) if point.name == given.first), None)
    if first is not None:
        yield f'<line class="begin" x1="{x(first)}" x2="{x(first)}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
        anchor = "start" if first < len(points) / 2 else "end"
        shift = 6 if anchor == "start" else -6
        yield f'<text x="{x(first) + shift}" y="{_TOP + 10}" text-anchor="{anchor}">{escape(points[first].name)}</text>'
    limits = [("limit", "tolerance", [(i, p.tolerance) for i, p in enumerate(points) if p.tolerance])]
    for dtype in dict.fromkeys(d for point in points for d in point.roundings):
        line = [(i, point.roundings[dtype]) for i, point in enumerate(points) if dtype in point.roundings]
        limits.append(("band", f"{dtype} rounding", line))
    yield from _steps([limit for limit in limits if limit[2]], x, y)
    path = " ".join(f"{x(i)},{y(point.error)}" for i, point in enumerate(points))
    yield f'<polyline class="error" points="{path}"/>'
    for i, point in enumerate(points):
        off = " off" if _off(point) else ""
        said = f"{i + 1}: {escape(point.name)}: {_written(point.error)}"
        yield f'<circle class="dot{off}" cx="{x(i)}" cy="{y(point.error)}" r="3.5"><title>{said}</title></circle>'
    yield "</svg>"


def _steps(limits: Sequence[_Limit], x: _Scale, y: _Scale) -> Iterator[str]:
    """Limits that hold point by point, each with its name at the end, from the highest, none on another."""
    lowest = 0.0
    for kind, name, line in sorted(limits, key=lambda limit: -limit[2][-1][1]):
        places = " ".join(f"{x(i + side)},{y(value)}" for i, value in line for side in (-0.5, 0.5))
        yield f'<polyline class="{kind}" points="{places}"/>'
        lowest = max(y(line[-1][1]) + 4, lowest + 14)
        yield f'<text class="{kind}-name" x="{_WIDTH - _RIGHT + 6}" y="{lowest}">{escape(name)}</text>'


def _short(name: str) -> str:
    """The end of a long name, which tells it from others."""
    return name if len(name) <= _LETTERS else f"...{name[3 - _LETTERS :]}"


def _off(point: ReportPoint) -> bool:
    return point.tolerance is not None and not point.error <= point.tolerance


def _written(error: float) -> str:
    return f"{error:.1e}"


def _index(index: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, index))}]"
