"""Batches of several sizes: byte for byte those of plain loaders, from the same memory, wherever and whenever read."""

import pytest
import torch
from betons import PLAIN

from ffdr import Policy, ReinforcedLoader
from ffdr.augment.random import ORDER, uniform
from ffdr.loader.replay import samples
from ffdr.util.errors import UserError

SIDES = (48, 32, 65)
MIXED = Policy(mixup=0.5, mixup_alpha=1.0, cutmix=0.5, cutmix_alpha=1.0)


def loader(images, sides=SIDES, **options):
    chosen = {"batch_size": 4, "policy": MIXED, "seed": 5, "dtype": torch.uint8, "workers": 1}
    return ReinforcedLoader(images, resolutions=sides, **{**chosen, **options})


def read(source, epoch):
    source.set_epoch(epoch)
    return [(images.clone(), targets, index) for images, targets, index in source]


def same(mine, theirs):
    return all(torch.equal(a, b) for a, b in zip(mine[1].parts(), theirs[1].parts(), strict=True)) and (
        torch.equal(mine[0], theirs[0]) and torch.equal(mine[2], theirs[2])
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_each_batch_is_that_of_a_plain_loader_of_its_size(photos, workers):
    """24 JPEGs, mixed, so that partners' views are in the shared scratch, too."""
    several = loader(photos, workers=workers, batch_size=2)
    plain = {side: loader(photos, (), resolution=side, batch_size=2) for side in SIDES}
    assert several.memory_bytes == loader(photos, (), resolution=65, workers=workers, batch_size=2).memory_bytes
    seen = []
    for epoch in (0, 3):
        batches = {side: read(each, epoch) for side, each in plain.items()}
        for number, batch in enumerate(read(several, epoch)):
            side = batch[0].shape[-1]
            assert same(batch, batches[side][number])
            assert batch[0].is_contiguous(memory_format=torch.channels_last)
            seen.append(side)
            assert side == SIDES[int(3 * uniform(5, ORDER, epoch, number, 4))]
    assert {*seen} == {*SIDES} and seen[:12] != seen[12:]


def test_nothing_is_allocated_or_compiled_per_batch(digits):
    several = loader(digits, policy=PLAIN, batches_ahead=1)
    read(several, 0)
    stream = several._stream
    before = stream.buffers, stream.replayer, len(samples.replay_batch.kernel.signatures)
    sides = {images.shape[-1] for images, _, _ in read(several, 1)}
    assert sides == {*SIDES}
    assert (stream.buffers, stream.replayer, len(samples.replay_batch.kernel.signatures)) == before
    assert stream.buffers.pixels.shape == (3, 4, 65, 65, 3)


def test_normalised_and_lent_batches_have_their_size_too(digits):
    theirs = read(loader(digits), 0)
    mine = read(loader(digits, dtype=torch.float32), 0)
    lent = loader(digits, reuse_buffers=True)
    for whole, images, (kept, _, _) in zip(theirs, mine, lent, strict=True):
        assert whole[0].shape == images[0].shape and torch.equal(whole[0], kept)


def test_a_resumed_pass_has_the_sizes_that_are_left(digits):
    source = loader(digits)
    source.set_epoch(2)
    whole, state = [], None
    for number, (images, targets, index) in enumerate(source):
        whole.append((images, targets, index))
        if number == 6:
            state = source.state_dict()
    again = loader(digits, workers=2)
    again.load_state_dict(state)
    rest = list(again)
    assert len(rest) == len(whole) - 7 and all(map(same, rest, whole[7:]))


@pytest.mark.parametrize("drop_last", [True, False])
def test_ranks_have_the_same_size_in_the_same_step(digits, drop_last):
    whole = read(loader(digits, batch_size=6, drop_last=drop_last), 1)
    ranks = [read(loader(digits, batch_size=3, drop_last=drop_last, rank=rank, world_size=2), 1) for rank in (0, 1)]
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert torch.equal(batch[0], torch.cat([images for images, _, _ in parts]))


def test_set_resolution_ends_it(digits):
    several = loader(digits)
    several.set_resolution(65)
    assert {images.shape[-1] for images, _, _ in read(several, 0)} == {65}
    several.set_resolution(33)
    assert {images.shape[-1] for images, _, _ in read(several, 0)} == {33}


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        (128, "resolutions: 128 is no list of sides"),
        ((128, 0), "resolution: 0 is not an integer from 1"),
        ("128", "resolution: '1' is not"),
        ((128, 64, 128), "has a side twice"),
        ((32, 20_000), "of 20000×20000 pixels need"),
    ],
)
def test_what_is_no_list_of_sides_is_refused(digits, sides, message):
    with pytest.raises(UserError, match=message):
        loader(digits, sides, batch_size=100)
