"""Workers in other processes, on a cluster, and what goes wrong there."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import joblib
import numpy as np
import pytest

from tests.unit.collect.conftest import TENSORS
from trtbuild.collect import workers as module
from trtbuild.collect.collect import Options, collect
from trtbuild.errors import InputError, MachineError

CLUSTER = "needs the extra: pip install 'trtbuild[cluster]'"


@pytest.fixture(scope="module")
def dask():
    distributed = pytest.importorskip("distributed", reason=CLUSTER)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        yield "dask://" + cluster.scheduler_address.removeprefix("tcp://")


def test_a_dask_cluster_of_two_workers_counts_the_same(model, shards, expected, dask):
    assert collect(model, shards, TENSORS, 2, Options(workers=2, cluster=dask)) == expected


def test_an_error_on_a_dask_worker_arrives(model, arrays, write_shards, dask):
    arrays[1][2, 1, 3] = np.nan
    with pytest.raises(Exception, match="has 1 NaN or Inf, the first in sample 2") as failure:
        collect(model, write_shards(model, arrays), TENSORS, 2, Options(workers=2, cluster=dask))
    assert type(failure.value).__name__ == "ShardError"


def test_an_error_in_a_worker_arrives(model, arrays, write_shards):
    arrays[1][2, 1, 3] = np.nan
    with pytest.raises(Exception, match="has 1 NaN or Inf, the first in sample 2") as failure:
        collect(model, write_shards(model, arrays), TENSORS, 2, Options(workers=2))
    assert type(failure.value).__name__ == "ShardError"


def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_an_error(model, shards, monkeypatch):
    monkeypatch.setattr(module, "_count", killed)
    with pytest.raises(MachineError, match="a calibration worker was killed"):
        collect(model, shards, TENSORS, 2, Options(workers=2))


@pytest.mark.parametrize(
    "address", ["dask", "dask://", "dask://host", "dask://host:abc", "spark://host:1", ""]
)
def test_another_address_is_an_error(model, shards, address):
    with pytest.raises(InputError, match=re.escape(f"--cluster {address}: expected dask://HOST:PORT")):
        collect(model, shards, TENSORS, 2, Options(cluster=address))


def test_a_cluster_that_does_not_answer_is_an_error(model, shards, monkeypatch):
    pytest.importorskip("distributed", reason=CLUSTER)
    monkeypatch.setattr("trtbuild.collect.cluster.SECONDS", 0.5)
    with pytest.raises(MachineError, match=re.escape("dask://127.0.0.1:9 cannot be reached")):
        collect(model, shards, TENSORS, 2, Options(cluster="dask://127.0.0.1:9"))


@pytest.mark.parametrize(("scheme", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_a_package_that_is_missing_is_named(model, shards, monkeypatch, scheme, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MachineError, match=f"{package} is missing: pip install"):
        collect(model, shards, TENSORS, 2, Options(cluster=f"{scheme}://127.0.0.1:9"))


def test_a_model_above_protobufs_limit_cannot_go_to_a_cluster(model, shards, monkeypatch, dask):
    monkeypatch.setattr("trtbuild.model.files.PROTOBUF_LIMIT", 1)
    with pytest.raises(InputError, match="above 2 GB cannot be sent to a cluster"):
        collect(model, shards, TENSORS, 2, Options(workers=2, cluster=dask))


def test_no_more_processes_than_work(model, shards, monkeypatch):
    honest, seen = joblib.Parallel, []

    def parallel(n_jobs, **options):
        seen.append(n_jobs)
        return honest(n_jobs, **options)

    monkeypatch.setattr(joblib, "Parallel", parallel)
    collect(model, shards, TENSORS, 8, Options(workers=1000))
    assert seen == [len(shards.batch_sizes(8))]


ORPHANS = """
import sys
from pathlib import Path
from calibrators.shards import ShardSet
from trtbuild.collect.collect import Options, collect
from trtbuild.model.model import Model
opened = Model.open(Path(sys.argv[1]))
collect(opened, ShardSet.open(Path(sys.argv[2]), opened.inputs), ("x", "r", "g"), 1, Options(workers=2))
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(model, write_shards, how):
    random = np.random.default_rng(4)
    shards = write_shards(model, [random.standard_normal((20_000, 2, 4)).astype(np.float32)])
    command = [sys.executable, "-c", ORPHANS, model.path, shards.files[0].parent]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        wait_until(lambda: len(session_of(process.pid)) > 2 and process.poll() is None, 60)
        process.send_signal(how)
        process.wait()
    wait_until(lambda: not session_of(process.pid), 20)


def session_of(leader):
    """The processes of a session that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return found


def wait_until(true, seconds):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
