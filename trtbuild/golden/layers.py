"""The layers of golden and candidate side by side, sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from calibrators.shards import Batch, ShardSet
from trtbuild.collect.counting import cores
from trtbuild.golden.differ import Differ
from trtbuild.progress import track
from trtbuild.targets.base import Side
from trtbuild.targets.session import Tensors, infer


def diff_layers(
    golden: Side, candidate: Side, groups: Sequence[Sequence[str]], shards: ShardSet, limit: int
) -> tuple[list[Differ], dict[str, str]]:
    """Compare these activations over the first `limit` samples, one at a time, a group after the other.

    Returns a Differ per group, and why tensors of the groups are in none: tensor -> reason. Those are the
    tensors that a side which shows unfused layers only does not have. Raises InputError when a sample
    cannot be run.
    """
    differs, fused = [], {}
    for number, group in enumerate(groups, 1):
        part = f" (part {number} of {len(groups)})" if len(groups) > 1 else ""
        differ = Differ(group)
        with (
            golden.showing(group) as golden_runner,
            candidate.showing(group) as candidate_runner,
            ThreadPoolExecutor(cores()) as pool,
        ):
            batches, total = shards.batches(1, limit), min(limit, shards.samples)
            tracked = track(batches, f"comparing layers{part}, samples", total, _size)
            for index, batch in enumerate(tracked):
                sample = batch.names[0]
                expected = infer(golden_runner, batch.feeds, sample)
                seen = infer(candidate_runner, batch.feeds, sample)
                if index == 0:
                    gone = {**_fused(golden, expected, group), **_fused(candidate, seen, group)}
                    differ.leave_out(gone)
                    fused.update(gone)
                differ.update(sample, expected, seen, pool)
        differs.append(differ)
    return differs, fused


def _fused(side: Side, shown: Tensors, group: Sequence[str]) -> dict[str, str]:
    """What a side that shows unfused layers only does not have, and so in no sample; a tensor that it
    showed once must be there always."""
    if side.shows != "unfused layers":
        return {}
    return {
        tensor: f"fused: in the engine of the {side.name} it exists only inside a layer"
        for tensor in group
        if tensor not in shown
    }


def _size(batch: Batch) -> int:
    return len(batch.names)
