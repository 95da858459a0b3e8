"""The processes that share one run: started by torchrun, or one alone.

They agree through torch.distributed (gloo, and NCCL between GPUs that train) and share one file system. A process that
dies closes its connections, which the others meet as an error instead of a wait.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from ffdr.beton.stream import thread_count
from ffdr.errors import UserError

_PATIENCE = timedelta(hours=6)
"""How long a rank waits for one that is alive: to load the teacher, or to finish its last shard."""
_LOOK_AGAIN = 0.2
"""Seconds between two looks at what the others have finished."""


@dataclass(frozen=True)
class Ranks:
    """This process's place among ``size`` that share the work, ``local_size`` of them on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    _store: dist.Store | None = None

    @classmethod
    @contextmanager
    def join(cls, gpus: bool = False) -> Iterator[Ranks]:
        """The group that torchrun's variables describe: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR,
        MASTER_PORT; without them, this process alone.

        gpus: tensors on GPUs are exchanged, too, if there are any.

        Raises:
            UserError: variables that are missing or are no numbers; a group that does not come together.
        """
        ranks = cls(*_places(os.environ))
        if ranks.size == 1:
            yield ranks
            return
        try:
            store, _, _ = next(rendezvous("env://", ranks.rank, ranks.size, timeout=timedelta(minutes=10)))
            store.set_timeout(_PATIENCE)
            group = dist.PrefixStore("ranks", store)
            backend = "cpu:gloo,cuda:nccl" if gpus and torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, store=group, rank=ranks.rank, world_size=ranks.size, timeout=_PATIENCE)
        except (RuntimeError, ValueError, OSError) as error:
            cause = " ".join(str(error).split())[:200]
            raise UserError(f"torchrun: the {ranks.size} ranks can't meet ({cause})") from error
        try:
            yield cls(ranks.rank, ranks.size, ranks.local_rank, ranks.local_size, dist.PrefixStore("shards", store))
        finally:
            dist.destroy_process_group()

    def device(self) -> torch.device:
        """The GPU that is this rank's, or the CPU where there is none.

        Raises:
            UserError: more ranks on this machine than it has GPUs.
        """
        if not torch.cuda.is_available():
            return torch.device("cpu")
        count = torch.cuda.device_count()
        if self.local_rank >= count:
            raise UserError(f"torchrun: rank {self.local_rank} of this machine has no GPU; there are {count}")
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def threads(self, asked: int) -> int:
        """Replaying threads: as asked, or for 0 this rank's share of the cores."""
        return thread_count(asked or max(1, thread_count(0) // self.local_size))

    def share(self, value: Any) -> Any:
        """Rank 0's value, in all ranks. It must pickle."""
        if self.size == 1:
            return value
        box = [value]
        with self._told():
            dist.broadcast_object_list(box, 0)
        return box[0]

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over the ranks, in all of them; its device does not wait."""
        if self.size == 1:
            return value
        with self._told():
            dist.all_reduce(value)
        return value / self.size

    def any(self, flag: bool) -> bool:
        """Whether any rank says yes, in all of them."""
        if self.size == 1:
            return flag
        return any(self.gather(flag))

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in all of them. It must pickle."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self._told():
            dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Return when all ranks have come here."""
        self.gather(None)

    def take(self, count: int) -> Iterator[int]:
        """The numbers below ``count``, ascending, each to only one rank: to the first that asks for more."""
        if self._store is None:
            yield from range(count)
            return
        while True:
            with self._told():
                number = self._store.add("taken", 1) - 1
            if number >= count:
                return
            yield number

    def wait_for_all(self, meanwhile: Callable[[], None]) -> None:
        """Return when all ranks have come here; until then call ``meanwhile`` now and then."""
        if self.size == 1:
            return
        with self._told():
            arrival = dist.barrier(async_op=True)
        while not arrival.is_completed():
            meanwhile()
            time.sleep(_LOOK_AGAIN)
        with self._told():
            arrival.wait()

    @contextmanager
    def lost_told(self) -> Iterator[None]:
        """Around work that exchanges tensors by itself, as a parallel model does: a lost rank is told in one line."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            with self._told():
                raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise UserError(
                f"rank {self.rank}: another of the {self.size} ranks has ended; what is finished is kept, start again"
            ) from error


def _places(environment: Mapping[str, str]) -> tuple[int, int, int, int]:
    """Rank, number of ranks, and the same two on this machine."""
    size = _number(environment, "WORLD_SIZE", 1)
    if size == 1:
        return 0, 1, 0, 1
    rank = _number(environment, "RANK")
    if not 0 <= rank < size:
        raise UserError(f"RANK: {rank} is not below WORLD_SIZE {size}")
    return rank, size, _number(environment, "LOCAL_RANK", 0), _number(environment, "LOCAL_WORLD_SIZE", 1)


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise UserError(f"{name}: {text!r} is not a number; torchrun sets it")
    return int(text)
