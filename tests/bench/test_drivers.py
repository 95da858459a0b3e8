"""The loops that are timed do the product's work: same pixels, no failed decode."""

import json
import time

import numpy as np
import pytest

from ffdr.augment.laps import STAGES
from ffdr.augment.ops.apply import augment
from ffdr.augment.policy import Policy
from ffdr.augment.replay import render
from ffdr.augment.view import EFFECTS, OPS, blank_effects, plain_view
from ffdr.bench.corpus import reinforce_untaught
from ffdr.bench.loading import drivers
from ffdr.bench.loading.kernels import (
    OURS,
    THEIRS,
    TORCHVISION,
    _Subjects,
    bench_kernels,
)
from ffdr.bench.loading.pipelines import StageClock
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton
from ffdr.config.measuring import BenchOptions
from ffdr.loader.replay.status import ReplayError

R = 48
NONE = blank_effects(1)


@pytest.fixture
def images(photos):
    return ImageBeton.open(photos)


@pytest.fixture
def clock(images, tmp_path, monkeypatch):
    """Of all images, in batches of 8, by this policy."""
    monkeypatch.setattr("ffdr.bench.loading.pipelines.BATCH", 8)
    return lambda policy: StageClock(images.path, reinforce_untaught(images.path, tmp_path / "r.beton", policy, 4), R)


@pytest.mark.parametrize("policy", [Policy(erase=1.0), Policy(mixup=1.0, cutmix=1.0)], ids=["plain", "mixing"])
def test_each_stage_of_a_replay_is_timed(clock, policy):
    clock = clock(policy)
    begin = time.perf_counter()
    clock()
    elapsed = time.perf_counter() - begin
    clock()
    assert np.shape(clock.laps) == (2, len(STAGES))
    spans, records = clock.epoch(0)
    assert sum(clock.laps[0]) * len(spans) < elapsed
    spent = dict(zip(STAGES, clock.laps[0], strict=True))
    assert min(spent[stage] for stage in ("decode", "resize", "operations", "erase")) > 0
    assert (spent["mix"] > 0) == policy.mixes
    assert not np.array_equal(records.views, clock.epoch(1)[1].views)  # each epoch has views of its own


def test_a_view_that_cannot_be_replayed_is_not_timed(clock):
    clock = clock(Policy())
    spans, records = clock.epoch(0)
    records.views["op0"][3] = 14
    with pytest.raises(ReplayError, match=f"sample {spans[3, 0]}: operation number"):
        clock.replayer.time_stages(spans, records)


def test_segments_and_whole_images_decode(images, clock):
    clock = clock(Policy())
    scratch = drivers.Scratch(images, R)
    spans, records = clock.epoch(0)
    views = records.views
    segments, whole = (drivers.collect(images, scratch, spans, kind) for kind in (views, None))
    assert drivers.decode_all(scratch.decoder, *segments, scratch.canvas) == 0
    assert segments[1][:, 1].sum() < 0.8 * whole[1][:, 1].sum()
    assert drivers.decode_all_segments(spans, images.sizes, views, R, *scratch.decoding) == 0
    assert whole[1][:, 1:].tolist() == [[images.data_size[i], *images.sizes[i]] for i in spans[:, 0]]
    assert drivers.decode_all(scratch.decoder, *whole, scratch.canvas) == 0
    last = int(spans[-1, 0])
    width, height = images.sizes[last]
    assert np.array_equal(scratch.canvas[: width * height * 3].reshape(height, width, 3), decode_image(images, last))
    segments[0][segments[1][3, 0]] = 0  # no start-of-image marker
    assert drivers.decode_all(scratch.decoder, *segments, scratch.canvas) == 1


@pytest.fixture(scope="module")
def subjects(photos):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ffdr.bench.loading.kernels.WIDTH", 250)
        patch.setattr("ffdr.bench.loading.kernels.HEIGHT", 188)
        yield _Subjects(ImageBeton.open(photos), R)


def test_kernels_resize_and_operate_as_the_product(subjects):
    scratch = subjects.scratch
    view = subjects.views[5:6]
    plain = view[0, 0].copy()
    for name in ("op0", "op1", "erase_h"):
        plain[name] = 0
    drivers.resize_all(subjects.photos[1:2], view, scratch.out[0], scratch.work)
    assert np.array_equal(scratch.out[0], render(subjects.photos[1], plain, R))
    picture = subjects.pictures[0, : 3 * R * R].reshape(R, R, 3).copy()
    for op in OPS[1:]:
        view = subjects.only(op)[7:8]
        level = int(view[0, 0]["level0"])
        drivers.operate_all(subjects.pictures[:1], view, NONE, scratch.second, scratch.out[0], scratch.work)
        assert np.array_equal(scratch.out[0], augment(picture, op, level)), op
    view = next(row for row in subjects.views if row[0]["op0"] and row[0]["op1"])
    (op0, level0), (op1, level1) = ((OPS[view[0][f"op{n}"]], int(view[0][f"level{n}"])) for n in (0, 1))
    drivers.operate_all(subjects.pictures[:1], view[None], NONE, scratch.second, scratch.out[0], scratch.work)
    assert np.array_equal(scratch.out[0], augment(augment(picture, op0, level0), op1, level1))
    view["op0"] = view["op1"] = 0
    for name in EFFECTS[1:]:
        effects = subjects.values(name)[7:8]
        drivers.operate_all(subjects.pictures[:1], view[None], effects, scratch.second, scratch.out[0], scratch.work)
        assert np.array_equal(scratch.out[0], render(picture, plain_view(), R, effects[0, 0])), name
        theirs = THEIRS[name](subjects.tensors[0], int(effects[0, 0, 0]["value"]))
        assert np.abs(scratch.out[0].astype(int) - theirs.permute(1, 2, 0).numpy()).max() <= 1, name


def test_erasing_and_mixing_happen(subjects):
    first, second = subjects.scratch.out
    first[:], second[:] = 200, 100
    drivers.erase_all(subjects.views[:1], first)
    assert 0.01 < (first == 0).mean() < 0.4
    first[:] = 200
    mixes = subjects.mixes[:1].copy()
    mixes["cut_h"] = 0
    drivers.mix_all(mixes, first, second)
    assert np.ptp(first) == 0
    assert first[0, 0, 0] == round(100 + 100 * int(mixes["mixup"][0]) / 65535)


def test_the_kernel_bench_reports_every_step(tmp_path, capsys):
    bench_kernels(BenchOptions(images=64, repeats=3, resolution=32, json=str(tmp_path / "kernels.json")))
    stored = json.loads((tmp_path / "kernels.json").read_text())
    steps = {"crop-resize", "two random operations", "erase", "mixup", "cutmix", "decode", *OPS[1:]}
    steps |= {f"effect {name}" for name in EFFECTS[1:]}
    assert set(stored["kernels"]) == steps
    for step in steps:
        assert stored["kernels"][step][OURS]["seconds_per_image"]["low"] > 0
    assert all(TORCHVISION in stored["kernels"][op] for op in OPS[1:])
    assert all(TORCHVISION in stored["kernels"][f"effect {name}"] for name in EFFECTS[1:])
    assert set(stored["kernels"]["effect Blur"]) == {OURS, TORCHVISION, "Pillow", "OpenCV GaussianBlur"}
    assert set(stored["kernels"]["crop-resize"]) == {OURS, "Pillow", "OpenCV INTER_LINEAR"}
    assert len(stored["summary"]) == 4
    printed = capsys.readouterr().out
    tables, closing = printed.strip().rsplit("\n\n", 1)
    assert tables in (tmp_path / "kernels.md").read_text()
    assert closing.endswith("next: ffdr bench doctor")
    assert all(f"| {step} " in printed for step in steps)
