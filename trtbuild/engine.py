"""Engine: a recipe and the paths that it means; or a bare model, which needs no recipe."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from trtbuild import recipe
from trtbuild.errors import InputError
from trtbuild.names import nearest
from trtbuild.recipe import Recipe, Tuned
from trtbuild.recipe import tuned as tuned_file

ENGINES = Path("engines")
RECIPE = "recipe.toml"
BUILDS = "builds"
_BARE = {"calibration": {"method": "auto"}}
"""The recipe of a model without one: nobody has looked for the method that suits it."""


@dataclass(frozen=True)
class Engine:
    """What to build. `folder` holds recipe and builds; a bare model has none and `builds` is None.

    `tuned`: what of the recipe is from the tuned.toml beside it; None without one, or where it is not wanted.
    """

    name: str
    recipe: Recipe
    model: Path
    shards: Path | None
    samples: Path | None
    folder: Path
    builds: Path | None
    ranges: Path | None = None
    tuned: Tuned | None = None

    @property
    def labels(self) -> Path | None:
        labels = self.recipe.validation.labels
        return self.folder / labels if labels else None

    def without(self, repair: str) -> str:
        """What to do so that `calibration.<repair>` is not asked for, for messages."""
        if self.tuned is not None and getattr(self.tuned.calibration, repair):
            return f"{tuned_file.NAME} asks for it: run tune again with --mode implicit, or --set tuned=false"
        return f"remove calibration.{repair}"

    def require_shards(self) -> Path:
        """The folder of calibration shards. Raises InputError for a bare model without `--calib`."""
        if self.shards is None:
            raise InputError(f"{self.model}: INT8 needs calibration shards; give their folder with --calib")
        return self.shards

    def require_samples(self) -> Path:
        """The folder of validation samples. Raises InputError for a bare model without `--samples`."""
        if self.samples is None:
            raise InputError(f"{self.model}: give a folder of validation samples with --samples")
        return self.samples


def no_such(reference: str, *wanted: str) -> InputError:
    """The error for a reference that is none of what was wanted, with the nearest engines."""
    known = [found.parent.name for found in ENGINES.glob(f"*/{RECIPE}")]
    return InputError(f"{reference}: neither {', nor '.join(wanted)}{nearest(reference, known)}")


def engine_folder(reference: str) -> Path | None:
    """The folder with a recipe.toml that `reference` means: itself, or under engines/."""
    return next((f for f in (Path(reference), ENGINES / reference) if (f / RECIPE).is_file()), None)


def open_engine(
    reference: str,
    overrides: tuple[str, ...] = (),
    pins: tuple[str, ...] = (),
    calib: Path | None = None,
    samples: Path | None = None,
    ranges: Path | None = None,
) -> Engine:
    """Open a folder with a recipe.toml, its name under engines/, or a bare MODEL.onnx.

    A bare model's ranges are chosen by what they do to its outputs, unless an override names a method.
    `calib` and `samples` go before what the recipe says; `ranges` is a table to use instead of calibrating.
    What tune found for a folder goes before its recipe, and an override before both; pins the other way.
    Raises InputError when there is no such engine, or its recipe or its tuned.toml is wrong.
    """
    path = Path(reference)
    if path.suffix == ".onnx":
        parsed = recipe.parse(_BARE, "--set", overrides, pins)
        return Engine(path.stem, parsed, path, calib, samples, path.parent, None, ranges)
    folder = engine_folder(reference)
    if folder is None:
        raise no_such(reference, f"a folder with a {RECIPE}", f"a name under {ENGINES}/", "a .onnx file")
    parsed = recipe.load(folder / RECIPE, overrides, pins)
    tuned = _tuned(folder) if parsed.tuned else None
    if tuned is not None:
        parsed = recipe.load(folder / RECIPE, overrides, pins, tuned)
    parsed = _with_timing_cache(parsed, folder)
    return Engine(
        name=folder.resolve().name,
        recipe=parsed,
        model=folder / parsed.model.path,
        shards=calib or folder / parsed.calibration.shards,
        samples=samples or folder / parsed.validation.samples,
        folder=folder,
        builds=folder / BUILDS,
        ranges=ranges,
        tuned=tuned,
    )


def _tuned(folder: Path) -> Tuned | None:
    path = folder / tuned_file.NAME
    return tuned_file.load(path) if os.path.lexists(path) else None  # a link to nowhere is an error


def _with_timing_cache(parsed: Recipe, folder: Path) -> Recipe:
    """The recipe with its timing cache beside it, as all paths in a recipe are."""
    section = parsed.tensorrt
    if not section.timing_cache or section.timing_cache == "none":
        return parsed
    placed = section.model_copy(update={"timing_cache": str(folder / section.timing_cache)})
    return parsed.model_copy(update={"tensorrt": placed})
