"""What torchrun's variables are taken for; reinforce/test_killed.py and train/test_parallel.py share work by them."""

import pytest

from ffdr.errors import UserError
from ffdr.ranks import Ranks, _places


def test_alone():
    with Ranks.join() as ranks:
        assert ranks == Ranks(0, 1, 0, 1)
        assert ranks.share("x") == "x"
        assert list(ranks.take(3)) == [0, 1, 2]
        ranks.wait_for_all(lambda: pytest.fail("nobody to wait for"))
        assert ranks.threads(2) == 2 and ranks.threads(0) >= 1


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


def test_a_rank_without_a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UserError, match="rank 2 of this machine has no GPU; there are 2"):
        Ranks(2, 3, 2, 3).device()
