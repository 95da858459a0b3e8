"""The crop-resize stays within one grey level of Pillow, for every kind of view, and copies exactly at scale 1."""

import numpy as np
import oracle
import pytest
from pictures import cropped, noise, photo, random_crop, random_side
from PIL import Image
from torchvision.transforms import RandomCrop
from torchvision.transforms import functional as F

from ffdr.augment.check import OK
from ffdr.augment.geometry import view_region
from ffdr.augment.picture import ImagePart
from ffdr.augment.replay import render, replay_view, scratch_bytes
from ffdr.augment.view import (
    CENTER,
    FLIP,
    FRACTION,
    PLACED,
    VIEW_DTYPE,
    blank_effects,
    box_to_fractions,
    center_view,
    plain_view,
    to_fraction,
)

NONE = blank_effects(1)[0, 0]


def off(image, view, size):
    """Largest difference from the oracle in grey levels."""
    got = render(image, view, size).astype(int)
    return np.abs(got - oracle.crop_resize(image, view, *size)).max()


def pictures(rng, height, width):
    """Noise, and black against white: no smoothness to hide behind."""
    yield noise(rng, height, width)
    yield (rng.integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(4))
def test_whole_pixel_boxes(seed):
    rng = np.random.default_rng(seed)
    for _ in range(40):
        width, height = random_side(rng, 700), random_side(rng, 700)
        size = random_side(rng, 260), random_side(rng, 260)
        view = random_crop(rng, width, height, flags=int(rng.integers(0, 2)) * FLIP)
        for image in pictures(rng, height, width):
            assert off(image, view, size) <= 1, (width, height, view, size)


def test_ten_thousand_boxes():
    """Any box, whole or between pixels, of images from 1×1 to 4000 pixels a side, enlarged and shrunk to any size."""
    rng = np.random.default_rng(12)
    boxes = 0
    for number in range(125):
        imagenet = number % 5 == 1
        width, height = random_side(rng, 4000 if number % 25 == 0 else 500), random_side(rng, 500)
        width, height = (500, 375) if imagenet else (width, height)
        image = noise(rng, height, width) if number % 2 else photo(rng, height, width)
        for _ in range(80):
            if boxes % 2:
                view = random_crop(rng, width, height, flags=int(rng.integers(0, 2)))
            else:
                view = box_between_pixels(rng)
            size = (224, 224) if imagenet else (random_side(rng, 300), random_side(rng, 300))
            assert off(image, view, size) <= 1, (width, height, view, size)
            boxes += 1
    assert boxes == 10_000


def box_between_pixels(rng):
    """A box whose edges are any stored fractions."""
    view = plain_view()
    for start, extent in (("crop_x", "crop_w"), ("crop_y", "crop_h")):
        begin, end = np.sort(rng.integers(0, FRACTION + 1, 2))
        view[start], view[extent] = begin, max(end - begin, 1)
    return view


def test_large_images():
    rng = np.random.default_rng(5)
    sizes = ((4000, 3000, (224, 224)), (4000, 90, (1, 300)), (33, 3999, (64, 1)), (2500, 2500, (3, 2)))
    for width, height, size in sizes:
        image = noise(rng, height, width)
        assert off(image, random_crop(rng, width, height), size) <= 1
        assert off(image, plain_view(), size) <= 1


def test_plain_boxes_are_pillows_crop_and_resize():
    """Once without the oracle: the box in, Pillow's answer out."""
    rng = np.random.default_rng(6)
    image = noise(rng, 375, 500)
    for x, y, w, h, side in ((0, 0, 500, 375, 224), (50, 20, 300, 250, 224), (499, 374, 1, 1, 32), (7, 9, 90, 70, 160)):
        expected = Image.fromarray(image).crop((x, y, x + w, y + h)).resize((side, side), Image.Resampling.BILINEAR)
        got = render(image, cropped(x, y, w, h, 500, 375), side)
        assert np.abs(got.astype(int) - np.asarray(expected)).max() <= 1
        mirrored = render(image, cropped(x, y, w, h, 500, 375, flags=FLIP), side)
        assert np.array_equal(mirrored, got[:, ::-1])


def test_the_smallest_boxes():
    """Boxes of one unit of 1/65535, at whole pixels and between, keep an extent."""
    rng = np.random.default_rng(13)
    image = noise(rng, 40, 50)
    for start in (0, 1, 2, 1311, 2621, 2622, 32767, 65533, 65534, 65535):
        for extent in (1, 2):
            for padding in (0, 9000):
                view = plain_view()
                view["crop_x"] = view["crop_y"] = min(start, FRACTION + 1 - extent)
                view["crop_w"] = view["crop_h"] = extent
                view["pad"] = padding
                assert off(image, view, (7, 5)) <= 1, view
                if padding == 0 and start == 0:
                    assert (render(image, view, (7, 5)) == image[0, 0]).all()


def test_a_crop_replays_on_a_copy_of_another_size():
    """Even coordinates of an image are whole ones on its half-size copy, odd ones lie between."""
    rng = np.random.default_rng(8)
    half = noise(rng, 150, 250)
    view = cropped(100, 60, 240, 180, 500, 300)
    assert np.array_equal(render(half, view, 96), render(half, cropped(50, 30, 120, 90, 250, 150), 96))
    assert off(half, cropped(101, 61, 241, 181, 500, 300), (96, 96)) <= 1


@pytest.mark.parametrize("ratio", [1.0, 0.875, 0.95, 0.7])
def test_evaluation_view(ratio):
    rng = np.random.default_rng(9)
    sizes = [(500, 375, 224), (375, 501, 224), (32, 32, 32), (20, 30, 64), (256, 340, 223), (5, 90, 17)]
    sizes += [(4000, 2661, 224), *((*rng.integers(30, 800, 2), 224) for _ in range(60))]
    for width, height, side in sizes:
        image = noise(rng, height, width)
        resized = F.resize(Image.fromarray(image), round(side / ratio))
        expected = np.asarray(F.center_crop(resized, [side, side])).astype(int)
        assert np.abs(render(image, center_view(ratio), side) - expected).max() <= 1, (width, height, side)
    assert off(image, center_view(ratio), (40, 64)) <= 1


def test_evaluation_view_of_an_image_of_the_right_size_is_the_image():
    image = noise(np.random.default_rng(1), 64, 64)
    assert np.array_equal(render(image, center_view(1.0), 64), image)


@pytest.mark.parametrize("side", [8, 32, 33])
def test_padded_crops_are_those_of_random_crop(side):
    rng = np.random.default_rng(side)
    image = noise(rng, side, side)
    padding = round(side * 0.125)
    for x in range(2 * padding + 1):
        y = 2 * padding - x // 2
        view = cropped(x, y, side, side, side + 2 * padding, side + 2 * padding, pad=to_fraction(padding, side))
        expected = F.crop(F.pad(Image.fromarray(image), padding), y, x, side, side)
        assert np.array_equal(render(image, view, side), np.asarray(expected))
        assert off(image, view, (2 * side, side // 2 + 1)) <= 1
    assert RandomCrop(side, padding=padding)(Image.fromarray(image)).size == (side, side)


@pytest.mark.parametrize("pad", [1, 8192, 30000, FRACTION])
def test_any_box_on_a_padded_canvas(pad):
    rng = np.random.default_rng(pad)
    for _ in range(25):
        width, height = random_side(rng, 150), random_side(rng, 150)
        view = random_crop(rng, 150, 150, pad=pad, flags=int(rng.integers(0, 2)))
        assert off(noise(rng, height, width), view, (random_side(rng, 99), random_side(rng, 99))) <= 1


def test_identity_copies():
    rng = np.random.default_rng(3)
    for height, width in ((1, 1), (1, 9), (5, 1), (224, 224), (31, 65)):
        image = noise(rng, height, width)
        assert np.array_equal(render(image, plain_view(), (height, width)), image)


def test_only_the_named_region_is_read():
    """Replaying from the region alone, cut out or in other surroundings, gives the same bytes as from the image."""
    rng = np.random.default_rng(4)
    views = np.zeros((1, 2), VIEW_DTYPE)
    for trial in range(60):
        width, height = random_side(rng, 300) + 8, random_side(rng, 300) + 8
        image = photo(rng, height, width)
        pad = int(rng.integers(0, 2)) * 16000
        views[0, 0] = center_view(0.8) if trial % 4 == 0 else random_crop(rng, 333, 222, pad=pad)
        size = random_side(rng, 100), random_side(rng, 100)
        x0, y0, x1, y1 = view_region(views[0, 0], width, height, *size)
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        part = ImagePart(np.ascontiguousarray(image[y0:y1, x0:x1]), x0, y0, width, height)
        out = np.empty((*size, 3), np.uint8)
        scratch = np.empty(scratch_bytes(width, height, *size), np.uint8)
        assert replay_view(part, views[0, 0], NONE, out, scratch, 0) == OK
        assert np.array_equal(out, render(image, views[0, 0], size))


def test_the_region_of_a_centre_view_is_not_the_whole_image():
    views = np.zeros((1, 2), VIEW_DTYPE)
    views[0, 0] = center_view(0.875)
    assert views[0, 0]["flags"] == CENTER
    x0, y0, x1, y1 = view_region(views[0, 0], 500, 375, 224, 224)
    # 224 of 256 pixels are the middle 328 of 375; the filter reaches 2 pixels further.
    assert 84 <= x0 < x1 <= 416
    assert 21 <= y0 < y1 <= 354


def test_resize_of_every_small_size():
    rng = np.random.default_rng(2)
    for source in range(1, 10):
        image = noise(rng, source, 11 - source)
        for target in range(1, 12):
            assert off(image, plain_view(), (target, 12 - target)) <= 1
    x, w = box_to_fractions(0, 1, 1)
    assert (int(x), int(w)) == (0, FRACTION)


@pytest.mark.parametrize(("size", "short", "pad"), [((32, 32), 224, 16), ((45, 33), 40, 5), ((150, 210), 50, 0)])
def test_placed_views_are_resized_then_padded_then_cropped(size, short, pad):
    """torchvision's Resize, Pad and crop, one after the other: also where the window reaches beyond the image."""
    rng = np.random.default_rng(short)
    image = photo(rng, *size)
    side = 32 if short != 224 else 224
    wide = F.pad(F.resize(Image.fromarray(image), short), pad)
    for number in range(12):
        room_x, room_y = wide.width - side, wide.height - side
        left, top = (0, room_y) if number == 0 else (int(rng.integers(0, room_x + 1)), int(rng.integers(0, room_y + 1)))
        view = center_view(side / short)
        view["flags"] |= np.uint8(PLACED | (FLIP if number % 2 else 0))
        view["pad"] = to_fraction(pad, side)
        view["crop_x"], view["crop_y"] = to_fraction(left, max(room_x, 1)), to_fraction(top, max(room_y, 1))
        expected = np.asarray(wide)[top : top + side, left : left + side]
        out = render(image, view, side).astype(int)
        assert np.abs(out - (expected[:, ::-1] if number % 2 else expected)).max() <= 1
        if pad and number == 0:
            assert (out[-pad:] == 0).all()
            assert (out[:-pad, pad:].max(axis=2) > 0).all()
