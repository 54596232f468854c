"""Elementwise arithmetic, comparisons and functions.

Two-argument ops broadcast as NumPy does; a rule returns gradients of the broadcast shape and the engine sums them.
"""

from __future__ import annotations

from typing import Any

from ..backend import Array, special, xp
from ..core import op


@op(scalars=True)
def add(x: Array, y: Array) -> Any:
    """x + y, broadcast."""
    return x + y, ()


@add.backward
def _(g: Array) -> Any:
    return g, g


@op(scalars=True)
def subtract(x: Array, y: Array) -> Any:
    """x - y, broadcast."""
    return x - y, ()


@subtract.backward
def _(g: Array, needs: tuple[bool, ...]) -> Any:
    return g, -g if needs[1] else None


@op(scalars=True)
def multiply(x: Array, y: Array, *, needs: tuple[bool, ...]) -> Any:
    """x * y, broadcast."""
    return x * y, (x if needs[1] else None, y if needs[0] else None)


@multiply.backward
def _(g: Array, x: Array, y: Array, needs: tuple[bool, ...]) -> Any:
    return g * y if needs[0] else None, g * x if needs[1] else None


@op(floats=True, scalars=True)
def divide(x: Array, y: Array, *, needs: tuple[bool, ...]) -> Any:
    """x / y, broadcast."""
    return x / y, (x if needs[1] else None, y)


@divide.backward
def _(g: Array, x: Array, y: Array, needs: tuple[bool, ...]) -> Any:
    return g / y if needs[0] else None, -g * x / (y * y) if needs[1] else None


@op
def negative(x: Array) -> Any:
    """-x, of any shape."""
    return -x, ()


@negative.backward
def _(g: Array) -> Any:
    return -g


@op
def absolute(x: Array) -> Any:
    """|x|, of any shape; the derivative at 0 is 0."""
    return abs(x), (x,)


@absolute.backward
def _(g: Array, x: Array) -> Any:
    return xp(g).where(x == 0, 0, g) * xp(x).sign(x)  # 0 at 0 also of an infinite g


@op(floats=True, scalars=True)
def power(x: Array, y: Array) -> Any:
    """x ** y, broadcast. dx = y x^(y-1), dy = x^y log x, and 0 where y = 0 or x = 0 respectively."""
    return x**y, (x, y)


@power.backward
def _(g: Array, x: Array, y: Array, needs: tuple[bool, ...]) -> Any:
    library = xp(g)
    dx = dy = None
    if needs[0] and isinstance(y, (int, float)):  # stays a Python number, so that it takes the dtype of x
        dx = g * y * x ** (y - 1) if y != 0 else None
    elif needs[0]:
        still = y == 0
        dx = library.where(still, 0, g * y * x ** library.where(still, 1, y - 1))
    if needs[1]:
        base = library.asarray(x, g.dtype)
        zero = base == 0
        safe = library.where(zero, 1, base)
        dy = library.where(zero, 0, g * safe**y * library.log(safe))
    return dx, dy


@op(scalars=True)
def maximum(x: Array, y: Array) -> Any:
    """The larger of x and y, broadcast; where they are equal each gets half of the gradient, beside NaN all of it."""
    library = xp(x) if hasattr(x, "dtype") else xp(y)
    return library.maximum(x, y), (x, y)


@maximum.backward
def _(g: Array, x: Array, y: Array) -> Any:
    return _shared(g, x == y, lost=(x < y, x > y))


@op(scalars=True)
def minimum(x: Array, y: Array) -> Any:
    """The smaller of x and y, broadcast; where they are equal each gets half of the gradient, beside NaN all of it."""
    library = xp(x) if hasattr(x, "dtype") else xp(y)
    return library.minimum(x, y), (x, y)


@minimum.backward
def _(g: Array, x: Array, y: Array) -> Any:
    return _shared(g, x == y, lost=(x > y, x < y))


def _shared(g: Array, tie: Array, *, lost: tuple[Array, Array]) -> tuple[Array, Array]:
    """Half of g each where they tie, else nothing for the one that lost: selected, since 0 times infinity is NaN."""
    half = xp(g).where(tie, g * 0.5, g)
    return xp(g).where(lost[0], 0, half), xp(g).where(lost[1], 0, half)


@op(numbers="moved", scalars=True, labels=("condition",))
def where(condition: Array, x: Array, y: Array) -> Any:
    """x where `condition` (bool) holds, else y; all three broadcast.

    The side not taken gets an exact zero, whatever it holds.
    """
    return xp(condition).where(condition, x, y), (condition,)


@where.backward
def _(g: Array, condition: Array) -> Any:
    library = xp(g)
    zero = library.zeros((), g.dtype)
    return None, library.where(condition, g, zero), library.where(condition, zero, g)


@op(floats=True)
def exp(x: Array) -> Any:
    """e ** x, of any shape."""
    y = xp(x).exp(x)
    return y, (y,)


@exp.backward
def _(g: Array, y: Array) -> Any:
    return g * y


@op(floats=True)
def log(x: Array) -> Any:
    """Natural logarithm, of any shape."""
    return xp(x).log(x), (x,)


@log.backward
def _(g: Array, x: Array) -> Any:
    return g / x


@op(floats=True)
def sqrt(x: Array) -> Any:
    """Square root, of any shape; its derivative at 0 is infinite."""
    y = xp(x).sqrt(x)
    return y, (y,)


@sqrt.backward
def _(g: Array, y: Array) -> Any:
    return g / (2 * y)


@op(floats=True)
def tanh(x: Array) -> Any:
    """Hyperbolic tangent, of any shape."""
    y = xp(x).tanh(x)
    return y, (y,)


@tanh.backward
def _(g: Array, y: Array) -> Any:
    return g * (1 - y * y)


@op(floats=True)
def erf(x: Array) -> Any:
    """The error function of x of any shape, 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x."""
    return special("erf", x), (x,)


@erf.backward
def _(g: Array, x: Array) -> Any:
    return g * (1.1283791670955126 * xp(x).exp(-x * x))  # 2 / sqrt(pi)


@op(floats=True)
def sin(x: Array) -> Any:
    """Sine of x in radians, of any shape."""
    return xp(x).sin(x), (x,)


@sin.backward
def _(g: Array, x: Array) -> Any:
    return g * xp(x).cos(x)


@op(floats=True)
def cos(x: Array) -> Any:
    """Cosine of x in radians, of any shape."""
    return xp(x).cos(x), (x,)


@cos.backward
def _(g: Array, x: Array) -> Any:
    return -g * xp(x).sin(x)


# Comparisons: plain bool arrays out, never recorded.


@op(differentiable=False, numbers="moved", scalars=True)
def equal(x: Array, y: Array) -> Any:
    """x == y, broadcast -> bool."""
    return x == y


@op(differentiable=False, numbers="moved", scalars=True)
def not_equal(x: Array, y: Array) -> Any:
    """x != y, broadcast -> bool."""
    return x != y


@op(differentiable=False, numbers="moved", scalars=True)
def less(x: Array, y: Array) -> Any:
    """x < y, broadcast -> bool."""
    return x < y


@op(differentiable=False, numbers="moved", scalars=True)
def less_equal(x: Array, y: Array) -> Any:
    """x <= y, broadcast -> bool."""
    return x <= y


@op(differentiable=False, numbers="moved", scalars=True)
def greater(x: Array, y: Array) -> Any:
    """x > y, broadcast -> bool."""
    return x > y


@op(differentiable=False, numbers="moved", scalars=True)
def greater_equal(x: Array, y: Array) -> Any:
    """x >= y, broadcast -> bool."""
    return x >= y
