"""The program around the commands: Ctrl-C, and every failure as one line and an exit code."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

from trtbuild import __version__
from trtbuild.cli import cli
from trtbuild.cli.options import SCHEMA_VERSION
from trtbuild.errors import ExitCode, as_trtbuild_error
from trtbuild.progress import STOP

INTERRUPTED = "interrupted; nothing was left half-written"


def main() -> None:
    """Entry point: run the command and translate every failure into one line and an exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no bug
    code = run(sys.argv[1:])
    try:
        if sys.stdout is not None:  # closed by whoever started us
            sys.stdout.flush()
    except OSError:  # a full disk: what is still in the buffer would fail again, and make the exit code 120
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command line; returns its exit code."""
    try:
        with _control_c():
            return int(cli.main(arguments, prog_name="trtbuild", standalone_mode=False) or 0)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _fail(INTERRUPTED, ExitCode.INTERRUPTED, arguments)
    except click.ClickException as error:
        return _fail(_usage(error), ExitCode.INPUT, arguments)
    except SystemExit:  # click's answer to a broken pipe: whoever read our progress is gone
        return ExitCode.INTERRUPTED
    except Exception as error:
        if STOP.is_set():  # what a swallowed interrupt broke
            return _fail(INTERRUPTED, ExitCode.INTERRUPTED, arguments)
        known = as_trtbuild_error(error)
        if known is None:
            return _fail(_bug(error), ExitCode.BUG, arguments)
        if {"-v", "--verbose"} & set(arguments):
            traceback.print_exception(error)
        return _fail(str(known), known.exit_code, arguments)


@contextmanager
def _control_c() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt at once, and is remembered for where a library swallows that; so does
    SIGTERM, by which a service manager or a CI server stops us."""
    STOP.clear()
    previous = signal.getsignal(signal.SIGINT)
    if previous is not signal.default_int_handler or threading.current_thread() != threading.main_thread():
        yield  # ignored by whoever started us, or handled by a program that calls us
        return
    terminated = signal.getsignal(signal.SIGTERM)

    def stop(*_: object) -> None:
        STOP.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    if terminated is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        signal.signal(signal.SIGTERM, terminated)


def _usage(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f"; see '{context.command_path} --help'" if context is not None else ""
    return error.format_message().rstrip(".") + hint


def _fail(message: str, code: ExitCode, arguments: list[str]) -> int:
    line = " ".join(message.split())
    with suppress(OSError):  # a full disk behind stdout or stderr: the exit code still tells
        click.echo(f"error: {line}", err=True)
        if "--json" in arguments:
            click.echo(json.dumps({"schema_version": SCHEMA_VERSION, "error": line, "exit_code": int(code)}))
    return int(code)


def _bug(error: Exception) -> str:
    """Write the traceback to a file; the message names it."""
    what = f"a bug in trtbuild ({type(error).__name__}: {error})"
    try:
        with tempfile.NamedTemporaryFile("w", prefix="trtbuild-bug-", suffix=".txt", delete=False) as report:
            report.write(f"trtbuild {__version__}: {' '.join(sys.argv)}\n")
            traceback.print_exception(error, file=report)
    except OSError as failure:
        traceback.print_exception(error)
        return f"{what}; its report could not be written: {failure}"
    return f"{what}; please report it with {report.name}"
