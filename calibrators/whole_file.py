"""A file that is written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[IO[bytes]]:
    """Yield a stream to what takes the place of ``path`` at the end: a crash leaves the old file or the new
    one, and a failure nothing beside them.

    ``durable=False`` leaves it to the system when the data reaches the disk: for what carries a checksum
    and can be made again. An OSError of the writing names ``path``, as a full disk, say, does not tell
    where; one that the caller raises inside keeps the name that it has.
    """
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    inside: OSError | None = None
    try:
        with unfinished.open("xb") as stream:
            try:
                yield stream
            except OSError as error:
                inside = error
                raise
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        if error is not inside or error.filename is None:
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):  # it is renamed, or was never made
            unfinished.unlink()
