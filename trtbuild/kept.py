"""What was measured once and is kept as JSON, under a key of everything that it depends on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from calibrators.whole_file import replacing
from trtbuild.errors import InputError
from trtbuild.progress import say

T = TypeVar("T")
SCHEMA_VERSION = 1


def keep(path: Path, key: Any, what: str, found: Any) -> None:
    """Write `found`, JSON, under the name `what`; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"schema_version": SCHEMA_VERSION, "key": key, what: found}
    with replacing(path) as stream:
        stream.write(json.dumps(document, indent=1).encode())


def kept(path: Path, key: Any, what: str, parse: Callable[[Any], T]) -> T | None:
    """What `keep` wrote under this key, parsed; None where there is no such file.

    Raises InputError for a damaged one, which `parse` may find too: by ValueError, TypeError, KeyError,
    AttributeError or InputError.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema_version"] != SCHEMA_VERSION or document["key"] != key:
            raise ValueError(f"not of schema_version {SCHEMA_VERSION} and {key}")
        found = parse(document[what])
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, InputError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}); delete it first") from error
    say(f"{what}: {path}, found before")
    return found
