"""The processes that share one run: started by torchrun, or one alone.

They agree through torch.distributed (gloo, and NCCL between GPUs that train) and share one file system. A process that
dies closes its connections, which the others meet as an error instead of a wait.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from ffdr.util.errors import UserError
from ffdr.util.machine import thread_count
from ffdr.util.text import reason

_PATIENCE = timedelta(hours=6)
"""How long a rank waits for one that is alive: to load the teacher, or to finish its last shard."""
_GPU_PATIENCE = timedelta(minutes=30)
"""How long for one to come to an exchange between GPUs, which all reach at one step: a longer wait is a hang."""
_LOOK_AGAIN = 0.2
"""Seconds between two looks at what the others have finished."""
_LEAVING = 0.2
"""Seconds before a group is left. A thread of gloo frees the tensors of an exchange when we are past it already, for
which it needs Python's lock: a process that is freeing the group, and waits for its threads, would hang; one that is
ending would abort."""


@dataclass(frozen=True)
class Ranks:
    """This process's place among ``size`` that share the work, ``local_size`` of them on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    _store: dist.Store | None = None
    _host: dist.ProcessGroup | None = None
    """the group that exchanges objects, with more patience than GPUs have; None: the only one"""

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
            host = _start(group, ranks, gpus and torch.cuda.is_available())
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(f"torchrun: the {ranks.size} ranks can't meet ({reason(error)})") from error
        try:
            yield replace(ranks, _store=dist.PrefixStore("shards", store), _host=host)
        finally:
            time.sleep(_LEAVING)
            dist.destroy_process_group()

    def device(self) -> torch.device:
        """The GPU that is this rank's, or the CPU where there is none. All ranks call it: they compare their GPUs.

        A rank that sees one GPU takes it (``srun --gpus-per-task=1`` shows each rank its own); of several it takes the
        one of its number on this machine.

        Raises:
            UserError: more ranks on this machine than it has GPUs; two ranks with the same GPU.
        """
        index = self._visible_gpu()
        if index is not None:
            torch.cuda.set_device(index)  # before anything that would open a context on GPU 0
        if self.size > 1:
            _refuse_shared(self.gather(None if index is None else _identity(index)))
        return torch.device("cpu") if index is None else torch.device("cuda", index)

    def _visible_gpu(self) -> int | None:
        if not torch.cuda.is_available():
            return None
        count = torch.cuda.device_count()
        if count > 1 and self.local_rank >= count:
            raise UserError(f"torchrun: rank {self.local_rank} of this machine has no GPU; there are {count}")
        return self.local_rank if count > 1 else 0

    def threads(self, asked: int) -> int:
        """Replaying threads: as asked, or for 0 this rank's share of the cores, less one that keeps a GPU busy."""
        return thread_count(asked, torch.cuda.is_available(), self.local_size)

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, in all ranks. It must pickle."""
        if self.size == 1:
            return value
        box = [value]
        with self._lost_as_user_error():
            dist.broadcast_object_list(box, 0, self._host)
        return box[0]

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over the ranks, in all of them; its device does not wait."""
        if self.size == 1:
            return value
        with self._lost_as_user_error():
            dist.all_reduce(value)
        return value / self.size

    def share_first(self, tensors: Iterable[torch.Tensor]) -> None:
        """Fill tensors with rank 0's values, in all ranks; they have the same shapes in the same order."""
        if self.size == 1:
            return
        with self._lost_as_user_error(), torch.no_grad():
            for tensor in tensors:
                whole = tensor.contiguous()
                dist.broadcast(whole, 0)
                tensor.copy_(whole)

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
        with self._lost_as_user_error():
            dist.all_gather_object(values, value, self._host)
        return values

    def gather_first(self, value: Any) -> list[Any] | None:
        """Every rank's value, in rank 0 alone; None in the others. It must pickle, and may be large."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.rank == 0 else None
        with self._lost_as_user_error():
            dist.gather_object(value, values, 0, self._host)
        return values

    def barrier(self) -> None:
        """Return when all ranks have come here."""
        self.gather(None)

    def claim(self, count: int) -> Iterator[int]:
        """The numbers below ``count``, ascending, each to only one rank: to the first that asks for more."""
        if self._store is None:
            yield from range(count)
            return
        while True:
            with self._lost_as_user_error():
                number = self._store.add("taken", 1) - 1
            if number >= count:
                return
            yield number

    def wait_for_all(self, meanwhile: Callable[[], None]) -> None:
        """Return when all ranks have come here; until then call ``meanwhile`` now and then."""
        if self.size == 1:
            return
        with self._lost_as_user_error():
            arrival = dist.barrier(self._host, async_op=True)
        while not arrival.is_completed():
            meanwhile()
            time.sleep(_LOOK_AGAIN)
        with self._lost_as_user_error():
            arrival.wait()

    @contextmanager
    def lost_rank_as_user_error(self) -> Iterator[None]:
        """Around work that exchanges tensors by itself, as a parallel model does: a lost rank becomes a UserError."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            with self._lost_as_user_error():
                raise

    @contextmanager
    def _lost_as_user_error(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise UserError(
                f"rank {self.rank}: another of the {self.size} ranks has ended; what is finished is kept, start again"
            ) from error


def _start(store: dist.Store, ranks: Ranks, nccl: bool) -> dist.ProcessGroup | None:
    """Start torch.distributed, with NCCL between GPUs or without; returns the group for objects unless it's the same.

    A group has one timeout for all that it does, so two patiences take two groups.
    """
    backend, patience = ("cpu:gloo,cuda:nccl", _GPU_PATIENCE) if nccl else ("gloo", _PATIENCE)
    dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.size, timeout=patience)
    if not nccl:
        return None
    group = dist.new_group(backend="gloo", timeout=_PATIENCE)
    assert not isinstance(group, int), "no rank is left out of this group"
    return group


def _identity(index: int) -> tuple[str, str]:
    """Host and number of a GPU, the same in every process that sees it, at whatever index."""
    return socket.gethostname(), str(torch.cuda.get_device_properties(index).uuid)


def _refuse_shared(gpus: list[tuple[str, str] | None]) -> None:
    """Raise UserError if two ranks have one GPU. gpus: host and number of each rank's, None for a rank on the CPU."""
    owners: dict[tuple[str, str], int] = {}
    for rank, gpu in enumerate(gpus):
        if gpu is not None and owners.setdefault(gpu, rank) != rank:
            raise UserError(f"torchrun: ranks {owners[gpu]} and {rank} share a GPU of {gpu[0]}; each needs its own")


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
