"""trtbuild's metrics and Polygraphy's functions over the same pairs of arrays: a part of benchmarks.golden.

All of trtbuild's figures per tensor (`Comparison`; one tensor is one task) against Polygraphy's L2, cosine,
PSNR and SNR functors, called directly, and once through Polygraphy's Comparator, as its users call them: that
logs statistics beside them.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from numpy.typing import NDArray
from polygraphy.comparator import (
    Comparator,
    CosineSimilarityCompareFunc,
    IterationResult,
    L2CompareFunc,
    PsnrCompareFunc,
    RunResults,
    SnrCompareFunc,
)
from polygraphy.logger import G_LOGGER

from trtbuild.golden.metrics import Comparison

Tensors = Mapping[str, NDArray[Any]]
Comparisons = Mapping[str, Comparison]


def measure(golden: Tensors, candidate: Tensors, rounds: int, threads: int) -> dict[str, Any]:
    """One sample's tensors of both sides -> medians in seconds, nanoseconds per pair, and Polygraphy's
    time as a multiple of ours; and how far the two are apart in cosine, where both measure the same."""
    pairs = sum(golden[name].size for name in golden)
    ours, comparisons = fused(golden, candidate, threads)
    one_thread, _ = fused(golden, candidate, 1)
    theirs = polygraphy(golden, candidate)
    ours()  # compiled code, caches
    expected = theirs()
    found = {name: comparison.result() for name, comparison in comparisons.items()}
    # Each cosine is taken from float32 sums there; NaN is what it makes of Inf.
    apart = max(abs(found[name].cosine - value) for name, value in expected.items() if math.isfinite(value))
    seconds, single, rival = (median(side, rounds) for side in (ours, one_thread, theirs))
    return {
        "tensors": len(golden),
        "pairs": pairs,
        "threads": threads,
        "fused_seconds": seconds,
        "fused_one_thread_ns_per_pair": single / pairs * 1e9,
        "polygraphy_seconds": rival,
        "polygraphy_over_fused": rival / seconds,
        "polygraphy_comparator_seconds": median(comparator(golden, candidate), 1),
        "polygraphy_over_fused_one_thread": rival / single,
        "cosines_apart": apart,
    }


def fused(golden: Tensors, candidate: Tensors, threads: int) -> tuple[Callable[[], None], Comparisons]:
    """One more sample for every tensor, `threads` tensors at once; results are taken once, at the end."""
    comparisons = {name: Comparison() for name in golden}

    def one(name: str) -> None:
        comparisons[name].update(golden[name], candidate[name])

    def run() -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(one, golden))

    return run, comparisons


def polygraphy(golden: Tensors, candidate: Tensors) -> Callable[[], dict[str, float]]:
    """Its four functors, one after the other, as `Comparator.compare_accuracy` calls them -> the cosines."""
    sides = _results(golden, candidate)
    cosine = CosineSimilarityCompareFunc()
    others = L2CompareFunc(), PsnrCompareFunc(), SnrCompareFunc()

    def run() -> dict[str, float]:
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
            for function in others:
                function(*sides)
            return {name: result.cosine_similarity for name, result in cosine(*sides).items()}

    return run


def comparator(golden: Tensors, candidate: Tensors) -> Callable[[], None]:
    """The same four through `Comparator.compare_accuracy`."""
    results = RunResults([(side.runner_name, [side]) for side in _results(golden, candidate)])
    functions = CosineSimilarityCompareFunc(), L2CompareFunc(), PsnrCompareFunc(), SnrCompareFunc()

    def run() -> None:
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
            for function in functions:
                Comparator.compare_accuracy(results, compare_func=function)

    return run


def _results(golden: Tensors, candidate: Tensors) -> list[IterationResult]:
    return [IterationResult(dict(side), runner_name=name) for name, side in (("g", golden), ("c", candidate))]


def median(side: Callable[[], object], rounds: int) -> float:
    """Seconds of wall time."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        side()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
