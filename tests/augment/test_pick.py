"""No view comes twice before all K came once, and every view is as likely as any other."""

import numpy as np
import pytest
from scipy import stats

from ffdr.augment.pick import pick_views


def picks(images, epochs, K, seed=3):
    """(images, epochs) int64"""
    out = np.empty((images, epochs), np.uint64)
    for epoch in range(epochs):
        column = np.empty(images, np.uint64)
        pick_views(np.uint64(seed), np.full(images, epoch), np.arange(images), K, column)
        out[:, epoch] = column
    return out.astype(np.int64)


@pytest.mark.parametrize("K", [1, 2, 3, 4, 7, 16, 50, 400])
def test_every_cycle_shows_every_view_once(K):
    table = picks(images=20, epochs=3 * K, K=K)
    for cycle in np.split(table, 3, axis=1):
        assert np.array_equal(np.sort(cycle, axis=1), np.tile(np.arange(K), (20, 1)))


@pytest.mark.parametrize("K", [2, 3, 10, 400])
def test_any_epoch_shows_any_view_equally_often(K):
    table = picks(images=8000, epochs=2, K=K)
    for epoch in range(2):
        assert stats.chisquare(np.bincount(table[:, epoch], minlength=K)).pvalue > 1e-3


def test_all_orders_of_four_views_are_equally_likely():
    orders = picks(images=6000, epochs=4, K=4) @ np.array([64, 16, 4, 1])
    _, counts = np.unique(orders, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3


def test_cycles_images_and_seeds_have_orders_of_their_own():
    first, second = np.split(picks(images=2, epochs=100, K=50), 2, axis=1)
    assert not np.array_equal(first[0], second[0])
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], picks(images=1, epochs=50, K=50, seed=4)[0])


@pytest.mark.parametrize("K", [1, 3, 400, 65535])
def test_a_batch_picks_what_its_images_pick(K):
    images, epochs = np.random.default_rng(0).integers(0, 1 << 32, (2, 37))
    picked, alone = np.empty(37, np.uint64), np.empty(1, np.uint64)
    pick_views(np.uint64(3), epochs, images, K, picked)
    for i in range(len(images)):
        pick_views(np.uint64(3), epochs[i : i + 1], images[i : i + 1], K, alone)
        assert alone[0] == picked[i]
    assert picked.max() < K


def test_the_choice_stays_the_same_for_ever():
    """A run that goes on with a newer ffdr must go on with the same views."""
    assert picks(images=12, epochs=12, K=10, seed=7)[11].tolist() == [5, 7, 0, 2, 9, 8, 1, 3, 4, 6, 8, 1]
