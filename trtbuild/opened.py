"""The model of an engine, opened to be built as its recipe says."""

from __future__ import annotations

from trtbuild.engine import Engine
from trtbuild.errors import InputError
from trtbuild.model.model import Model
from trtbuild.progress import say
from trtbuild.recipe import tuned


def open_model(engine: Engine) -> Model:
    """Open the model; says what of tuned.toml is applied, if there is one.

    Raises InputError as `Model.open` does, and for a tuned.toml that was found for another model.
    """
    model = Model.open(engine.model)
    found = engine.tuned
    if found is None:
        return model
    if found.origin.model != model.sha256:
        raise InputError(
            f"{engine.folder / tuned.NAME} was found for another model than {model.path}; run `trtbuild tune "
            f"{engine.folder}` again, delete it, or --set tuned=false"
        )
    section, by_tune = engine.recipe.calibration, found.calibration
    as_found = all(getattr(section, key) == value for key, value in by_tune)
    say(f"{tuned.NAME}: {found}{'' if as_found else '; --set goes before it'}")
    return model
