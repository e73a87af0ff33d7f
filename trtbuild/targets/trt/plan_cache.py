"""Golden engines on disk, by everything that they depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from calibrators.whole_file import replacing
from trtbuild.digest import of_json
from trtbuild.progress import say


def cached(folder: Path | None, parts: dict[str, Any], make: Callable[[], bytes]) -> bytes:
    """The plan that `parts` lead to: from `folder`, if its checksum is right, else made and stored there.

    The file begins with the SHA-256 of the plan (32 bytes). Without a folder it is made each time.
    """
    if folder is None:
        return make()
    path = folder / f"{of_json(parts)[:16]}.plan"
    plan = _read(path)
    if plan is not None:
        say(f"golden engine: {path}, built before")
        return plan
    plan = make()
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as stream:
        stream.write(hashlib.sha256(plan).digest() + plan)
    return plan


def _read(path: Path) -> bytes | None:
    try:
        stored = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, plan = stored[:32], stored[32:]
    if hashlib.sha256(plan).digest() == digest:
        return plan
    say(f"golden engine {path} is damaged: built again")
    return None
