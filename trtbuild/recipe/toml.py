"""TOML: a file as a table, and values as text."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from trtbuild.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["comment", "read", "tomllib", "value"]

_NOT_IN_A_COMMENT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")


def read(path: Path) -> dict[str, Any]:
    """The table that a file holds. Raises InputError for bad TOML, OSError for a file that cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # also what tomllib lets through: a number of 5,000 digits
        raise InputError(f"{path}: not valid TOML: {error}") from error


def value(given: str | float | bool) -> str:
    """The text that TOML reads as this value; of numbers only finite ones."""
    if isinstance(given, bool):
        return "true" if given else "false"
    if isinstance(given, str):  # a basic string is JSON's, but that it may not hold DEL as it is
        return json.dumps(given, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(given)


def comment(line: str) -> str:
    """The line as a comment; what may not stand in one, line breaks included, becomes a space."""
    return f"# {_NOT_IN_A_COMMENT.sub(' ', line)}".rstrip()
