"""A generator function of the user's -> samples."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrators.inputs import InputSpec
from calibrators.pack import Sample, samples_in
from trtbuild import functions
from trtbuild.errors import InputError

_END = object()


def load(reference: str) -> functions.Function:
    """The function of a `file.py:function` or `module:function`; both are looked for from here on.

    Raises InputError when there is none, or when loading it raises.
    """
    place, _, name = reference.rpartition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does, for the module and for what it imports
    if place.endswith(".py"):
        return functions.from_file(Path(place), name, "generator")
    return functions.from_module(place, name)


def read(
    function: functions.Function, reference: str, inputs: Sequence[InputSpec], batched: bool
) -> Iterator[Sample]:
    """What the function yields: dicts of arrays by input name, or bare arrays for a model with one input;
    each a sample, or several along axis 0.

    Raises InputError when the function raises, naming the line, or yields something else; ShardError when
    an array does not fit the model or holds NaN or Inf.
    """
    for index, item in enumerate(_called(function, reference)):
        source = f"{reference}, item {index}"
        yield from samples_in(source, _arrays(item, source, inputs), inputs, batched)


def _called(function: functions.Function, reference: str) -> Iterator[Any]:
    with _blamed(function, reference):
        found = function()
    if isinstance(found, Mapping | str | bytes) or not hasattr(found, "__iter__"):
        raise InputError(f"{reference} returned a {type(found).__name__}; expected a generator of samples")
    items = iter(found)
    while True:
        with _blamed(function, reference):
            item = next(items, _END)
        if item is _END:
            return
        yield item


@contextmanager
def _blamed(function: functions.Function, reference: str) -> Iterator[None]:
    """Inside, the user's code runs: what it prints goes to stderr, what it raises is an InputError."""
    try:
        with redirect_stdout(sys.stderr):  # stdout may be one JSON document
            yield
    except (Exception, SystemExit) as error:
        place = functions.place_in(error, function)
        where = f" at {place}" if place else ""
        raise InputError(
            f"{reference} raised {type(error).__name__}{where}: {error}; -v shows its traceback"
        ) from error


def _arrays(item: Any, source: str, inputs: Sequence[InputSpec]) -> dict[str, NDArray[Any]]:
    if not isinstance(item, Mapping):
        if len(inputs) > 1:
            names = ", ".join(spec.name for spec in inputs)
            raise InputError(
                f"{source} is a bare {type(item).__name__}; expected a dict of the inputs {names}"
            )
        item = {inputs[0].name: item}
    wrong = [
        type(value).__name__ for value in item.values() if not isinstance(value, np.ndarray | np.generic)
    ]
    if wrong:
        raise InputError(f"{source} holds a {wrong[0]}; expected NumPy arrays")
    # A copy: generators fill one buffer again and again, and samples wait here until a shard is full.
    return {str(name): np.array(value) for name, value in item.items()}
