"""Files that belong together by name."""

from __future__ import annotations

from pathlib import Path


def data_of(model: Path) -> Path:
    """Where the weights lie of a model that is too big for one file: `<model>.data` beside it."""
    return model.with_name(f"{model.name}.data")


def manifest_of(output: Path) -> Path:
    """Where the manifest lies of a file that `-o` wrote: `<output>.json` beside it."""
    return output.with_name(f"{output.name}.json")
