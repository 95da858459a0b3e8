"""What torchrun's variables are taken for; reinforce/test_killed.py and train/test_parallel.py share work by them."""

import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from ranked import finish, launch

from ffdr.util.errors import UserError
from ffdr.util.ranks import Ranks, _places


def test_alone():
    with Ranks.join() as ranks:
        assert ranks == Ranks(0, 1, 0, 1)
        assert ranks.broadcast("x") == "x"
        assert list(ranks.claim(3)) == [0, 1, 2]
        ranks.wait_for_all(lambda: pytest.fail("nobody to wait for"))
        assert ranks.threads(1) == 1 and ranks.threads(0) >= 1


def test_cores_are_shared_by_the_ranks_of_a_machine():
    all_cores = Ranks().threads(0)
    assert Ranks(0, 8, 0, 2).threads(0) == max(1, all_cores // 2)
    assert Ranks(0, 8, 0, 999).threads(0) == 1


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, (0, 1, 0, 1)),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, (0, 1, 0, 1)),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}, (5, 8, 1, 4)),
    ],
)
def test_variables(variables, found):
    assert _places(variables) == found


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "2"}, "^RANK: '' is not a number"),
        ({"WORLD_SIZE": "two"}, "^WORLD_SIZE: 'two' is not a number"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "^RANK: 2 is not below WORLD_SIZE 2"),
    ],
)
def test_wrong_variables_are_one_line(variables, message):
    with pytest.raises(UserError, match=message):
        _places(variables)


def test_nobody_to_meet_is_one_line(monkeypatch):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", ""), ("MASTER_PORT", "none")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="the 2 ranks can't meet"), Ranks.join():
        pass


@pytest.fixture
def gpus(monkeypatch):
    """``gpus("A", "B")``: this process sees two GPUs with these numbers; returns what set_device will be given."""
    chosen = []

    def see(*numbers):
        monkeypatch.setattr("torch.cuda.is_available", lambda: bool(numbers))
        monkeypatch.setattr("torch.cuda.device_count", lambda: len(numbers))
        monkeypatch.setattr("torch.cuda.set_device", chosen.append)
        found = [SimpleNamespace(uuid=number) for number in numbers]
        monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: found[index])
        monkeypatch.setattr("socket.gethostname", lambda: "node7")
        return chosen

    return see


@pytest.fixture
def others(monkeypatch):
    """``others(...)``: what the ranks but the last one hand to ``Ranks.gather``."""

    def answer(*values):
        monkeypatch.setattr(Ranks, "gather", lambda self, value: [*values, value])

    return answer


def test_a_rank_without_a_gpu(gpus):
    gpus("A", "B")
    with pytest.raises(UserError, match="rank 2 of this machine has no GPU; there are 2"):
        Ranks(2, 3, 2, 3).device()


def test_of_several_gpus_a_rank_takes_its_own(gpus, others):
    chosen = gpus("A", "B", "C")
    others(("node7", "A"), ("node7", "B"))
    assert Ranks(2, 3, 2, 3).device() == torch.device("cuda", 2)
    assert chosen == [2]


def test_the_only_gpu_that_a_rank_sees_is_its_own(gpus, others):
    chosen = gpus("C")
    others(("node7", "A"), ("node7", "B"), ("node8", "C"))
    assert Ranks(3, 4, 3, 4).device() == torch.device("cuda", 0)
    assert chosen == [0]


def test_two_ranks_with_one_gpu_are_refused(gpus, others):
    gpus("C")
    others(("node7", "A"), ("node7", "C"), ("node8", "C"))
    with pytest.raises(UserError, match=r"^torchrun: ranks 1 and 3 share a GPU of node7; each needs its own$"):
        Ranks(3, 4, 3, 4).device()


def test_ranks_without_gpus_share_the_cpu(gpus, others):
    gpus()
    others(None, ("node7", "A"))
    assert Ranks(2, 3, 2, 3).device() == torch.device("cpu")


def test_alone_nobody_is_asked_for_a_gpu(gpus, monkeypatch):
    gpus("A", "B")
    monkeypatch.setattr(Ranks, "gather", lambda self, value: pytest.fail("nobody to ask"))
    assert Ranks().device() == torch.device("cuda", 0)


@pytest.mark.parametrize(("cores", "ranks", "gpu", "threads"), [(8, 1, 1, 7), (8, 2, 1, 3), (8, 4, 1, 2), (8, 1, 0, 8)])
def test_a_gpu_has_a_core_to_itself_where_there_are_enough(gpus, monkeypatch, cores, ranks, gpu, threads):
    gpus(*"A" * gpu)
    monkeypatch.setattr("numba.config.NUMBA_NUM_THREADS", cores)
    assert Ranks(0, ranks, 0, ranks).threads(0) == threads
    assert Ranks(0, ranks, 0, ranks).threads(8) == 8


@contextmanager
def recorded_join(monkeypatch, **options):
    """A rank of two that meets nobody: the groups that it would start, as (backend, timeout), and its exchange."""
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    groups, used = [], []
    monkeypatch.setattr("ffdr.util.ranks.rendezvous", lambda *_, **__: iter([(dist.HashStore(), 0, 2)]))
    monkeypatch.setattr(dist, "init_process_group", lambda kind, timeout, **_: groups.append((kind, timeout)))
    monkeypatch.setattr(dist, "new_group", lambda backend, timeout: groups.append((backend, timeout)) or "host")
    monkeypatch.setattr(dist, "all_gather_object", lambda values, value, group=None: used.append(group))
    monkeypatch.setattr(dist, "broadcast_object_list", lambda box, source, group=None: used.append(group))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    with Ranks.join(**options) as ranks:
        ranks.gather(1)
        ranks.broadcast(1)
        yield groups, used


def test_gpus_wait_minutes_for_each_other_and_hosts_wait_hours(gpus, monkeypatch):
    gpus("A")
    with recorded_join(monkeypatch, gpus=True) as (groups, used):
        (first, short), (second, long) = groups
        assert (first, second, used) == ("cpu:gloo,cuda:nccl", "gloo", ["host", "host"])
        assert timedelta(minutes=10) <= short <= timedelta(minutes=30)
        assert long == timedelta(hours=6)


@pytest.mark.parametrize(("seen", "asked"), [("", True), ("A", False)])
def test_without_nccl_there_is_one_patient_group(gpus, monkeypatch, seen, asked):
    gpus(*seen)
    with recorded_join(monkeypatch, gpus=asked) as (groups, used):
        assert groups == [("gloo", timedelta(hours=6))]
        assert used == [None, None]


def test_a_group_is_left_when_its_threads_had_time_to_free_what_was_exchanged(gpus, monkeypatch):
    """They take Python's lock for it, as the thread does that the last exchange starts here."""
    gpus()
    freed, left_after = [], []

    def free():
        for _ in range(20):
            time.sleep(0.001)
        freed.append(True)

    with recorded_join(monkeypatch):
        threading.Thread(target=free).start()
        monkeypatch.setattr(dist, "destroy_process_group", lambda: left_after.append(list(freed)))
    assert left_after == [[True]]


LEAVING = """
import os, sys, torch
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # the threads of gloo come late to their work
from ffdr.util.ranks import Ranks
with Ranks.join() as ranks:
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))  # outlives the group, which it owns, too
    model(torch.ones(1, 2)).sum().backward()
    sys.setswitchinterval(60)  # and to Python's lock
    assert [ranks.gather(ranks.rank) for _ in range(3)] == [[0, 1]] * 3
"""


@pytest.mark.parametrize("attempt", range(3))
def test_ranks_that_leave_after_an_exchange_end_well(attempt):
    status, said = finish(launch(2, ["-c", LEAVING]))
    assert status == [0, 0], said
