"""Traversal orders: exact permutations of (seed, epoch), the reach of quasi-random, and shares of ranks."""

import time
from itertools import chain

import numpy as np
import pytest
import torch

from ffdr.loader import order as orders
from ffdr.loader.order import (
    EpochOrder,
    OrderSettings,
    Place,
    global_order,
    page_numbers,
    quasi_random,
    rank_and_world_size,
    view_epochs,
)
from ffdr.util.errors import UserError

PAGE_BYTES = 1 << 16


def epoch_order(kind, count, **options):
    """An order of images of about 7 kB on pages of 64 KiB."""
    data_ptr = np.arange(count, dtype=np.uint64) * np.uint64(7000)
    place = Place(options.pop("rank", 0), options.pop("world_size", 1))
    options = {"batch_size": 8, "drop_last": False, "seed": 5, "place": place, **options}
    return EpochOrder(OrderSettings(kind, **options), data_ptr, PAGE_BYTES)


@pytest.fixture(autouse=True)
def small_buffer(monkeypatch):
    monkeypatch.setattr(orders, "BUFFER_PAGES", 8)


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        ("sequential", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("random", [110, 89, 168, 165, 294, 215, 124, 20]),
        ("quasi_random", [42, 61, 236, 205, 16, 213, 242, 60]),
    ],
)
def test_an_order_is_a_pinned_permutation_of_seed_and_epoch(kind, first):
    """Pinned: another machine, NumPy or release must not change what a seed means."""
    order = epoch_order(kind, 300)
    epochs = [order.sample_order(epoch) for epoch in (0, 1, 0)]
    assert all(np.array_equal(np.sort(epoch), np.arange(300)) for epoch in epochs)
    assert np.array_equal(epochs[0], epochs[2])
    assert epochs[0][:8].tolist() == first
    if kind != "sequential":
        assert (epochs[0] != epochs[1]).mean() > 0.9
        assert (epochs[0] != epoch_order(kind, 300, seed=6).sample_order(0)).mean() > 0.9


@pytest.mark.parametrize("sizes", [[10] * 40, [10] * 9, [1] * 60, [1, 30, 2, 17, 5] * 8])
@pytest.mark.parametrize("buffer", [2, 8])
def test_quasi_random_uses_few_pages_at_a_time(sizes, buffer):
    page = np.repeat(np.arange(len(sizes)), sizes)
    order = quasi_random(1, 2, page, buffer)
    assert np.array_equal(np.sort(order), np.arange(len(page)))
    places = [np.flatnonzero(page[order] == p) for p in range(len(sizes))]
    in_use = sum((np.arange(len(page)) >= p[0]) & (np.arange(len(page)) <= p[-1]) for p in places)
    assert in_use.max() <= buffer
    entered = np.argsort([p[0] for p in places])
    assert (np.diff(entered) != 1).any()  # the pages are shuffled too


def test_quasi_random_spreads_sorted_classes_as_well_as_its_buffer_can():
    """A file sorted by class, 10 images a page, a page a class: a batch must take from all 64 pages in use, and
    neighbours be of one class no more often than chance has it."""
    page = np.arange(20_000) // 10
    label = page[quasi_random(3, 0, page, 64)]
    batches = label[: 20_000 // 128 * 128].reshape(-1, 128)
    distinct = [len(np.unique(batch)) for batch in batches]
    assert min(distinct[5:-5]) >= 64
    assert min(distinct) >= 48  # while the buffer fills and empties
    assert max(np.bincount(batch).max() for batch in batches[5:-5]) <= 4
    assert (label[1:] == label[:-1]).mean() < 1.5 / 64
    assert len(np.unique(batches[:, 0])) > 100  # nor does one class always come first


def test_a_file_within_the_buffer_is_in_random_order():
    page = np.repeat(np.arange(8), 10)
    assert np.array_equal(global_order("quasi_random", 80, 1, 2, page), global_order("random", 80, 1, 2, page))


def test_an_epoch_of_imagenet_is_ordered_in_a_second():
    page = np.arange(1_281_167) // 75
    quasi_random(0, 0, page[:10_000], 128)
    start = time.process_time()
    order = quasi_random(0, 0, page, 128)
    assert time.process_time() - start < 2  # 0.25 s where nothing else runs
    assert np.bincount(order, minlength=len(page)).max() == 1


def test_pages_are_numbered_without_gaps():
    pointers = np.array([5 << 16, (9 << 16) + 3, (5 << 16) + 9, 7 << 16], np.uint64)
    assert page_numbers(pointers, PAGE_BYTES).tolist() == [0, 2, 0, 1]


@pytest.mark.parametrize("views", [2, 4])
@pytest.mark.parametrize("kind", orders.ORDERS)
def test_a_cycle_of_epochs_shows_the_images_of_one_order(kind, views):
    """Each image in one epoch of the cycle, so many times in a row; what fills no batch is left out. Written out as
    loops."""
    count, size = 253, 8
    order = epoch_order(kind, count, batch_size=size, drop_last=True, views_per_image=views)
    plain = epoch_order(kind, count)
    for cycle in (0, 3):
        images, steps = iter(plain.sample_order(cycle).tolist()), count // size
        for epoch in range(cycle * views, (cycle + 1) * views):
            expected = [[next(images) for _ in range(size // views)] for _ in range(steps)]
            repeated = [[image for image in batch for _ in range(views)] for batch in expected]
            assert batches_of(order, epoch) == repeated
            assert len(order) == order.global_batches == steps
        assert len(list(images)) == count % size


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("kind", orders.ORDERS)
def test_ranks_share_batches_of_several_views_by_images(kind, world):
    shape = {"drop_last": True, "views_per_image": 3}
    single = epoch_order(kind, 253, batch_size=24, **shape)
    for epoch in (0, 4):
        ranks = [
            batches_of(epoch_order(kind, 253, batch_size=24 // world, rank=r, world_size=world, **shape), epoch)
            for r in range(world)
        ]
        for batch, *parts in zip(batches_of(single, epoch), *ranks, strict=True):
            assert list(chain(*parts)) == batch


def test_quasi_random_epochs_of_several_views_use_as_few_pages():
    """300 images on 33 pages, 8 at a time: a part of an order has no more than the whole."""
    order = epoch_order("quasi_random", 300, batch_size=20, drop_last=True, views_per_image=4)
    page = page_numbers(np.arange(300, dtype=np.uint64) * np.uint64(7000), PAGE_BYTES)
    for epoch in range(8):
        pages = page[order.sample_order(epoch)]
        spans = [np.flatnonzero(pages == p)[[0, -1]] for p in np.unique(pages)]
        in_use = sum((np.arange(len(pages)) >= first) & (np.arange(len(pages)) <= last) for first, last in spans)
        assert in_use.max() <= 8


def test_rows_show_the_epochs_of_their_cycle_in_turn():
    assert view_epochs(5, 4, 1).tolist() == [5, 5, 5, 5]
    assert view_epochs(5, 8, 4).tolist() == [4, 5, 6, 7, 4, 5, 6, 7]
    assert view_epochs(2**40, 3, 3).tolist() == [2**40 - 1, 2**40, 2**40 + 1]


def batches_of(order, epoch=2, first=0):
    images = order.sample_order(epoch).tolist()
    size = order.settings.batch_size
    return [images[start : start + size] for start in range(0, len(images), size)][first:]


@pytest.mark.parametrize("kind", orders.ORDERS)
@pytest.mark.parametrize("count", [300, 241, 240])
@pytest.mark.parametrize("drop_last", [True, False])
def test_ranks_together_see_the_batches_of_one_process(kind, count, drop_last):
    single = batches_of(epoch_order(kind, count, batch_size=24, drop_last=drop_last))
    for world in (2, 3):
        ranks = [
            epoch_order(kind, count, batch_size=24 // world, drop_last=drop_last, rank=r, world_size=world)
            for r in range(world)
        ]
        parts = [batches_of(rank) for rank in ranks]
        assert [len(part) for part in parts] == [len(rank) for rank in ranks]
        assert all(rank.global_batches == len(single) for rank in ranks)
        for number, batch in enumerate(single):
            assert list(chain(*(part[number] for part in parts if number < len(part)))) == batch
        lengths = {len(batch) for part in parts for batch in part}
        if drop_last:
            assert lengths == {24 // world}
            assert len({len(part) for part in parts}) == 1
        else:
            assert sorted(chain(*chain(*parts))) == list(range(count))
            last = [len(part[-1]) if len(part) == len(single) else 0 for part in parts]
            assert max(last) - min(last) <= 1


@pytest.mark.parametrize("rank", [0, 1])
def test_a_resumed_order_is_the_rest(rank):
    order = epoch_order("random", 70, rank=rank, world_size=2)
    whole = batches_of(order)
    for first in range(len(whole) + 2):
        assert batches_of(order, first=first) == whole[first:]


def test_ranks_default_to_torch_distributed(monkeypatch):
    assert rank_and_world_size(None, None) == (0, 1)
    assert rank_and_world_size(2, 3) == (2, 3)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    assert rank_and_world_size(None, None) == (1, 4)
    assert rank_and_world_size(0, 1) == (0, 1)
    for bad in ((3, 3), (-1, 2), (0, None), (None, 2)):
        with pytest.raises(UserError, match="rank"):
            rank_and_world_size(*bad)


def test_a_place_is_settled_when_it_is_needed(monkeypatch):
    """An order that is older than the process group is shared by its ranks; one that was counted before is refused."""
    early, counted = (epoch_order("random", 100, batch_size=20, place=Place()) for _ in range(2))
    crowded = epoch_order("random", 100, batch_size=20, place=Place(), drop_last=True)
    given, group = epoch_order("random", 100, batch_size=20, rank=0, world_size=2), []
    assert len(counted) == 5
    counted.settings.place.confirm()

    def start(rank, size):
        group[:] = rank, size

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: bool(group))
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: group[0])
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: group[1])
    start(1, 2)
    early.settings.place.confirm()
    given.settings.place.confirm()
    assert len(early) == 3 and early.global_batches == 3 and early.global_batch_size == 40
    whole = chain(*batches_of(early), *batches_of(given))
    assert sorted(whole) == list(range(100))
    assert len(counted) == 5  # what was counted once stays
    text = r"as rank 0 of 1, but torch.distributed now has rank 1 of 2; build a loader after init_process_group, or"
    with pytest.raises(RuntimeError, match=text) as caught:
        counted.settings.place.confirm()
    assert "\n" not in str(caught.value)
    start(0, 1)
    with pytest.raises(RuntimeError, match=r"as rank 1 of 2, but torch.distributed now has rank 0 of 1"):
        early.settings.place.confirm()
    assert len(early) == 3
    start(0, 8)
    with pytest.raises(UserError, match="100 images do not fill one batch of 160 \\(20 on each of 8 ranks\\)"):
        len(crowded)


def test_impossible_orders_are_refused():
    with pytest.raises(UserError, match=r"'quasirandom' is not one of .*did you mean quasi_random"):
        epoch_order("quasirandom", 100)
    with pytest.raises(UserError, match="100 images do not fill one batch of 120 \\(40 on each of 3 ranks\\)"):
        epoch_order("random", 100, batch_size=40, world_size=3, drop_last=True)
