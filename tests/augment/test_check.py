"""Any bytes in a record are replayed within bounds or refused with a status; nothing else is ever touched."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import noise, random_side, tidy_effects, tidy_record

from ffdr.augment import check
from ffdr.augment.check import OK, STATUS_TEXT, check_effects, check_mix, check_view
from ffdr.augment.geometry import view_region
from ffdr.augment.picture import ImagePart
from ffdr.augment.replay import mix_into, replay_view, scratch_bytes
from ffdr.augment.view import CENTER, EFFECT_DTYPE, FRACTION, MIX_DTYPE, VIEW_DTYPE, blank_effects, plain_view

GUARD = 256
MARK = 0x5A
NONE = blank_effects(1)[0, 0]


def guarded(count):
    """An array of ``count`` bytes between two guard zones: (all of it, the inner part)."""
    whole = np.full(count + 2 * GUARD, MARK, np.uint8)
    return whole, whole[GUARD : GUARD + count]


def untouched(whole):
    return (whole[:GUARD] == MARK).all() and (whole[-GUARD:] == MARK).all()


@pytest.mark.parametrize("kind", ["random", "tidy"])
def test_any_record_is_replayed_within_bounds_or_refused(kind):
    rng = np.random.default_rng(len(kind))
    views = np.zeros((1, 2), VIEW_DTYPE)
    replayed = 0
    for _ in range(1200):
        views[0, 0] = np.frombuffer(rng.bytes(24), VIEW_DTYPE)[0]
        if kind == "tidy":
            tidy_record(rng, views)
        width, height = random_side(rng, 60), random_side(rng, 60)
        size = random_side(rng, 40), random_side(rng, 40)
        source, pixels = guarded(3 * width * height)
        pixels[...] = rng.integers(0, 256, pixels.size)
        target, out = guarded(3 * size[0] * size[1])
        room, scratch = guarded(scratch_bytes(width, height, *size) + int(rng.integers(0, 9)))
        before = pixels.copy()
        part = ImagePart(pixels.reshape(height, width, 3), 0, 0, width, height)
        status = replay_view(part, views[0, 0], NONE, out.reshape(*size, 3), scratch, 0)
        assert status in STATUS_TEXT
        assert status == check_view(views[0, 0], width, height, *size)
        assert untouched(source)
        assert untouched(target)
        assert untouched(room)
        assert np.array_equal(pixels, before)
        replayed += status == OK
        if status != OK:
            assert (out == MARK).all()
    assert replayed > 800 if kind == "tidy" else replayed < 1200


@pytest.mark.parametrize("kind", ["random", "tidy"])
def test_any_effects_are_replayed_within_bounds_or_refused(kind):
    rng = np.random.default_rng(len(kind))
    views = np.zeros((1, 2), VIEW_DTYPE)
    replayed = 0
    for _ in range(800):
        tidy_record(rng, views)
        effects = np.frombuffer(rng.bytes(32), EFFECT_DTYPE).copy()
        if kind == "tidy":
            tidy_effects(rng, effects)
        size = random_side(rng, 60), random_side(rng, 60)
        image = noise(rng, random_side(rng, 20), random_side(rng, 20))
        height, width, _ = image.shape
        target, out = guarded(3 * size[0] * size[1])
        room, scratch = guarded(scratch_bytes(width, height, *size) + int(rng.integers(0, 9)))
        part = ImagePart(image, 0, 0, width, height)
        status = replay_view(part, views[0, 0], effects, out.reshape(*size, 3), scratch, 0)
        assert status == (check_view(views[0, 0], width, height, *size) or check_effects(effects))
        assert untouched(target)
        assert untouched(room)
        replayed += status == OK
        if status != OK:
            assert (out == MARK).all()
    assert replayed > 400 if kind == "tidy" else replayed == 0


def test_noise_around_the_source_does_not_matter():
    """Two runs that differ only in what lies around the pixels and in the scratch give the same bytes."""
    rng = np.random.default_rng(3)
    views = np.zeros((1, 2), VIEW_DTYPE)
    for _ in range(300):
        tidy_record(rng, views)
        width, height = random_side(rng, 60), random_side(rng, 60)
        size = random_side(rng, 40), random_side(rng, 40)
        image = noise(rng, height, width).reshape(-1)
        results = []
        for fill in (0, 255):
            around = np.full(image.size + 2 * GUARD, fill, np.uint8)
            around[GUARD : GUARD + image.size] = image
            pixels = around[GUARD : GUARD + image.size].reshape(height, width, 3)
            out = np.empty((*size, 3), np.uint8)
            scratch = np.full(scratch_bytes(width, height, *size), fill, np.uint8)
            status = replay_view(ImagePart(pixels, 0, 0, width, height), views[0, 0], NONE, out, scratch, 0)
            results.append((status, out.tobytes() if status == OK else b""))
        assert results[0] == results[1]


def test_not_a_byte_outside_the_arrays_is_read_or_written():
    """In another process, because the answer to a stray access is a segmentation fault."""
    script = Path(__file__).parents[1] / "helpers" / "guarded_pages.py"
    done = subprocess.run([sys.executable, script, "1", "1500"], capture_output=True, text=True, timeout=300)
    assert done.stdout == "survived 1500\n", (done.returncode, done.stderr)


BAD_VIEWS = {
    check.EMPTY_CROP: [{"crop_w": 0}, {"crop_h": 0}, {"crop_w": 0, "flags": CENTER}],
    check.CROP_OUTSIDE: [{"crop_x": 2}, {"crop_y": 65535}, {"crop_x": 40000, "crop_w": 40000}],
    check.UNKNOWN_FLAG: [{"flags": 8}, {"flags": 32}, {"flags": 255}],
    check.CENTER_WITH_BORDER: [{"flags": CENTER, "pad": 1}],
    check.BAD_BINS: [{"bins": 0}, {"bins": 1}],
    check.UNKNOWN_OP: [{"op0": 14}, {"op1": 255}],
    check.BAD_LEVEL: [{"level0": 31}, {"level1": -31}, {"level0": -128, "bins": 128}, {"level1": 2, "bins": 2}],
    check.ERASE_OUTSIDE: [{"erase_h": 1, "erase_x": 65535, "erase_w": 2}, {"erase_h": 60000, "erase_y": 60000}],
}


@pytest.mark.parametrize("status", BAD_VIEWS)
def test_bad_views_are_named(status):
    for fields in BAD_VIEWS[status]:
        views = np.zeros((1, 2), VIEW_DTYPE)
        views[0, 0] = plain_view()
        for name, value in fields.items():
            views[0, 0][name] = value
        assert check_view(views[0, 0], 10, 10, 8, 8) == status, fields


def test_good_views_pass():
    views = np.zeros((1, 2), VIEW_DTYPE)
    views[0, 0] = plain_view()
    assert check_view(views[0, 0], 1, 65535, 1, 65535) == OK
    for sizes in ((1, 1, 30000, 30000), (0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 65536), (-1, 1, 1, 1)):
        assert check_view(views[0, 0], *sizes) == check.BAD_SIZE
    views[0, 0]["crop_x"] = 1  # one unit beyond: two roundings, clamped
    assert check_view(views[0, 0], 10, 10, 8, 8) == OK


def test_mixes_are_checked():
    good = (3, 30000, 10, 20, 100, 100)
    mixes = np.zeros(1, MIX_DTYPE)
    for record, status in (
        (good, OK),
        ((0, FRACTION, 0, 0, 0, 0), OK),
        ((5, *good[1:]), check.PARTNER_MISSING),
        ((2**32 - 1, *good[1:]), check.PARTNER_MISSING),
        ((0, *good[1:]), OK),
        ((1, FRACTION, 65535, 0, 2, 5), check.CUT_OUTSIDE),
        ((1, FRACTION, 0, 65535, 2, 5), check.CUT_OUTSIDE),
    ):
        mixes[0] = record
        assert check_mix(mixes[0], 5) == status, record


def test_any_mix_is_done_within_bounds_or_refused():
    rng = np.random.default_rng(11)
    mixes = np.zeros(1, MIX_DTYPE)
    done = 0
    for _ in range(600):
        mixes[0] = np.frombuffer(rng.bytes(14), MIX_DTYPE)[0]
        mixes["partner"] = 1
        if check_mix(mixes[0], 2) != OK:
            continue
        size = random_side(rng, 40), random_side(rng, 40)
        whole, out = guarded(3 * size[0] * size[1])
        other = noise(rng, *size)
        mix_into(out.reshape(*size, 3), other, mixes[0])
        assert untouched(whole)
        done += 1
    assert done > 50


def test_missing_pixels_and_short_scratch_are_refused():
    views = np.zeros((1, 2), VIEW_DTYPE)
    views[0, 0] = plain_view()
    image = noise(np.random.default_rng(0), 20, 30)
    out = np.full((16, 16, 3), MARK, np.uint8)
    scratch = np.empty(scratch_bytes(30, 20, 16, 16), np.uint8)
    assert view_region(views[0, 0], 30, 20, 16, 16) == (0, 0, 30, 20)
    for left, top, part in ((1, 0, image[:, 1:]), (0, 2, image[2:]), (0, 0, image[:, :-1]), (0, 0, image[:-1])):
        decoded = ImagePart(np.ascontiguousarray(part), left, top, 30, 20)
        assert replay_view(decoded, views[0, 0], NONE, out, scratch, 0) == check.WRONG_REGION
    whole = ImagePart(image, 0, 0, 30, 20)
    assert replay_view(whole, views[0, 0], NONE, out, scratch[:-1], 0) == check.SHORT_SCRATCH
    assert (out == MARK).all()
    assert replay_view(whole, views[0, 0], NONE, out, scratch, 0) == OK


def test_arrays_of_another_layout_are_refused():
    views = np.zeros((1, 2), VIEW_DTYPE)
    views[0, 0] = plain_view()
    image = noise(np.random.default_rng(0), 20, 30)
    out, scratch = np.empty((16, 16, 3), np.uint8), np.empty(scratch_bytes(30, 20, 16, 16), np.uint8)
    with pytest.raises(TypeError, match="contiguous"):
        replay_view(ImagePart(image[:, :-1], 0, 0, 29, 20), views[0, 0], NONE, out, scratch, 0)
    four = np.zeros((20, 30, 4), np.uint8)
    assert replay_view(ImagePart(four, 0, 0, 30, 20), views[0, 0], NONE, out, scratch, 0) == check.BAD_SIZE
    assert mix_into(out, image, np.zeros(1, MIX_DTYPE)[0]) == check.BAD_SIZE


def test_scratch_grows_with_every_side():
    base = (50, 40, 30, 20)
    for place in range(4):
        larger = list(base)
        larger[place] += 37
        assert scratch_bytes(*larger) >= scratch_bytes(*base)
