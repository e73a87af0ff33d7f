"""joblib's backends: processes on this machine, or a cluster at an address."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from trtbuild.errors import InputError, MachineError, one_line

_ADDRESS = re.compile(r"(dask|ray)://([^/\s]+:\d+)")
SECONDS = 10  # for a cluster to answer


@contextmanager
def backend(cluster: str | None) -> Iterator[None]:
    """Inside, joblib runs processes here, or on the cluster "dask://host:port" or "ray://host:port".

    Raises InputError for another address, MachineError when a package is missing or nothing answers there.
    """
    import joblib

    with ExitStack() as stack:
        if cluster is None:
            stack.enter_context(
                joblib.parallel_config(backend="loky", initializer=_end_with, initargs=(os.getpid(),))
            )
        else:
            _connect(cluster, stack)
        yield


def _end_with(parent: int) -> None:
    """End this process when `parent` is gone: killed, it would leave us waiting on its pipes for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _connect(cluster: str, stack: ExitStack) -> None:
    match = _ADDRESS.fullmatch(cluster)
    if match is None:
        raise InputError(f"--cluster {cluster}: expected dask://HOST:PORT or ray://HOST:PORT")
    scheme, address = match.groups()
    try:
        (_dask if scheme == "dask" else _ray)(address, stack)
    except ImportError as error:
        install = "'trtbuild[cluster]'" if scheme == "dask" else "'ray[client]'"
        raise MachineError(f"--cluster {cluster}: {error.name} is missing: pip install {install}") from error
    except (OSError, ValueError) as error:
        raise MachineError(f"--cluster {cluster} cannot be reached: {one_line(error)}") from error


def _dask(address: str, stack: ExitStack) -> None:
    import joblib
    from distributed import Client

    client = stack.enter_context(Client(address, timeout=SECONDS, set_as_default=False))
    stack.enter_context(joblib.parallel_config(backend="dask", client=client))


def _ray(address: str, stack: ExitStack) -> None:
    import joblib
    import ray
    from ray.util.joblib import register_ray

    ray.init(f"ray://{address}")
    stack.callback(ray.shutdown)
    register_ray()
    stack.enter_context(joblib.parallel_config(backend="ray"))
