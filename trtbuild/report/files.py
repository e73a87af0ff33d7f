"""Which reports are wanted as files: refused early, written late, each complete or not at all."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from trtbuild.engine import RECIPE, Engine
from trtbuild.errors import InputError
from trtbuild.golden.gate import DIVERGED_DB
from trtbuild.paths import check_writable, data_of, manifest_of
from trtbuild.progress import say
from trtbuild.recipe import tuned
from trtbuild.report import annotate, html, junit
from trtbuild.report.document import Checked, Document, check_time, json_text
from trtbuild.ship import store
from trtbuild.ship.store import Build

MARKS = {
    "--output": f'"diverged_below_db": {DIVERGED_DB}'.encode(),
    "--junit": f'<testsuites name="{junit.GENERATOR} '.encode(),
    "--html": html.GENERATOR.encode(),
    "--annotate": annotate.MARK.encode(),
}
"""What a report of each kind holds, so that it may be written over."""
SAID = {"--output": "report"}


@dataclass(frozen=True)
class ReportFiles:
    """Where to write what; None: not wanted. `output`: the document."""

    output: Path | None = None
    junit: Path | None = None
    html: Path | None = None
    annotate: Path | None = None

    def check(self, engine: Engine, build: Build, others: Mapping[str, Path | None]) -> None:
        """Raise InputError unless each can be written, over nothing but an earlier report of its kind.

        `others`: files that the command uses too, by option.
        """
        check_time()
        taken = {path.resolve(): option for option, path in others.items() if path is not None}
        own = dict(_own(engine, build))
        for option, path in self._wanted():
            where = path.resolve()
            if where in own:
                raise InputError(f"{option} {path} would overwrite the {own[where]}; give another name")
            if where in taken:
                raise InputError(f"{option} {path} is the file of {taken[where]}; give another name")
            taken[where] = option
            check_place(option, path, MARKS[option])
        data = data_of(self.annotate) if self.annotate else None
        if self.annotate and data and data.exists() and not self.annotate.exists():
            raise InputError(
                f"--annotate {self.annotate}: {data} would be taken for its weights; move that file away"
            )

    def write(self, checked: Checked, document: Document) -> None:
        """Write those that are wanted, atomically. Raises OSError, naming the file."""
        if self.output is not None:
            store.write_text(self.output, json_text(document) + "\n")
        if self.junit is not None:
            store.write_text(self.junit, junit.junit(document))
        if self.html is not None:
            store.write_text(self.html, html.html(document))
        if self.annotate is not None:
            annotate.save(annotate.annotated(checked, document), self.annotate)
        for option, path in self._wanted():
            say(f"{SAID.get(option, option.removeprefix('--'))}: {path}")

    def _wanted(self) -> Iterator[tuple[str, Path]]:
        paths = {
            "--output": self.output,
            "--junit": self.junit,
            "--html": self.html,
            "--annotate": self.annotate,
        }
        yield from ((option, path) for option, path in paths.items() if path is not None)


def _own(engine: Engine, build: Build) -> Iterator[tuple[Path, str]]:
    """What a report must never be written over."""
    yield engine.model.resolve(), "model itself"
    yield data_of(engine.model).resolve(), "model's weights"
    yield (engine.folder / RECIPE).resolve(), "recipe"
    yield (engine.folder / tuned.NAME).resolve(), "file of tuned pins"
    yield build.artifact.resolve(), "build itself"
    yield data_of(build.artifact).resolve(), "build's weights"
    manifest = build.artifact.parent / store.MANIFEST if build.stored else manifest_of(build.artifact)
    yield manifest.resolve(), "build's manifest"


def check_place(option: str, path: Path, mark: bytes) -> None:
    """Raise InputError unless a report can be written there, over nothing but an earlier one, which has
    `mark` in it."""
    check_writable(path, option)
    if not path.exists():
        return
    if path.stat().st_size and not _holds(path, mark):
        raise InputError(f"{option} {path} is there and is no such report; give another name or delete it")


def _holds(path: Path, mark: bytes) -> bool:
    """Whether a file of any size has these bytes in it."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(mark) >= 0
