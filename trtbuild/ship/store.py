"""Builds on disk: written to a temporary folder, renamed when complete, found again by key."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibrators.whole_file import replacing
from trtbuild.digest import of_json, sha256
from trtbuild.errors import InputError
from trtbuild.paths import data_of, manifest_of

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
UNFINISHED = ".unfinished-"
ABANDONED_SECONDS = 24 * 3600
Manifest = dict[str, Any]
FIELDS = {
    **{
        "key": str,
        "engine": str,
        "created": str,
        "source": str,
        "model.sha256": str,
        "model.not_calibrated": dict,
    },
    **{"target.target": str, "profiles": dict, "layers": list, "artifact.file": str, "artifact.bytes": int},
    **{"precision.pinned": list, "precision.lowerable": int, "precision.share": float},
    **{"audit.histogram": dict, "audit.held": int, "audit.lost": list, "audit.unlowered": list},
}
"""What every manifest says, of those that older versions wrote too."""
LAYER = {"name", "type", "nodes", "precision"}


@dataclass(frozen=True)
class Build:
    """A finished build: what was built (`artifact`) and everything that it was built from (`manifest`)."""

    artifact: Path
    manifest: Manifest

    @property
    def stored(self) -> bool:
        """Whether it lies in a store, in a folder of its own, and not where `-o` wrote it."""
        return (self.artifact.parent / MANIFEST).is_file()

    @property
    def key(self) -> str:
        return str(self.manifest["key"])

    def verify(self) -> None:
        """Raise InputError unless the artifact's bytes are those that were built."""
        if not self.artifact.is_file() or describe(self.artifact) != self.manifest["artifact"]:
            raise InputError(
                f"{self.artifact} is missing or is not what was built (its SHA-256 differs); "
                f"delete {self.artifact.parent if self.stored else self.artifact} and build again"
            )

    def damaged(self, what: str) -> InputError:
        """The error for a manifest that cannot be used."""
        return _damaged(self.artifact.parent / MANIFEST if self.stored else manifest_of(self.artifact), what)


def key_of(parts: Any) -> str:
    """16 hex digits that stand for everything a build depends on."""
    return of_json(parts)[:16]


def describe(artifact: Path) -> dict[str, Any]:
    """An artifact as the manifest records it: name, size and hash, external data included."""
    data = data_of(artifact)
    parts = [artifact, data] if data.is_file() else [artifact]
    return {"file": artifact.name, "bytes": sum(p.stat().st_size for p in parts), "sha256": sha256(parts)}


def write_json(path: Path, document: Any) -> None:
    """Write atomically: a crash leaves the old file or the new one."""
    write_text(path, json.dumps(document, indent=1))


def write_text(path: Path, text: str) -> None:
    """As `write_json`, for text."""
    with replacing(path) as stream:
        stream.write(text.encode())


def publish(builds: Path, key: str, write: Callable[[Path], Manifest]) -> Build:
    """Have `write` fill a temporary folder and return the manifest, then rename it to `builds/key`.

    When another process finished the same build first, theirs is kept: the same key is the same build.
    """
    new = not builds.exists()
    builds.mkdir(parents=True, exist_ok=True)
    _sweep(builds)
    staging = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=builds))
    try:
        manifest = write(staging)
        write_json(staging / MANIFEST, manifest)
        staging.chmod(0o755)
        try:
            staging.rename(builds / key)
        except OSError:
            if not (builds / key / MANIFEST).is_file():
                raise
    except OSError as error:
        if not error.filename or str(error.filename).startswith(str(staging)):
            error.filename = str(builds)  # a full disk, say, does not tell where, or names what is gone
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if new:
            with suppress(OSError):  # not empty: the build was made
                builds.rmdir()
    return read(builds / key)


def _sweep(builds: Path) -> None:
    """Remove what builds that were killed left behind; a day old, nobody is writing to it any more."""
    for folder in builds.glob(f"{UNFINISHED}*"):
        with suppress(FileNotFoundError):  # another build sweeps too
            if time.time() - folder.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def read(folder: Path) -> Build:
    """Read a build's folder. Raises InputError when it is not one."""
    return _read(folder / MANIFEST, lambda manifest: folder / manifest["artifact"]["file"])


def read_output(output: Path) -> Build:
    """Read a build that `-o` wrote: the file and `<file>.json` beside it."""
    return _read(manifest_of(output), lambda _: output)


def _read(path: Path, artifact: Callable[[Manifest], Path]) -> Build:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such manifest; is this a build?") from error
    except ValueError as error:
        raise _damaged(path, f"not valid JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("schema_version") != SCHEMA_VERSION:
        raise _damaged(path, f"not a manifest of schema_version {SCHEMA_VERSION}")
    wrong = [name for name, kind in FIELDS.items() if not isinstance(_at(manifest, name), kind)]
    if not wrong and not all(
        isinstance(layer, dict) and layer.keys() >= LAYER for layer in manifest["layers"]
    ):
        wrong = ["layers"]
    if wrong:
        raise _damaged(path, f"{', '.join(wrong)} missing or damaged")
    return Build(artifact(manifest), manifest)


def _at(manifest: Manifest, name: str) -> Any:
    """The value of a dotted name; None where it is not there."""
    value: Any = manifest
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _damaged(manifest: Path, what: str) -> InputError:
    """Says what to delete, because a build that is there already is not built again."""
    rubbish = manifest.parent if manifest.name == MANIFEST else manifest
    return InputError(f"{manifest}: {what}; delete {rubbish} and build again")


def finished(builds: Path) -> list[Path]:
    """Folders of the finished builds, the newest last."""
    folders = [path.parent for path in builds.glob(f"[!.]*/{MANIFEST}")]
    return sorted(folders, key=lambda folder: (folder / MANIFEST).stat().st_mtime_ns)


def newest(builds: Path) -> Build:
    """The newest build. Raises InputError when there is none."""
    folders = finished(builds)
    if not folders:
        raise InputError(f"{builds}: no build yet; run `trtbuild build` first")
    return read(folders[-1])


def find(prefix: str, *stores: Path) -> Build | None:
    """The build whose key begins with `prefix`; None without one. Raises InputError when several do."""
    folders = [folder for builds in stores for folder in finished(builds) if folder.name.startswith(prefix)]
    if not prefix or not folders:
        return None
    if len(folders) > 1:
        raise InputError(f"{prefix!r} begins {len(folders)} builds: {', '.join(map(str, folders))}")
    return read(folders[0])


def mark_newest(build: Build) -> None:
    """Make an existing build the newest one again, because it was asked for again."""
    os.utime(build.artifact.parent / MANIFEST)
