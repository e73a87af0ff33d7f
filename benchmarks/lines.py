"""Lines of text for the benchmarks, as engines/ocr-rec/prepare.py renders them, from other seeds; shards of
them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ENGINE = Path("engines/ocr-rec")
LABELS = "labels.json"
PER_SHARD = 16
Sample = tuple[NDArray[Any], Any]
"""What the network reads, without a batch axis, and the label."""


def render(folder: Path, count: int, seed: int) -> dict[str, str]:
    """Write shards of PER_SHARD lines into `folder`; returns what they say, by sample name."""
    return write_shards(folder, "x", lines(count, np.random.default_rng(seed)))


def write_shards(folder: Path, name: str, samples: Iterator[Sample]) -> dict[str, Any]:
    """Into a new folder, with the labels, {"<file stem>:<row>": label}, which it returns."""
    folder.mkdir()
    labels: dict[str, Any] = {}
    while part := list(islice(samples, PER_SHARD)):
        stem = f"{len(labels) // PER_SHARD:04}"
        arrays: dict[str, Any] = {name: np.stack([row for row, _ in part])}
        np.savez(folder / f"{stem}.npz", **arrays)
        labels |= {f"{stem}:{row}": label for row, (_, label) in enumerate(part)}
    (folder / LABELS).write_text(json.dumps(labels))
    return labels


def lines(count: int, random: np.random.Generator) -> Iterator[Sample]:
    """What ocr-rec is validated with: (3,48,320) float32, and what it says."""
    prepare, files = module(ENGINE / "prepare.py"), fonts()
    for _ in range(count):
        image, text = prepare.draw_line(files, random)
        yield prepare.network_input(image), text


def fonts() -> list[Path]:
    families = module(ENGINE / "prepare.py").FONTS.items()
    return [packaged(package, f"files/{name}") for package, names in families for name in names]


def packaged(package: str, path: str) -> Path:
    """Where a file of an installed package lies; exit code 3 where it does not."""
    found: Path = module(ENGINE / "prepare.py").packaged(package, path)
    return found


def module(path: Path) -> Any:
    """A prepare.py, loaded."""
    spec = importlib.util.spec_from_file_location("prepare", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded
