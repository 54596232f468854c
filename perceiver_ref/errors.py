"""The one error that means "your input", as opposed to a mistake in this package."""


class InputError(ValueError):
    """What was given cannot be used. The message says what was expected, what came, and what to do.

    The command line prints it as one line and exits with 2.
    """


def one_of(what: str, name: str, known: object) -> InputError:
    """The error for an unknown name: it lists the known ones, the closest first."""
    import difflib

    names = sorted(map(str, known))  # type: ignore[call-overload]
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return InputError(f"unknown {what} {name!r}{hint} Known: {', '.join(names)}")
