"""What `-o` receives: the artifact, and the manifest beside it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from trtbuild.engine import RECIPE, Engine
from trtbuild.errors import InputError, MachineError
from trtbuild.model import files as onnx_files
from trtbuild.paths import check_writable, data_of, manifest_of
from trtbuild.ship import store
from trtbuild.ship.store import Build
from trtbuild.targets.base import Target


def check_output(engine: Engine, target: Target, output: Path | None) -> None:
    """Fail before the work, not after it: nowhere to write to, or a name that promises another thing."""
    check_destination(engine, output)
    if output is None:
        return
    promises_model, builds_model = output.suffix == ".onnx", target.artifact.endswith(".onnx")
    if builds_model and not promises_model:
        raise MachineError(
            f"-o {output} promises an engine, but target {target.name} writes an explicit ONNX model; "
            "use --target tensorrt-rtx (pip install 'trtbuild[rtx]'), or a name ending in .onnx"
        )
    if promises_model and not builds_model:
        raise InputError(f"-o {output} promises an ONNX model, but target {target.name} writes an engine")


def check_destination(engine: Engine, output: Path | None) -> None:
    """Raise InputError unless a file can be written there; a bare model needs an `output`."""
    if output is None:
        if engine.builds is None:
            raise InputError(f"{engine.model}: a bare model has no builds folder; say where to write with -o")
        return
    own = {"model": engine.model, "recipe": engine.folder / RECIPE}
    for name, path in own.items():
        if output.resolve() == path.resolve():
            raise InputError(f"-o {output} would overwrite the {name} itself")
    check_writable(output, "-o")
    if data_of(output).exists() and not manifest_of(output).exists():
        raise InputError(
            f"-o {output}: {data_of(output)} would be taken for its weights; move that file away"
        )


def export(build: Build, output: Path) -> None:
    """Write a build's artifact and manifest to `output` and `<output>.json`: complete, then renamed."""
    try:
        with tempfile.TemporaryDirectory(prefix=store.UNFINISHED, dir=output.parent) as folder:
            copy = Path(folder) / output.name
            if data_of(build.artifact).is_file():
                onnx_files.save(onnx_files.read(build.artifact), copy)
            else:
                shutil.copyfile(build.artifact, copy)
            store.write_json(manifest_of(copy), {**build.manifest, "artifact": store.describe(copy)})
            for file in (data_of(copy), copy, manifest_of(copy)):
                if file.is_file():
                    file.replace(output.with_name(file.name))
    except OSError as error:
        error.filename = str(output)  # not the file that is copied, nor a temporary one
        raise
