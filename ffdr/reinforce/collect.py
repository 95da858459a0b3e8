"""Finished shards are put into the file, by rank 0, while all ranks make more."""

from __future__ import annotations

import time

import numpy as np
from tqdm import tqdm

from ffdr.reinforce.shards import ShardFolder
from ffdr.util.errors import UserError
from ffdr.write.reinforced import ReinforcedWriter

SEEN_WITHIN = 90.0
"""Seconds within which a network file system shows one machine what another has written."""
_COLLECT_EVERY = 1.0
"""Seconds between two looks for finished shards; each ends in waiting for the disk."""


class Collector:
    """Moves finished shards into the file and shows how far it is."""

    def __init__(self, writer: ReinforcedWriter, folder: ShardFolder, bar: tqdm) -> None:
        self.writer, self.folder, self.bar = writer, folder, bar
        self._last = time.monotonic()

    def collect(self) -> None:
        """Collect, unless that was done a moment ago."""
        if time.monotonic() - self._last >= _COLLECT_EVERY:
            self.collect_all()
            self._last = time.monotonic()

    def collect_all(self) -> None:
        """Put what is finished into the file, make that survive the loss of power, and only then remove it."""
        taken = []
        for path, shard in self.folder.finished():
            if shard is not None:
                self.writer.put(shard.index, shard.views, shard.ids, shard.log_probs)
            taken.append(path)
        if not taken:
            return
        self.writer.sync()
        for path in taken:
            path.unlink()
        rate = self.bar.format_dict["rate"]
        if rate:
            self.bar.set_postfix_str(f"{rate * self.writer.header.views:,.0f} views/s", refresh=False)
        self.bar.update(self.writer.done - self.bar.n)

    def collect_rest(self) -> None:
        """When every rank has ended: also what a network file system is slow to show."""
        end = time.monotonic() + SEEN_WITHIN
        self.collect_all()
        while self.writer.done < self.writer.header.num_images:
            if time.monotonic() > end:
                missing = int(np.flatnonzero(~self.writer.written)[0])
                raise UserError(f"{self.folder.path}: the shard of image {missing} is gone or damaged; start again")
            time.sleep(0.5)
            self.collect_all()
