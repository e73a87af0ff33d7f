"""Fill this folder with magika's file-type model and real files of this machine to feed it.

The model ships inside the package magika; the files are those of Python's standard library and
installed packages: nothing is downloaded. The choice depends on the seed and on what is installed.

    model.onnx                 the first and last 1024 bytes of a file (N,2048) -> type probabilities
    labels.json                what each probability stands for
    shards/*.npz               files to calibrate with, {"bytes": (16,2048) int32}
    validation/*.npz           other files
    validation/labels.json     their types by ending, {"<file stem>:<row>": label}
"""

import argparse
import importlib.util
import json
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

try:
    import numpy as np
except ModuleNotFoundError as error:
    print(f"error: {error}; pip install 'trtbuild[demo]'", file=sys.stderr)
    raise SystemExit(3) from None

HERE = Path(__file__).resolve().parent
SHARD_SIZE = 16
Sample = tuple[np.ndarray, str]  # the network's input, the label
# Only endings that tell what is inside: .h is C or C++, .txt and .md are often plain text, .html and
# .xml often templates. Not .pyc either: the interpreter rewrites them.
LABELS = {
    ".c": "c",
    ".cc": "cpp",
    ".cpp": "cpp",
    ".css": "css",
    ".exe": "pebin",
    ".gif": "gif",
    ".gz": "gzip",
    ".ini": "ini",
    ".js": "javascript",
    ".json": "json",
    ".npy": "npy",
    ".npz": "npz",
    ".onnx": "onnx",
    ".otf": "otf",
    ".pem": "pem",
    ".png": "png",
    ".py": "python",
    ".rst": "rst",
    ".so": "elf",
    ".svg": "svg",
    ".toml": "toml",
    ".ttf": "ttf",
    ".wav": "wav",
    ".whl": "zip",
    ".yaml": "yaml",
    ".zip": "zip",
}
# Tests bring files that are broken on purpose.
SKIPPED_FOLDERS = {"test", "tests"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the model, calibration shards and validation set.")
    parser.add_argument("--calibration", type=int, default=64, metavar="N", help="files to calibrate with")
    parser.add_argument("--validation", type=int, default=400, metavar="N", help="files to validate with")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    model = packaged("magika", "models/standard_v3_3/model.onnx")
    config = json.loads(model.with_name("config.min.json").read_text())
    rng = np.random.default_rng(args.seed)
    wanted = args.calibration + args.validation
    found = list(islice(distinct_samples(files_by_label(), config, rng), wanted))
    if len(found) < wanted:
        print(f"error: {wanted} files wanted, only {len(found)} usable ones installed here", file=sys.stderr)
        raise SystemExit(3)
    # The rare types come first: mix before splitting.
    samples = [found[i] for i in rng.permutation(wanted)]

    with tempfile.TemporaryDirectory(prefix=".prepare-", dir=HERE) as temporary:
        staging = Path(temporary)
        shutil.copyfile(model, staging / "model.onnx")
        (staging / "labels.json").write_text(json.dumps(config["target_labels_space"]) + "\n")
        write_shards(staging / "shards", samples[: args.calibration])
        labels = write_shards(staging / "validation", samples[args.calibration :])
        (staging / "validation" / "labels.json").write_text(json.dumps(labels, indent=1) + "\n")
        for name in ("model.onnx", "labels.json", "shards", "validation"):
            replace(HERE / name, staging / name)
    print(f"filetype: {args.calibration} calibration files, {args.validation} validation files in {HERE}")


def packaged(package: str, path: str) -> Path:
    """Where a file of an installed package lies. The package is not imported, so its own dependencies
    need not be there."""
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or []:
        if (Path(folder) / path).is_file():
            return Path(folder) / path
    print(f"error: no {path} of package {package}; pip install 'trtbuild[demo]'", file=sys.stderr)
    raise SystemExit(3)


def replace(target: Path, new: Path) -> None:
    """Rename `new` to `target`; a folder that stood there goes into the staging folder and with it."""
    if target.is_dir():
        target.rename(new.with_name(f"old-{new.name}"))
    os.replace(new, target)


def files_by_label() -> dict[str, list[Path]]:
    """The files of the standard library and the installed packages whose ending tells their type."""
    files: dict[str, list[Path]] = {}
    for root in {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}:
        for folder, subfolders, names in os.walk(root):
            subfolders[:] = set(subfolders) - SKIPPED_FOLDERS
            for path in (Path(folder, name) for name in names):
                if path.suffix in LABELS:
                    files.setdefault(LABELS[path.suffix], []).append(path)
    return {label: sorted(paths) for label, paths in files.items()}


def distinct_samples(
    files: dict[str, list[Path]], config: dict[str, Any], rng: np.random.Generator
) -> Iterator[Sample]:
    """Files in random order, the types taking turns; copies of a file count once."""
    shuffled = [
        [(label, paths[i]) for i in rng.permutation(len(paths))] for label, paths in sorted(files.items())
    ]
    seen = set()
    for label, path in filter(None, chain.from_iterable(zip_longest(*shuffled))):
        row = network_input(path, config) if path.is_file() else None
        if row is not None and row.tobytes() not in seen:
            seen.add(row.tobytes())
            yield row, label


def network_input(path: Path, config: dict[str, Any]) -> np.ndarray | None:
    """What magika feeds: the bytes of both ends without the white space around them, padded in between.

    None if less is left than magika asks the network about."""
    beginning, end, block = config["beg_size"], config["end_size"], config["block_size"]
    with path.open("rb") as file:
        head = file.read(block).lstrip()[:beginning]
        file.seek(max(0, path.stat().st_size - block))
        tail = file.read(block).rstrip()[-end:]
    if len(head) < config["min_file_size_for_dl"]:
        return None
    row = np.full(beginning + end, config["padding_token"], dtype=np.int32)
    row[: len(head)] = np.frombuffer(head, dtype=np.uint8)
    row[len(row) - len(tail) :] = np.frombuffer(tail, dtype=np.uint8)
    return row


def write_shards(folder: Path, samples: list[Sample]) -> dict[str, str]:
    """Write the rows into shards; returns their labels."""
    folder.mkdir()
    labels: dict[str, str] = {}
    for start in range(0, len(samples), SHARD_SIZE):
        stem = f"{start // SHARD_SIZE:04d}"
        part = samples[start : start + SHARD_SIZE]
        np.savez(folder / f"{stem}.npz", bytes=np.stack([row for row, _ in part]))
        labels |= {f"{stem}:{i}": label for i, (_, label) in enumerate(part)}
    print(f"filetype: {folder.name}: {len(samples)} files of {len(set(labels.values()))} types")
    return labels


if __name__ == "__main__":
    main()
