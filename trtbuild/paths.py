"""Files that belong together by name, and where a file can be written."""

from __future__ import annotations

import tempfile
from pathlib import Path

from trtbuild.errors import InputError


def data_of(model: Path) -> Path:
    """Where the weights lie of a model that is too big for one file: `<model>.data` beside it."""
    return model.with_name(f"{model.name}.data")


def manifest_of(output: Path) -> Path:
    """Where the manifest lies of a file that `-o` wrote: `<output>.json` beside it."""
    return output.with_name(f"{output.name}.json")


def check_writable(path: Path, option: str) -> None:
    """Raise InputError, naming the option that `path` was given with, unless a file can be written there."""
    if path.is_dir():
        raise InputError(f"{option} {path} is a folder; give a file name")
    if path.is_symlink():  # a rename would put a file in its place
        raise InputError(f"{option} {path} is a link; name the file itself")
    if path.exists() and not path.is_file():  # a device: a rename would put a file in its place
        raise InputError(f"{option} {path} is no regular file; give a file name")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{option} {path}: cannot write into {path.parent}: {error.strerror}") from error
