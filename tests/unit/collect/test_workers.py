"""Workers in other processes, on a cluster, and what goes wrong there."""

import os
import re
import signal
import sys

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


@pytest.mark.parametrize("address", ["dask", "dask://", "spark://host:1", ""])
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
