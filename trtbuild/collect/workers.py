"""Passes in other processes, through joblib: on this machine, or on a cluster that reads the same shards."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from calibrators.histogram import Histogram
from trtbuild.collect.cluster import backend
from trtbuild.collect.counting import cores, counter
from trtbuild.collect.forward import Forward
from trtbuild.collect.spans import Span
from trtbuild.errors import InputError, MachineError
from trtbuild.targets.session import loadable

Counts = dict[str, Histogram]
Sent = NDArray[np.uint8] | str | None
"""A model as joblib hands it over once: an array, which workers map, or the path of a file."""


def count_spans(
    forward: Forward, spans: Iterable[Span], workers: int, cluster: str | None = None
) -> Iterator[tuple[Span, Counts]]:
    """Each span with its counts, as they come, from that many processes or from the workers of a cluster.

    Raises MachineError when a worker is killed or the cluster cannot be reached, InputError for a model
    above protobuf's limit on a cluster; and what the passes raise.
    """
    import joblib
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    work = list(spans)
    workers = max(1, min(workers, len(work)))
    threads = 1 if cluster else max(1, cores() // workers)
    with backend(cluster), _sent(forward, cluster) as (model, passes):
        streams = joblib.parallel.get_active_backend()[0].supports_return_generator
        parallel = joblib.Parallel(
            n_jobs=-1 if cluster else workers,
            batch_size=1,
            return_as="generator_unordered" if streams else "list",
        )
        try:
            yield from parallel(joblib.delayed(_count)(model, passes, span, threads) for span in work)
        except TerminatedWorkerError as error:
            raise MachineError(
                "a calibration worker was killed, as the system does when memory runs out; "
                "use fewer --workers or a smaller --memory-limit"
            ) from error


def _count(model: Sent, forward: Forward, span: Span, threads: int) -> tuple[Span, Counts]:
    """What a worker does with a span."""
    source = model.tobytes() if isinstance(model, np.ndarray) else model
    histograms = {tensor: Histogram() for tensor in forward.tensors}
    passes = dataclasses.replace(forward, model=source).run(span, threads)
    with counter(threads) as counting:
        for batch, activations in passes:
            counting.count(batch, activations, histograms)
    return span, histograms


@contextmanager
def _sent(forward: Forward, cluster: str | None) -> Iterator[tuple[Sent, Forward]]:
    """The model, and the passes without it."""
    bare = dataclasses.replace(forward, model=None, shards=forward.shards.resolved())
    if forward.model is None:
        yield None, bare
        return
    with loadable(forward.model) as source:
        if cluster and isinstance(source, str):
            raise InputError("a model above 2 GB cannot be sent to a cluster; use --workers on this machine")
        yield source if isinstance(source, str) else np.frombuffer(source, np.uint8), bare
