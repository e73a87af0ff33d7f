"""Functions of the user's own, by reference: `file.py:function` or `module:function`."""

from __future__ import annotations

import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from trtbuild.errors import InputError
from trtbuild.names import nearest

Function = Callable[..., Any]


def from_file(path: Path, name: str, kind: str) -> Function:
    """The function of that name in a Python file; `kind` ("metric") says what the file is called in messages.

    Raises InputError when there is no such file or function, and when the file raises.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such {kind} file")
    module_name = f"trtbuild_{kind}_{path.stem}"
    loader = _Uncached(module_name, str(path))
    spec = importlib.util.spec_from_file_location(module_name, path, loader=loader)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look a module up there
    try:
        with redirect_stdout(sys.stderr):  # stdout may be one JSON document
            spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # it is the user's code: pytest.fail, sys.exit
        raise _raised(str(path), error) from error
    return _function(module, str(path), name)


def from_module(module: str, name: str) -> Function:
    """The function of that name in a module that Python can import.

    Raises InputError when there is no such module or function, and when the module raises.
    """
    try:
        with redirect_stdout(sys.stderr):
            loaded = pkgutil.resolve_name(f"{module}:")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # as above
        raise _raised(module, error) from error
    return _function(loaded, module, name)


class _Uncached(SourceFileLoader):
    """From the source each time, and no bytecode beside it: a file that is changed twice within a second, in
    a folder of the user's, would be taken for the older one."""

    def path_stats(self, path: str) -> NoReturn:
        raise OSError


def place_in(error: BaseException, function: Function) -> str:
    """`file.py:12`, the innermost line of the function's own file in a traceback; "" without one."""
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{file}:{lines[-1]}" if lines else ""


def _function(module: ModuleType, where: str, name: str) -> Function:
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"{where} has no function {name!r}{nearest(name, vars(module))}")
    return function  # type: ignore[no-any-return]


def _raised(where: str, error: BaseException) -> InputError:
    return InputError(f"{where} raised {type(error).__name__} when loaded: {error}; -v shows its traceback")
