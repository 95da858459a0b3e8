"""Views with effects, stored and drawn: the loader shows what ``render`` makes of image, record and effects."""

import numpy as np
import pytest
import torch
from betons import EFFECTS, MIXING, MIXING_EFFECTS, PLAIN
from effects import random_effects, with_effects
from ffcv.fields.decoders import IntDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.pipeline import Compiler

from ffdr import ReinforcedDataset, ReinforcedLoader
from ffdr.augment.draw import draw
from ffdr.augment.pick import pick_views
from ffdr.augment.replay import mix_into, render
from ffdr.augment.view import LARGEST_VALUES, SMALLEST_VALUES, blank_effects
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.config.files import TranscodeOptions
from ffdr.ffcv import ReplayImageDecoder
from ffdr.loader.replay.replayer import Replayer
from ffdr.loader.replay.status import ReplayError
from ffdr.loader.views import DrawnViews, SomeStored, StoredViews, ViewBatch
from ffdr.write.copy.transcode import transcode

SIDE, EPOCH, SEED = 40, 2, 5


@pytest.fixture(scope="module")
def files(folder, digits, photos, reinforce):
    """Function (raw, jpg or dct; mixing or not) → image beton and its reinforcement with effects."""

    def make(kind, policy):
        images = digits if kind == "raw" else photos
        out = folder / f"effects_{images.stem}_{policy.mixes}.beton"
        if not out.exists():
            with_effects(reinforce(images, policy), images, out)
        if kind == "dct":
            images = folder / "effects_coefficients.beton"
            if not images.exists():
                transcode(TranscodeOptions(str(photos), str(images), workers=1), progress=False)
        return images, out

    return make


def rendered(images, image, record):
    """A view by ``render`` alone; record: as ``draw`` gives it, or a stored one."""
    names = record.dtype.names
    first, second = (record[name] if name in names else record for name in ("first", "second"))
    effects = [record[name] if name in names else None for name in ("first_effects", "second_effects")]
    pixels = render(decode_image(images, image), first, SIDE, effects[0])
    if "mix" in names and record["mix"]["partner"] != image:
        other = render(decode_image(images, int(record["mix"]["partner"])), second, SIDE, effects[1])
        mix_into(pixels, other, np.array([record["mix"]])[0])
    return pixels


def epoch_of(images, workers=2, batch_size=7, **options):
    """Pixels and log-probabilities of all images in an epoch, in file order."""
    loader = ReinforcedLoader(
        images, batch_size=batch_size, resolution=SIDE, dtype=torch.uint8, seed=SEED, order="sequential",
        drop_last=False, workers=workers, **options,
    )  # fmt: skip
    loader.set_epoch(EPOCH)
    parts = [(pixels.permute(0, 2, 3, 1).clone(), targets.log_probs.clone()) for pixels, targets, _ in loader]
    return [torch.cat(part).numpy() for part in zip(*parts, strict=True)]


@pytest.mark.parametrize("policy", [PLAIN, MIXING], ids=["plain", "mixing"])
@pytest.mark.parametrize("kind", ["raw", "jpg", "dct"])
def test_stored_views_are_rendered_with_their_effects(files, kind, policy):
    path, out = files(kind, policy)
    images, reinforced = ImageBeton.open(path), ReinforcedBeton.open(out)
    picked = np.empty(len(images), np.uint64)
    pick_views(np.uint64(SEED), np.full(len(images), EPOCH), np.arange(len(images)), reinforced.header.views, picked)
    pixels, log_probs = epoch_of(path, reinforced=out)
    again, _ = epoch_of(path, reinforced=out, workers=1, batch_size=50)
    assert np.array_equal(pixels, again)
    dataset = ReinforcedDataset(path, out, resolution=SIDE, dtype=torch.uint8, seed=SEED)
    for image, view in enumerate(picked.tolist()):
        expected = rendered(images, image, reinforced.views(image)[view])
        assert np.array_equal(pixels[image], expected)
        if image % 5 == 0:
            assert np.array_equal(dataset[EPOCH, image]["pixel_values"].permute(1, 2, 0).numpy(), expected)
            assert np.array_equal(dataset.view(image, view)[0], expected)
        assert np.array_equal(log_probs[image], reinforced.logits(image)[1][view].astype(np.float32))


@pytest.mark.parametrize("policy", [EFFECTS, MIXING_EFFECTS], ids=["plain", "mixing"])
def test_drawn_views_are_rendered_with_their_effects(photos, policy):
    images = ImageBeton.open(photos)
    pixels, _ = epoch_of(photos, policy=policy)
    dataset = ReinforcedDataset(photos, policy=policy, resolution=SIDE, dtype=torch.uint8, seed=SEED)
    for image in range(len(images)):
        record = draw(policy, SEED, EPOCH, image, images.original_sizes)
        expected = rendered(images, image, record)
        assert np.array_equal(pixels[image], expected)
        assert np.array_equal(dataset[EPOCH, image]["pixel_values"].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("stored_effects", [False, True])
def test_some_stored_views_each_have_the_effects_of_their_source(files, digits, reinforce, stored_effects):
    """Records of one source must leave nothing in the rows of the other, whichever of them has effects."""
    path, out = files("raw", PLAIN) if stored_effects else (digits, reinforce(digits, MIXING))
    images, drawn_of = ImageBeton.open(path), PLAIN if stored_effects else EFFECTS
    stored, drawn = StoredViews(ReinforcedBeton.open(out), SEED), DrawnViews(drawn_of, SEED, images)
    both, index = SomeStored(stored, drawn, 0.5, SEED), np.arange(len(images))
    batches = {source: ViewBatch.blank(len(images), source.entries) for source in (stored, drawn, both)}
    for source, batch in batches.items():
        batch.effects["kind"] = 99  # whatever they held
        source.fill(np.full_like(index, EPOCH), index, batch)
    is_stored = both._is_stored(np.full_like(index, EPOCH), index)
    assert 20 < is_stored.sum() < 80
    for part, own, other in zip(batches[both].records, batches[stored].records, batches[drawn].records, strict=True):
        assert np.array_equal(part[is_stored], own[is_stored]) and np.array_equal(part[~is_stored], other[~is_stored])
    for image in (0, 50, 99):
        for part, one in zip(batches[both].records, both.one(EPOCH, image).records, strict=True):
            assert np.array_equal(part[image], one[0])
    assert batches[stored].effects["kind"].any() == stored_effects
    pixels, _ = epoch_of(path, reinforced=out, policy=drawn_of, reinforced_share=0.5)
    replayer, found = Replayer(images, SIDE, threads=1), np.empty((len(images), SIDE, SIDE, 3), np.uint8)
    replayer(replayer.spans(index), batches[both].records, found)
    assert np.array_equal(pixels, found)


def test_ffcvs_loader_shows_the_same(files):
    path, out = files("jpg", MIXING)
    Compiler.set_enabled(False)
    try:
        loader = Loader(
            str(path), batch_size=7, num_workers=1, order=OrderOption.SEQUENTIAL, drop_last=False,
            pipelines={
                "image": [ReplayImageDecoder(path, out, resolution=SIDE, seed=SEED)],
                "label": [IntDecoder()], "origin": None,
            },
        )  # fmt: skip
        loader.next_epoch = EPOCH
        pixels = np.concatenate([batch[0].copy() for batch in loader])
    finally:
        Compiler.set_enabled(True)
    assert np.array_equal(pixels, epoch_of(path, reinforced=out)[0])


def test_a_file_without_effects_leaves_none(digits, reinforced_digits):
    source = StoredViews(ReinforcedBeton.open(reinforced_digits), SEED)
    batch = ViewBatch.blank(100, source.entries)
    batch.effects["kind"], batch.effects["value"] = 99, -1
    source.fill(np.zeros(100, np.int64), np.arange(100), batch)
    assert np.array_equal(batch.effects, blank_effects(100))


def test_random_effects_are_all_that_is_allowed():
    """What the other tests use: every kind, and values near both ends."""
    effects = random_effects(np.random.default_rng(0), (4000,)).ravel()
    for kind, (low, high) in enumerate(zip(SMALLEST_VALUES, LARGEST_VALUES, strict=True)):
        values = effects["value"][effects["kind"] == kind]
        assert len(values) > 100
        assert low <= values.min() <= low + (high - low) / 50 and high - (high - low) / 50 <= values.max() <= high


def test_hostile_effects_are_refused_by_number(digits, files, tmp_path):
    """Not read outside of any table, and not replayed as something else."""
    path, out = files("raw", PLAIN)
    data = bytearray(out.read_bytes())
    reinforced = ReinforcedBeton.open(out)
    for view in range(reinforced.header.views):
        at = int(reinforced.view_ptr[30]) + view * reinforced.record_dtype.itemsize + 24
        data[at : at + 4] = b"\xff\xff\x00\x80"
    (tmp_path / "bad.beton").write_bytes(data)
    with pytest.raises(ReplayError, match=r"sample 30: .*effect"):
        epoch_of(path, reinforced=tmp_path / "bad.beton")
