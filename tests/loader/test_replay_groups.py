"""Groups of views that share one decode: the pixels and statuses of the same views one by one, whatever is damaged."""

import numpy as np
import pytest
from betons import MIXING_EFFECTS, PLAIN

from ffdr.augment.policy import Policy
from ffdr.augment.view import FRACTION, to_fraction
from ffdr.beton.read import ImageBeton
from ffdr.beton.records import Records
from ffdr.config.files import TranscodeOptions
from ffdr.loader.replay.replayer import Replayer
from ffdr.loader.replay.status import ReplayError
from ffdr.loader.views import DrawnViews, ViewBatch
from ffdr.write.copy.transcode import transcode

SIDE, IMAGES, VIEWS = 32, 12, 6
APART = Policy(scale=(0.01, 0.05), mixup=0.2)
"""Crops so small that it is cheaper to decode them one by one."""


@pytest.fixture(scope="module")
def kinds(folder, digits, photos):
    """Images by how they are stored."""
    coefficients = folder / "grouped_coefficients.beton"
    transcode(TranscodeOptions(str(photos), str(coefficients), workers=1), progress=False)
    return {"raw": digits, "jpg": photos, "dct": coefficients}


def drawn(images, policy):
    """Index (n,) of the images, each ``VIEWS`` times in a row, and the records of as many epochs."""
    source, index = DrawnViews(policy, 7, images), np.arange(IMAGES)
    found = Records.blank(IMAGES * VIEWS)
    for epoch in range(VIEWS):
        batch = ViewBatch.blank(IMAGES, source.entries)
        source.fill(np.full_like(index, epoch), index, batch)
        for whole, part in zip(found, batch.records, strict=True):
            whole[epoch::VIEWS] = part
    return np.repeat(index, VIEWS), found


def one_by_one(replayer, spans, records):
    """Pixels of each row, and what is wrong with it."""
    out, errors = np.zeros((len(spans), SIDE, SIDE, 3), np.uint8), {}
    for row in range(len(spans)):
        alone = slice(row, row + 1)
        try:
            replayer(spans[alone], records.rows(alone), out[alone])
        except ReplayError as error:
            errors[row] = str(error)
    return out, errors


@pytest.mark.parametrize("policy", [PLAIN, MIXING_EFFECTS, APART], ids=["plain", "mixing", "apart"])
@pytest.mark.parametrize("kind", ["raw", "jpg", "dct"])
def test_a_group_shows_what_its_views_show_one_by_one(kinds, kind, policy):
    images = ImageBeton.open(kinds[kind])
    index, records = drawn(images, policy)
    replayer = Replayer(images, SIDE, threads=2)
    spans = replayer.spans(index)
    expected, errors = one_by_one(replayer, spans, records)
    assert not errors and expected.std() > 10
    for size in (1, 2, 3, VIEWS):
        out = np.zeros_like(expected)
        replayer(spans, records, out, size)
        assert np.array_equal(out, expected)
    assert replayer.time_stages(spans, records, VIEWS)["resize"] > 0


@pytest.mark.parametrize("kind", ["raw", "jpg", "dct"])
def test_random_records_in_a_group_touch_no_other_row(kinds, kind):
    """Any bytes in views, mixes and effects of a row: the others are as they are without it."""
    images, rng = ImageBeton.open(kinds[kind]), np.random.default_rng(1)
    index, records = drawn(images, MIXING_EFFECTS)
    replayer = Replayer(images, SIDE, threads=1)
    spans = replayer.spans(index)
    for part in records:
        of_row = part.reshape(len(part), -1)
        for row in rng.choice(len(part), 12, replace=False):
            place = rng.integers(of_row.shape[1])
            of_row[row, place : place + 1].view(np.uint8)[:] = rng.integers(0, 256, part.itemsize)
    expected, errors = one_by_one(replayer, spans, records)
    assert 15 < len(errors) < 40
    out = np.zeros_like(expected)
    with pytest.raises(ReplayError) as caught:
        replayer(spans, records, out, VIEWS)
    assert str(caught.value) == errors[min(errors)]
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("kind", ["jpg", "dct"])
def test_damage_under_one_view_is_no_fault_of_the_others(kinds, kind):
    """Of a damaged image those views are refused whose own part is damaged; nothing of them is written."""
    images, rng = ImageBeton.open(kinds[kind]), np.random.default_rng(2)
    _, records = drawn(images, Policy(scale=(0.1, 0.4)))
    for part in records:
        part[1::VIEWS] = part[::VIEWS]  # where the first fails, the second must not take what is left of it
    replayer = Replayer(images, SIDE, threads=1)
    mixed = 0
    for image in range(IMAGES):
        for _ in range(10):
            data = images.data(image).copy()
            at = rng.integers(len(data) // 4, len(data) - 8)
            data[at : at + 4] = rng.integers(0, 256, 4)
            rows = slice(image * VIEWS, (image + 1) * VIEWS)
            spans = np.array([[image, data.ctypes.data, len(data)]] * VIEWS, np.uint64)
            expected, errors = one_by_one(replayer, spans, records.rows(rows))
            out = np.zeros_like(expected)
            if errors:
                with pytest.raises(ReplayError) as caught:
                    replayer(spans, records.rows(rows), out, VIEWS)
                assert str(caught.value) == errors[min(errors)]
            else:
                replayer(spans, records.rows(rows), out, VIEWS)
            assert np.array_equal(out, expected)
            mixed += 0 < len(errors) < VIEWS
    assert mixed >= 3


def test_what_was_decoded_beside_a_view_is_not_used_for_the_next(photos):
    """The second view reaches to the edge of the restart segments under the first, where libjpeg knows too little of
    the chroma; the third lies so far off that all are decoded one by one."""
    images = ImageBeton.open(photos)
    (width, height), boxes = images.sizes[0], [(40, 40), (32, 40), (40, 32), (220, 160)]
    replayer, records = Replayer(images, SIDE, threads=1), Records.blank(len(boxes))
    first = records.views[:, 0]
    first["bins"], records.mixes["mixup"] = 31, FRACTION
    for view, (x, y) in zip(first, boxes, strict=True):
        view["crop_x"], view["crop_w"] = to_fraction(x, width), to_fraction(20, width)
        view["crop_y"], view["crop_h"] = to_fraction(y, height), to_fraction(20, height)
    for image in range(IMAGES):
        spans = replayer.spans(np.repeat(image, len(boxes)))
        expected, errors = one_by_one(replayer, spans, records)
        out = np.zeros_like(expected)
        replayer(spans, records, out, len(boxes))
        assert not errors and np.array_equal(out, expected)


@pytest.mark.parametrize(("shift", "rows"), [(1, 72), (0, 71)])
def test_groups_are_of_one_image(digits, shift, rows):
    images = ImageBeton.open(digits)
    index, records = drawn(images, PLAIN)
    replayer = Replayer(images, SIDE, threads=1)
    spans, out = replayer.spans(np.roll(index, shift)[:rows]), np.zeros((rows, SIDE, SIDE, 3), np.uint8)
    with pytest.raises(ValueError, match="not groups of 6 rows of the same image"):
        replayer(spans, records.rows(slice(rows)), out, VIEWS)
