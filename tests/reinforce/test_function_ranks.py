"""``ffdr.reinforce`` with a function, killed, then gone on with by two ranks: the bytes of one undisturbed run."""

import torch
from betons import PLAIN
from crashes import Ordeal, fresh_process

import ffdr
from ffdr.reinforce import collect


def label(pixels):
    weight = torch.linspace(-1, 1, 32 * 32 * 3 * 10).view(-1, 10).mul(99).sin()
    return pixels.flatten(1).float() / 255 @ weight


def reinforced(images, out):
    """In 20 shards of 5 images."""
    teacher = {"models": label, "batch_size": 16}
    plan = {"views": 3, "topk": 4, "resolution": 32, "seed": 5, "policy": PLAIN, "workers": 1}
    return ffdr.reinforce(images, out, teacher=teacher, progress=False, **plan)


def reinforce_through_kills(images, folder):
    """One rank is killed, two go on; at last two find the file finished."""
    torch.set_num_threads(1)
    collect._COLLECT_EVERY = 0
    ordeal = Ordeal(lambda out: reinforced(images, out), folder, seed=1, ranks=2)
    statuses = [ordeal.attempt(1, 0, step=40), ordeal.attempt(2, 0)]
    reinforced(images, ordeal.out)
    return statuses, ordeal.statuses(2), ordeal.whole


def test_killed_and_resumed_by_two_ranks(digits, tmp_path):
    with fresh_process() as process:
        statuses, again, whole = process.submit(reinforce_through_kills, digits, tmp_path / "work").result()
    assert statuses == [[-9], [0, 0]] and again == [0, 0]
    assert whole["x.beton"] == reinforced(digits, tmp_path / "alone.beton").read_bytes()
