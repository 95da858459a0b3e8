"""Shards: the portions in which a reinforcement is made, and the files in which they wait to be put together.

A shard is a range of images with all their views. Its teacher's batches begin and end with it, so which rank makes it,
in which run, does not change a byte. A finished shard lies in ``OUT.shards`` until rank 0 has put it into ``OUT``.

Shard file, little endian: ``_HEAD``, then the records, class ids and log-probabilities of n images.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ffdr.beton.header import ReinforcedHeader, check_logits, check_new_logits, check_views
from ffdr.util.atomic import os_errors_as_user_errors
from ffdr.util.opening import open_found, open_new, own_folder

SHARD_VIEWS = 1 << 14
"""Views per shard at most, unless one image has more: seconds of a GPU's work, 1 MiB of file."""
MIN_SHARDS = 64
"""Shards that even a small data set has, where the teacher's batches allow, so that many ranks finish together."""

_MAGIC = b"FFDRSHD1"
_HEAD = np.dtype([("magic", "S8"), ("work", "V32"), ("first", "<u4"), ("count", "<u4"), ("crc", "<u4")])


def cut(num_images: int, views_per_image: int, batch_size: int) -> list[range]:
    """The images of each shard, in order. Depends on nothing but the work, least of all on the number of ranks."""
    batches = max(1, min(SHARD_VIEWS // batch_size, num_images * views_per_image // batch_size // MIN_SHARDS))
    images = max(1, batches * batch_size // views_per_image)  # rounded down: no batch with only a few views in it
    return [range(first, min(first + images, num_images)) for first in range(0, num_images, images)]


def folder_of(out: Path) -> Path:
    """Where the shards of a file lie until it is finished."""
    return out.with_name(out.name + ".shards")


@dataclass(frozen=True)
class LabelledShard:
    """A finished shard: n images from ``first`` on, K views each, T teacher entries per view."""

    first: int
    views: np.ndarray
    """(n, K) of the header's ``record_dtype``"""
    ids: np.ndarray
    """(n, K, T) uint16"""
    log_probs: np.ndarray
    """(n, K, T) float16"""

    @property
    def index(self) -> np.ndarray:
        """(n,) int64 numbers of the images."""
        return np.arange(self.first, self.first + len(self.views))


class ShardFolder:
    """``OUT.shards``: finished shards of one reinforcement, each under its final name only when it is whole."""

    def __init__(self, out: Path, header: ReinforcedHeader, identity: str, largest: int = SHARD_VIEWS) -> None:
        """Nothing is written yet.

        Args:
            out: the file that is made of the shards.
            header, identity: what decides the bytes; a shard of anything else is not used.
            largest: images of the largest shard; one of more is not used either.
        """
        self.path = folder_of(out)
        self.header, self.largest = header, largest
        self.work = hashlib.sha256(header.pack() + identity.encode(errors="surrogateescape")).digest()

    def create(self) -> None:
        """Make the folder, and clear away what killed runs left unfinished."""
        with os_errors_as_user_errors(self.path):
            own_folder(self.path)
            for path in self.path.glob("*.partial"):
                path.unlink()

    def remove(self) -> None:
        """Remove the folder, unless somebody keeps other things there."""
        for path in self.path.glob("*.partial"):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.path.rmdir()

    def write(self, shard: LabelledShard) -> None:
        """Keep a finished shard. Raises UserError if it can't be written."""
        body = b"".join(part.tobytes() for part in (shard.views, shard.ids, shard.log_probs))
        count = len(shard.views)
        head = np.array((_MAGIC, self.work, shard.first, count, 0), _HEAD)
        head["crc"] = _crc(head, body)
        final = self.path / f"{shard.first:010d}-{shard.first + count - 1:010d}.shard"
        # A process that outlived a killed run may still be at the same shard.
        partial = final.with_name(f"{final.name}.{os.uname().nodename}-{os.getpid()}.partial")
        with os_errors_as_user_errors(final):
            try:
                with open_new(partial) as file:
                    file.write(head.tobytes() + body)
                os.replace(partial, final)
            except OSError:
                partial.unlink(missing_ok=True)  # gives a full disk some room
                raise

    def finished(self) -> Iterator[tuple[Path, LabelledShard | None]]:
        """Every shard file that is there; None for one that is damaged or of another work."""
        for path in sorted(self.path.glob("*.shard")):
            yield path, self._read(path)

    def _read(self, path: Path) -> LabelledShard | None:
        K, T = self.header.views, self.header.topk
        records = self.header.record_dtype
        try:
            with open_found(path) as file:
                size = os.fstat(file.fileno()).st_size
                head = np.frombuffer(file.read(_HEAD.itemsize).ljust(_HEAD.itemsize, b"\0"), _HEAD)[0].copy()
                first, n = int(head["first"]), int(head["count"])
                sizes = [n * K * records.itemsize, n * K * T * 2, n * K * T * 2]
                fits = 0 < n <= self.largest and first + n <= self.header.num_images
                if not fits or size != _HEAD.itemsize + sum(sizes):
                    return None
                body = file.read()
        except OSError:  # a link, or it has just been taken away
            return None
        if (head["magic"], head["work"].tobytes(), int(head["crc"])) != (_MAGIC, self.work, _crc(head, body)):
            return None
        ends = np.cumsum(sizes)
        views = np.frombuffer(body[: ends[0]], records).reshape(n, K)
        ids = np.frombuffer(body[ends[0] : ends[1]], "<u2").reshape(n, K, T)
        log_probs = np.frombuffer(body[ends[1] :], "<f2").reshape(n, K, T)
        if check_views(views, self.header) or check_logits(ids, log_probs, self.header):
            return None
        return None if check_new_logits(ids, log_probs) else LabelledShard(first, views, ids, log_probs)


def _crc(head: np.ndarray, body: bytes) -> int:
    """CRC-32 of a shard file in which the checksum itself is 0."""
    blank = head.copy()
    blank["crc"] = 0
    return zlib.crc32(body, zlib.crc32(blank.tobytes()))
