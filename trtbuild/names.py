"""How names are matched everywhere: exactly, `glob:PATTERN`, or `re:PATTERN` (the whole name must match)."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable

from trtbuild.errors import InputError


def matcher(pattern: str) -> Callable[[str], bool]:
    """Compile a name pattern.

    Raises InputError when a `re:` pattern is not a valid regular expression.
    """
    kind, colon, body = pattern.partition(":")
    if colon and kind == "glob":
        return _full(fnmatch.translate(body))
    if colon and kind == "re":
        try:
            return _full(body)
        except (re.error, OverflowError, RecursionError) as error:
            raise InputError(f"{pattern!r} is not a regular expression: {error}") from error
    return lambda name: name == pattern


def exactly(name: str) -> str:
    """The pattern that matches this name and no other."""
    return f"re:{re.escape(name)}" if name.startswith(("glob:", "re:")) else name


def _full(expression: str) -> Callable[[str], bool]:
    compiled = re.compile(expression)
    return lambda name: compiled.fullmatch(name) is not None


def nearest(name: str, options: Iterable[str], count: int = 3) -> str:
    """`; nearest: a, b, c`, or an empty string when nothing comes close."""
    body = name.partition(":")[2] if name.startswith(("glob:", "re:")) else name
    by_folded = {option.casefold(): option for option in options}
    close = difflib.get_close_matches(body.casefold(), by_folded, n=count, cutoff=0.5)
    return "; nearest: " + ", ".join(by_folded[name] for name in close) if close else ""
