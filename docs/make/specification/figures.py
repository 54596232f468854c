"""What all diagrams share: the shapes of a model on the arrows, each drawn with the point of the trace it is from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .shapes import Shape, Symbols, traced
from .svg import TIMES, Picture
from .symbols import SIZES


@dataclass(frozen=True)
class Figure:
    """A diagram: its file in docs/diagrams, what it shows, the preset whose shapes it has, and how it is drawn."""

    name: str
    about: str
    preset: str
    draw: Callable[[Drawing], None]

    def drawn(self) -> Drawing:
        """The diagram on the shapes of its preset. Raises `InputError` where its symbols do not fit them."""
        drawing = Drawing(Picture("", 0, 0), traced(self.preset))
        self.draw(drawing)
        drawing.sizes.learn([(point, symbols, drawing.shapes[point]) for point, symbols in drawing.labels])
        return drawing

    def svg(self) -> str:
        """The file."""
        drawing = self.drawn()
        return drawing.picture.svg(drawing.foot())


class Drawing:
    """A picture and the shapes that it shows: (traced point, symbols) in the order of drawing."""

    def __init__(self, picture: Picture, shapes: dict[str, Shape]) -> None:
        self.picture = picture
        self.shapes = shapes
        self.sizes = Symbols()
        self.labels: list[tuple[str, str]] = []

    def shape(self, x: float, y: float, point: str, symbols: str, anchor: str = "start") -> None:
        """The shape of a point: symbols, and below them the numbers."""
        self.labels.append((point, symbols))
        numbers = f" {TIMES} ".join(f"{n:,}" for n in self.shapes[point])
        self.picture.label(x, y, [(f"({symbols})", "symbols"), (numbers, "numbers")], point, anchor)

    def count(self, pattern: str) -> int:
        """How many parts there are: the first free number in a name such as `encoder.blocks.{}.0`."""
        n = 0
        while pattern.format(n) in self.shapes:
            n += 1
        return n

    def foot(self) -> list[str]:
        """The sizes in words, a few to a line."""
        words = [f"{s.name} = {self.sizes[s.name]:,} {s.short}" for s in SIZES if s.name in self.sizes]
        lines: list[str] = []
        for word in words:
            if lines and len(lines[-1]) + len(word) < self.picture.w / 7.5:
                lines[-1] += f";  {word}"
            else:
                lines.append(word)
        return lines


def heads(n: int) -> str:
    """`1 head`, `8 heads`."""
    return f"{n} head{'s' if n > 1 else ''}"
