"""The loops behind metrics.py, compiled, without Python's lock.

A sum is taken in 32 lanes over blocks of 4096 pairs, the blocks are added up: float64 throughout, the
same order of additions on every machine, so the same bits. For 1e9 pairs the relative error of a sum of
squares is below 4096 + 1e9/4096 roundings of 1.1e-16, that is 3e-11; typically it is 1e-14.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from calibrators.compiled import compiled

BINS = 4096  # of a float32's upper 12 bits: sign, exponent, three bits of mantissa
COUNT, ERROR, GOLDEN, CANDIDATE, PRODUCT, MAX_ABS, MAX_REL = range(7)
BAD_GOLDEN, BAD_CANDIDATE, UNMATCHED, NAN_GOLDEN, NAN_CANDIDATE, SUMS = range(7, 13)

BLOCK, LANES = 4096, 32
ROWS = (BLOCK // LANES // 2, 2, LANES)
PAIRS = (BLOCK // 2, 2)
STRIDE = BINS + 64
"""Counters are kept 4096 + 64 apart: the same bin of two histograms on one 4-KiB offset stalls the CPU."""
SHIFT = np.uint32(20)


@compiled
def add_float32(
    golden: Any, candidate: Any, golden_bits: Any, candidate_bits: Any, floor: float, sums: Any, counts: Any
) -> None:
    """Add a pair of float32 vectors to `sums` (float64, shape (SUMS,)) and `counts` (int64, (2, BINS)).

    *_bits: the same vectors as uint32. floor: see `Difference.max_rel`.
    """
    whole = golden.size // BLOCK * BLOCK
    if whole:
        lanes = np.empty((7, LANES), np.float64)
        bins = np.zeros((4, STRIDE), np.int64)
        for start in range(0, whole, BLOCK):
            a, b = golden[start : start + BLOCK], candidate[start : start + BLOCK]
            a_bits, b_bits = golden_bits[start : start + BLOCK], candidate_bits[start : start + BLOCK]
            _sum_lanes(a.reshape(ROWS), b.reshape(ROWS), floor, lanes)
            if _add_lanes(lanes, sums):
                _count(a_bits.reshape(PAIRS), b_bits.reshape(PAIRS), bins[0], bins[1], bins[2], bins[3])
            else:
                _add_each(a, b, a_bits, b_bits, floor, sums, counts)
        counts += bins[:2, :BINS] + bins[2:, :BINS]
    a, b, a_bits, b_bits = golden[whole:], candidate[whole:], golden_bits[whole:], candidate_bits[whole:]
    _add_each(a, b, a_bits, b_bits, floor, sums, counts)


@compiled
def add_float64(
    golden: Any, candidate: Any, golden_bits: Any, candidate_bits: Any, floor: float, sums: Any, counts: Any
) -> None:
    """The same for float64 vectors, whose *_bits are those of the nearest float32."""
    for start in range(0, golden.size, BLOCK):
        a, b = golden[start : start + BLOCK], candidate[start : start + BLOCK]
        a_bits, b_bits = golden_bits[start : start + BLOCK], candidate_bits[start : start + BLOCK]
        _add_each(a, b, a_bits, b_bits, floor, sums, counts)


@compiled
def _sum_lanes(golden: Any, candidate: Any, floor: float, lanes: Any) -> None:
    """One block, shape ROWS: no lane needs another, so the loop over them becomes vector code.

    The largest ratio is kept as two numbers and compared by multiplying across: a division costs more
    than all the rest.
    """
    lanes[:] = 0.0
    lanes[6] = 1.0
    for row in range(golden.shape[0]):
        for lane in range(LANES):
            error, power_golden, power_candidate = lanes[0, lane], lanes[1, lane], lanes[2, lane]
            product, largest, over, under = lanes[3, lane], lanes[4, lane], lanes[5, lane], lanes[6, lane]
            for half in range(2):
                a, b = np.float64(golden[row, half, lane]), np.float64(candidate[row, half, lane])
                difference = b - a
                error += difference * difference
                power_golden += a * a
                power_candidate += b * b
                product += a * b
                magnitude, size = abs(difference), abs(a)
                largest = magnitude if magnitude > largest else largest
                divisor = size if size > floor else floor
                larger = magnitude * under > over * divisor
                over = magnitude if larger else over
                under = divisor if larger else under
            lanes[0, lane], lanes[1, lane], lanes[2, lane] = error, power_golden, power_candidate
            lanes[3, lane], lanes[4, lane], lanes[5, lane], lanes[6, lane] = product, largest, over, under


@compiled
def _add_lanes(lanes: Any, sums: Any) -> bool:
    """False, with nothing added, where the block holds a NaN or Inf; squares of float32 are no other Inf."""
    error = golden = candidate = product = 0.0
    for lane in range(LANES):
        error += lanes[0, lane]
        golden += lanes[1, lane]
        candidate += lanes[2, lane]
        product += lanes[3, lane]
    if not np.isfinite(golden + candidate):
        return False
    sums[COUNT] += BLOCK
    sums[ERROR] += error
    sums[GOLDEN] += golden
    sums[CANDIDATE] += candidate
    sums[PRODUCT] += product
    for lane in range(LANES):
        sums[MAX_ABS] = max(sums[MAX_ABS], lanes[4, lane])
        sums[MAX_REL] = max(sums[MAX_REL], _ratio(lanes[5, lane], lanes[6, lane]))
    return True


@compiled
def _ratio(difference: float, size: float) -> float:
    if size > 0:
        return difference / size
    return np.inf if difference > 0 else 0.0


@compiled
def _count(golden_bits: Any, candidate_bits: Any, even_a: Any, even_b: Any, odd_a: Any, odd_b: Any) -> None:
    """Neighbours, often equal, go to different counters: a counter just written is slow to read."""
    for i in range(golden_bits.shape[0]):
        even_a[golden_bits[i, 0] >> SHIFT] += 1
        even_b[candidate_bits[i, 0] >> SHIFT] += 1
        odd_a[golden_bits[i, 1] >> SHIFT] += 1
        odd_b[candidate_bits[i, 1] >> SHIFT] += 1


@compiled
def _add_each(
    golden: Any, candidate: Any, golden_bits: Any, candidate_bits: Any, floor: float, sums: Any, counts: Any
) -> None:
    """A block at most, pair by pair: what holds NaN or Inf, is short, or is float64."""
    error = power_golden = power_candidate = product = largest = relative = 0.0
    bad_golden = bad_candidate = nan_golden = nan_candidate = unmatched = count = 0
    for i in range(golden.size):
        a, b = np.float64(golden[i]), np.float64(candidate[i])
        finite_a, finite_b = np.isfinite(a), np.isfinite(b)
        if finite_a and finite_b:
            difference = b - a
            count += 1
            error += difference * difference
            power_golden += a * a
            power_candidate += b * b
            product += a * b
            magnitude = abs(difference)
            largest = max(largest, magnitude)
            relative = max(relative, _ratio(magnitude, max(abs(a), floor)))
            counts[0, golden_bits[i] >> SHIFT] += 1
            counts[1, candidate_bits[i] >> SHIFT] += 1
        else:
            nan_a, nan_b = np.isnan(a), np.isnan(b)
            bad_golden += not finite_a
            bad_candidate += not finite_b
            nan_golden += nan_a
            nan_candidate += nan_b
            unmatched += a != b and not (nan_a and nan_b)
    sums[COUNT] += count
    sums[ERROR] += error
    sums[GOLDEN] += power_golden
    sums[CANDIDATE] += power_candidate
    sums[PRODUCT] += product
    sums[MAX_ABS] = max(sums[MAX_ABS], largest)
    sums[MAX_REL] = max(sums[MAX_REL], relative)
    sums[BAD_GOLDEN] += bad_golden
    sums[BAD_CANDIDATE] += bad_candidate
    sums[UNMATCHED] += unmatched
    sums[NAN_GOLDEN] += nan_golden
    sums[NAN_CANDIDATE] += nan_candidate
