"""The error family and the exit codes; foreign errors are translated to it in one place, here.

A message is one line: what was seen, what was expected, what to do.
"""

from __future__ import annotations

import errno
from enum import IntEnum

from calibrators.errors import CalibratorError, DeviceError


class ExitCode(IntEnum):
    OK = 0
    GATE = 1
    INPUT = 2
    MACHINE = 3
    BUG = 70
    INTERRUPTED = 130


class TrtbuildError(Exception):
    """Base of every error that trtbuild raises on purpose."""

    exit_code = ExitCode.INPUT


class InputError(TrtbuildError):
    """What the user gave cannot be used: a file, a recipe, a shard, a rule, a metric."""


class MachineError(TrtbuildError):
    """The machine lacks something; the message names it and the command that installs it."""

    exit_code = ExitCode.MACHINE


class BuildError(TrtbuildError):
    """The target refused the model."""


class LostPinError(TrtbuildError):
    """A pin did not hold in what was built."""

    exit_code = ExitCode.GATE


def one_line(error: BaseException) -> str:
    """The first meaningful line of a foreign error's message, for use inside one of ours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def as_trtbuild_error(error: Exception) -> TrtbuildError | None:
    """Translate an expected foreign error; None means that `error` is a bug in trtbuild."""
    if isinstance(error, TrtbuildError):
        return error
    if isinstance(error, CalibratorError):
        machine = isinstance(error, DeviceError) or _is_full(error.__cause__)
        return MachineError(str(error)) if machine else InputError(str(error))
    if isinstance(error, OSError) and _is_full(error):
        return MachineError(f"{error.filename or 'the disk'}: no space left; free some and run again")
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return InputError(f"{where}{error.strerror}; check the path, its permissions")
    if isinstance(error, MemoryError):
        return MachineError("out of memory; use smaller batches ([inputs.*] opt) or fewer samples")
    return None


def _is_full(error: BaseException | None) -> bool:
    """Whether a disk, or the user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
