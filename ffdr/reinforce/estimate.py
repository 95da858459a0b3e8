"""What a reinforcement will take: bytes, disk space, time."""

from __future__ import annotations

import errno
import shutil
import time
from itertools import cycle, islice
from pathlib import Path

from ffdr.beton.header import ReinforcedHeader
from ffdr.reinforce.labelling import Labeller
from ffdr.reinforce.shards import SHARD_VIEWS
from ffdr.util.atomic import nearest_existing, partial_path
from ffdr.util.errors import WriteError
from ffdr.util.text import duration
from ffdr.write.reinforced import file_bytes

_SAMPLE_BATCHES = 12
_SAMPLE_SECONDS = 10.0


def check_space(out: Path, header: ReinforcedHeader, ranks: int) -> None:
    """Refuse to start what the disk can't hold: shards in flight and the file, less what a killed run has of it.

    Raises:
        WriteError: one line with the bytes that are needed and those that are free.
    """
    needed, free = _bytes_needed(out, header, ranks), _bytes_free(out)
    if needed > free:
        raise WriteError(errno.ENOSPC, f"needs {needed:,} bytes, but only {free:,} are free there", str(out))


def _bytes_needed(out: Path, header: ReinforcedHeader, ranks: int) -> int:
    per_view = (header.view_bytes + header.logit_bytes) / header.views
    flying = int(2 * ranks * max(SHARD_VIEWS, header.views) * per_view)  # each rank: one finished, one being written
    journal = 16 * header.num_images
    partial = partial_path(out)
    # A partial file of another work is emptied first, so what it occupies counts, too.
    occupied = partial.stat().st_blocks * 512 if partial.exists() else 0
    return max(0, file_bytes(header) - occupied) + min(flying, file_bytes(header)) + journal


def _bytes_free(out: Path) -> int:
    return shutil.disk_usage(nearest_existing(out.parent)).free


def describe(out: Path, labeller: Labeller, shards: list[range], ranks: int) -> str:
    """Bytes, views and time of the whole run, the time from a short sample of it that is thrown away."""
    header = labeller.header
    total, size, free = header.num_images * header.views, file_bytes(header), _bytes_free(out)
    note = "; too few" if _bytes_needed(out, header, ranks) > free else ""
    rate, sampled = _views_per_second(labeller, shards)
    return (
        f"{out}: {size:,} bytes, {size / total:.1f} per view; {free:,} are free there{note}\n"
        f"{total:,} views: {header.num_images:,} images × {header.views}, in {len(shards):,} shards\n"
        f"{duration(total / rate / ranks)} on {ranks} {'ranks' if ranks > 1 else 'rank'}, at {rate:,.0f} views/s "
        f"and {rate / header.views:,.1f} images/s each, measured on {sampled:,} views; nothing was written"
    )


def _views_per_second(labeller: Labeller, shards: list[range]) -> tuple[float, int]:
    """Of drawing, replaying and labelling, and the number of views it was measured on. The first batch, in which
    kernels are compiled and caches filled, does not count."""
    spread = shards[:: max(1, len(shards) // _SAMPLE_BATCHES)]
    batches = labeller.labelled_batches(cycle(spread))
    next(batches)
    start, sampled = time.perf_counter(), 0
    for _, (ids, _) in islice(batches, _SAMPLE_BATCHES):
        sampled += len(ids)
        if time.perf_counter() - start > _SAMPLE_SECONDS:
            break
    seconds = time.perf_counter() - start
    batches.close()
    return sampled / seconds, sampled
