"""The journal: everything that a search measured, so that a rerun goes on where it was stopped."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

from trtbuild.errors import InputError
from trtbuild.progress import say

T = TypeVar("T")
SCHEMA_VERSION = 1


class Journal:
    """A file of JSON lines: the key that it was begun under, then what was measured, of what, and the result.

    The search decides by nothing but these results and its seed: the same ones lead the same way again. A
    line that a kill cut off is measured again. To be closed; as a context manager it does so itself.
    """

    def __init__(self, path: Path, key: str) -> None:
        """Raises InputError while another process has the file, and for a damaged one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file: IO[bytes] = path.open("a+b")
        try:
            self._lock()
            self._found = self._read(key)
        except BaseException:
            self._file.close()
            raise
        if self._found:
            say(f"journal: {path}, {len(self._found)} results found before")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def recall(
        self, what: str, of: Any, measure: Callable[[], T], to: Callable[[T], Any], back: Callable[[Any], T]
    ) -> T:
        """The result of `measure`, or what it was before. what, of: JSON that tells it from all others;
        to, back: between it and JSON.

        Raises InputError for a result in the file that `back` cannot take.
        """
        name = json.dumps([what, of], sort_keys=True)
        if name in self._found:
            try:
                return back(self._found[name])
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise self._damaged(f"{what}: {type(error).__name__}: {error}") from error
        measured = measure()
        self._append({"what": what, "of": of, "found": to(measured)})
        self._found[name] = to(measured)
        return measured

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{self._path} is in use: another tune of this engine is running; wait for it, or stop it"
            ) from error

    def _read(self, key: str) -> dict[str, Any]:
        self._file.seek(0)
        content = self._file.read()
        whole, _, _ = content.rpartition(b"\n")  # behind the last newline is what a kill cut off
        self._file.truncate(len(whole) + 1 if whole else 0)
        lines = whole.split(b"\n") if whole else []
        if not lines:
            self._append({"schema_version": SCHEMA_VERSION, "key": key})
            return {}
        try:
            head, *entries = map(json.loads, lines)
            if head != {"schema_version": SCHEMA_VERSION, "key": key}:
                raise ValueError(f"not of schema_version {SCHEMA_VERSION} and {key}")
            return {
                json.dumps([entry["what"], entry["of"]], sort_keys=True): entry["found"] for entry in entries
            }
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise self._damaged(str(error)) from error

    def _append(self, entry: Any) -> None:
        """One write for a line, which is flushed: a kill loses one line at most."""
        try:
            self._file.write(json.dumps(entry).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            error.filename = str(self._path)
            raise

    def _damaged(self, what: str) -> InputError:
        return InputError(f"{self._path} is damaged ({what}); delete it, and what it holds is measured again")
