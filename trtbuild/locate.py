"""What a BUILD on the command line means, and the engine that it belongs to."""

from __future__ import annotations

from pathlib import Path

from trtbuild.engine import BUILDS, ENGINES, Engine, engine_folder, no_such, open_engine
from trtbuild.errors import InputError
from trtbuild.paths import manifest_of
from trtbuild.ship import store
from trtbuild.ship.store import Build


def find_build(reference: str, key: str | None = None) -> Build:
    """The build that `reference` names; of an engine the newest one, or the one that `key` names.

    A build is named by its folder, a file in it, the beginning of its key, or the file that `-o` wrote; an
    engine goes before a key that begins like its name.
    Raises InputError when there is none.
    """
    folder = engine_folder(reference)
    if folder is None:
        stores = [Path(BUILDS), *sorted(ENGINES.glob(f"*/{BUILDS}"))]
        build = _named_build(Path(reference)) or store.find(reference, *stores)
        if build is not None and key is None:
            return build
        if build is not None:
            raise InputError(f"{reference} is a build itself; --build {key} needs an engine before it")
        if reference.endswith(".onnx"):
            raise InputError(f"{reference} is no build; name a file that `trtbuild build -o` wrote")
        raise no_such(
            reference, "a build's folder", "the beginning of a key", "a file that -o wrote", "an engine"
        )
    if key is None:
        return store.newest(folder / BUILDS)
    build = _named_build(Path(key)) or store.find(key, folder / BUILDS)
    if build is None:
        raise InputError(f"{folder / BUILDS}: no build whose key begins with {key!r}")
    return build


def find_beside(engine: Engine, reference: str) -> Build:
    """The build that `reference` names: as `find_build`, but of this engine first."""
    build = store.find(reference, engine.builds) if engine.builds is not None else None
    return build or find_build(reference)


def engine_of(
    build: Build, reference: str, overrides: tuple[str, ...] = (), samples: Path | None = None
) -> Engine:
    """The engine that `reference` names; where it names a build, the engine around that build's store,
    else the one that it was built from. Raises InputError when that is no longer there.
    """
    if engine_folder(reference) is not None:
        return open_engine(reference, overrides, samples=samples)
    artifact = build.artifact.resolve()
    source = build.manifest["source"]
    if artifact.parent.parent.name == BUILDS and engine_folder(str(artifact.parents[2])) is not None:
        source = str(artifact.parents[2])
    if not Path(source).exists():
        raise InputError(f"{build.artifact} was built from {source}, which is not here")
    return open_engine(source, overrides, samples=samples)


def _named_build(path: Path) -> Build | None:
    if (path / store.MANIFEST).is_file():
        return store.read(path)
    if path.name and manifest_of(path).is_file():
        return store.read_output(path)
    folder = path.parent
    if path.is_file() and folder.resolve().parent.name == BUILDS and (folder / store.MANIFEST).is_file():
        return store.read(folder)  # what `build` prints
    return None
