"""The loader bench: every pipeline is there, stages add up, the published way shows the pictures that ffdr shows."""

import json
import subprocess
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from ffdr import ReinforcedDataset
from ffdr.augment.laps import STAGES
from ffdr.augment.policy import Policy
from ffdr.bench.corpus import reinforce_untaught
from ffdr.bench.loading import loader, pipelines
from ffdr.bench.loading.chunks import chunk_loader, has_litdata, write_chunks
from ffdr.bench.loading.loader import IMPORT, REST, bench_loader, stage_costs
from ffdr.bench.loading.peers import PublishedDataset, has_spdl, replay, spdl_batch
from ffdr.bench.loading.startup import import_seconds, start_seconds
from ffdr.bench.timing import Timing
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton
from ffdr.config.measuring import BenchOptions

R = 64


def check_same_pictures(corpus):
    """Stock FFCV's beton and the folder hold the same JPEGs, and ffdr's beton the same pictures in the same order."""
    mine, stock, raw, coefficients = map(ImageBeton.open, (corpus.jpg, corpus.stock, corpus.raw, corpus.coefficients))
    assert mine.labels.tolist() == stock.labels.tolist() == raw.labels.tolist()
    assert mine.sizes.tolist() == stock.sizes.tolist() == raw.sizes.tolist()
    paths = sorted(corpus.photos.glob("*/*.jpg"))
    assert len(paths) == len(stock)
    for i, path in enumerate(paths):
        assert path.read_bytes() == stock.data(i).tobytes()
        assert np.array_equal(decode_image(stock, i), decode_image(mine, i))
        assert np.array_equal(decode_image(coefficients, i), decode_image(mine, i))
        assert np.abs(decode_image(raw, i).astype(int) - decode_image(mine, i)).mean() < 6


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A small run's JSON and Markdown; starts are not timed, and 6 views per image are enough."""
    out = tmp_path_factory.mktemp("bench") / "loader.json"
    make_corpus = pipelines.make_corpus

    def checked(*arguments):
        corpus = make_corpus(*arguments)
        check_same_pictures(corpus)
        return corpus

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipelines, "PUBLISHED_VIEWS", 6)
        patch.setattr(pipelines, "make_corpus", checked)
        seconds = count(1)
        patch.setattr(loader, "start_seconds", lambda *_: next(seconds))
        patch.setattr(loader, "import_seconds", lambda _: 0.5)
        bench_loader(BenchOptions(images=70, repeats=3, resolution=R, json=str(out)))
    for name in ("loader.png", "loader_bytes.png"):
        assert out.with_name(name).stat().st_size > 10_000
    return json.loads(out.read_text()), out.with_suffix(".md").read_text()


def test_every_pipeline_is_timed(stored):
    figures, text = stored
    names = {pipelines.ERM, pipelines.DR, pipelines.CROPS, pipelines.MIXED, pipelines.EVALUATION, pipelines.RAW}
    names |= {pipelines.ERM_CROPS, pipelines.DR_FOUR, pipelines.COEFFICIENTS_FOUR}
    names |= {pipelines.COEFFICIENTS_MIXED_PAIRS, pipelines.COEFFICIENTS_EVALUATION}
    names |= {pipelines.STOCK, pipelines.STOCK_ON_OURS, pipelines.TORCHVISION, pipelines.TORCHVISION_CROPS}
    names |= {pipelines.PUBLISHED, pipelines.DECODE, pipelines.STOCK_HALF}
    names |= {pipelines.COEFFICIENTS, pipelines.COEFFICIENTS_CROPS, pipelines.COEFFICIENTS_MIXED}
    found = set(figures["pipelines"])
    assert found - {pipelines.TWO, pipelines.COEFFICIENTS_TWO, *pipelines.PEERS} == names
    for peer, is_installed in pipelines.PEERS.items():
        assert (peer in found) == is_installed()
        (row,) = [line for line in text.splitlines() if line.startswith(f"| {peer} ")]
        assert ("not installed" in row) != is_installed()
    for name, row in figures["pipelines"].items():
        assert f"| {name} " in text
        images = 70 if name == pipelines.LITDATA else 64  # but for LitData, full batches
        assert row["images"] == images
        assert row["images_per_second"]["values"] == pytest.approx([images / s for s in row["seconds"]])
        assert 0 < row["images_per_second"]["low"] <= row["images_per_second"]["median"]
        stock = np.array(figures["pipelines"][pipelines.STOCK]["seconds"]) / 64
        assert row["times_stock"]["values"] == pytest.approx(stock / row["seconds"] * images)


def test_stages_add_up_to_the_loader_s_time(stored):
    figures, text = stored
    names = {pipelines.DR, pipelines.DR_FOUR, pipelines.MIXED, pipelines.EVALUATION, pipelines.COEFFICIENTS}
    names |= {pipelines.COEFFICIENTS_FOUR, pipelines.COEFFICIENTS_MIXED, pipelines.COEFFICIENTS_EVALUATION}
    assert set(figures["stages"]) == names
    for name, stages in figures["stages"].items():
        assert list(stages) == [*STAGES, REST]
        assert np.sum([stage["share"]["values"] for stage in stages.values()], axis=0) == pytest.approx(1)
        seconds = np.sum([stage["seconds"]["values"] for stage in stages.values()], axis=0)
        row = figures["pipelines"][name]
        assert seconds == pytest.approx(np.divide(row["seconds"], row["images"]))
        assert sum(line.startswith(f"| {name} ") for line in text.splitlines()) == 2  # its rate and its stages
        for stage in STAGES:
            assert stages[stage]["seconds"]["low"] >= 0
        for stage in ("decode", "resize"):
            assert stages[stage]["seconds"]["median"] > 0


def test_the_summary_is_taken_from_the_figures(stored):
    figures, text = stored
    summary = figures["summary"]
    assert len(summary) == 33
    assert all(f"| {name} " in text for name in summary)
    assert summary["full policy : stock FFCV's crop and flip"] == figures["pipelines"][pipelines.DR]["times_stock"]
    for peer, is_installed in pipelines.PEERS.items():
        assert (summary[f"crop and flip : {peer.removesuffix(', crop and flip')}"] is not None) == is_installed()
    erm, dr = (figures["pipelines"][name]["seconds"] for name in (pipelines.ERM_CROPS, pipelines.DR_FOUR))
    epochs = summary["epoch time, DR, full policy, 4 views per decode : ERM, crop and flip"]
    assert epochs["values"] == pytest.approx(np.divide(dr, erm))
    outside = summary["share of the time outside JPEG decoding"]["values"]
    decode = figures["stages"][pipelines.DR]["decode"]["share"]["values"]
    assert outside == pytest.approx(1 - np.array(decode))
    starts = {name: summary[f"seconds to the first batch, {name}"]["values"] for name in figures["start_seconds"]}
    forms = ("", "coefficients, ")
    assert starts.pop(IMPORT) == [0.5] * 3
    assert [starts[f"{form}first start"] for form in forms] == [[1], [5]]
    assert [starts[f"{form}second start"] for form in forms] == [[2, 3, 4], [6, 7, 8]]
    sizes = figures["stored_bytes"]
    assert 1.0 < sizes[loader.PLAIN] <= 1.011
    assert 0.9 < sizes[loader.AS_STOCK] < 1.0  # its Huffman tables are not optimised
    assert 1.0 < sizes[loader.COEFFICIENTS_90] < sizes[loader.COEFFICIENTS_80] < 1.35
    stored = figures["image_bytes"]
    assert stored[pipelines.CROPS] < stored[pipelines.COEFFICIENTS_CROPS] < stored[pipelines.STOCK_HALF]
    assert stored[pipelines.STOCK_HALF] < stored[pipelines.RAW]


def test_shares_of_a_hand_made_case():
    laps = np.zeros((3, len(STAGES)))
    laps[:, 1], laps[:, 0] = 1.0, (2.0, 4.0, 3.0)
    shares = stage_costs(Timing((40.0, 80.0, 50.0), 10), laps)  # 4, 8 and 5 seconds per image
    assert shares["resize"][1].values == (0.25, 0.125, 0.2)
    assert shares["decode"][0].median == 3.0
    assert shares[REST][0].values == (1.0, 3.0, 1.0)
    assert shares[REST][1].median == 0.25


@pytest.fixture(scope="module")
def archive(photos, tmp_path_factory):
    """Crop, flip and erasing of the 24 photographs, as a reinforced beton, as an archive, and their JPEGs as files."""
    folder = tmp_path_factory.mktemp("archive")
    policy = replace(Policy(), randaugment=0.0, erase=0.5)
    reinforced = reinforce_untaught(photos, folder / "r.beton", policy, 4)
    pipelines.export_archive(
        pipelines.ExportOptions(str(reinforced), str(photos), str(folder / "archive"), R), progress=False
    )
    originals = photos.with_name("photos")  # of the shared fixture
    return pipelines._extract(photos, originals, folder / "photos"), folder / "archive", reinforced


def test_the_published_way_shows_the_same_crops(photos, archive):
    folder, pickles, reinforced = archive
    dataset = ReinforcedDataset(photos, reinforced)
    erased = 0
    for i, file in enumerate(sorted(folder.glob("*/*.jpg"))):
        image = Image.open(file).convert("RGB")
        _, samples = torch.load(pickles / f"{i}.pth.tar", weights_only=False)
        for k, sample in enumerate(samples):
            theirs = replay(image, sample["params"], R).permute(1, 2, 0).numpy()
            mine = dataset.view(i, k, R)[0]
            assert np.abs(theirs.astype(int) - mine).max() <= 1, (i, k)
            assert theirs.std() > 10
            erased += bool((theirs == 0).all(axis=2).mean() > 0.01)
    assert 24 < erased < 72  # half of 96


def test_the_published_dataset_shows_any_view_of_its_image(photos, archive):
    folder, pickles, reinforced = archive
    published, dataset = PublishedDataset(folder, pickles, R), ReinforcedDataset(photos, reinforced)
    torch.manual_seed(0)
    views = [dataset.view(5, k, R)[0].astype(int) for k in range(4)]
    seen = set()
    for _ in range(30):
        pixels, probs, ids, label = published[5]
        distances = [np.abs(pixels.permute(1, 2, 0).numpy() - view).max() for view in views]
        assert min(distances) <= 1
        seen.add(int(np.argmin(distances)))
        targets = dataset.view(5, int(np.argmin(distances)), R)[1]
        assert targets.ids[0].tolist() == ids.tolist()
        assert probs.tolist() == pytest.approx(targets.log_probs[0].exp().tolist(), rel=1e-5)
        assert label == dataset.images.labels[5]
    assert seen == {0, 1, 2, 3}


WHOLE = replace(Policy(), scale=(1.0, 1.0), ratio=(0.2, 5.0), flip=1.0)
"""Crops that are the whole picture, flipped."""


def resized(path):
    """What a peer should show of a photograph: int (R, R, 3)."""
    picture = Image.open(path).convert("RGB").resize((R, R), Image.Resampling.BILINEAR)
    return np.asarray(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)).astype(int)


@pytest.mark.skipif(not has_spdl(), reason="SPDL is not installed")
def test_spdl_shows_the_photographs(photos):
    samples = ImageFolder(str(photos.with_name("photos"))).samples
    images, labels = spdl_batch(samples, R, WHOLE)
    assert labels.tolist() == [label for _, label in samples]
    for image, (path, _) in zip(images.numpy(), samples, strict=True):
        assert np.abs(image - resized(path)).mean() < 4


@pytest.mark.skipif(not has_litdata(), reason="LitData is not installed")
def test_litdata_shows_the_photographs(photos, tmp_path):
    folder = photos.with_name("photos")
    chunks = write_chunks(folder, tmp_path / "chunks")
    batches = list(chunk_loader(chunks, 7, R, WHOLE))
    shown = torch.cat([images for images, _ in batches]).permute(0, 2, 3, 1).numpy()
    labels = torch.cat([labels for _, labels in batches]).tolist()
    samples = ImageFolder(str(folder)).samples
    assert sorted(labels) == [label for _, label in samples]
    for path, label in samples:
        distances = np.abs(shown - resized(path)).mean(axis=(1, 2, 3))
        assert distances.min() < 2
        assert labels[distances.argmin()] == label


def test_a_start_is_timed_in_a_process_of_its_own(photos, tmp_path):
    reinforced = reinforce_untaught(photos, tmp_path / "r.beton", Policy(), 2)
    assert 0.3 < import_seconds("torch") < 300
    assert 0.5 < start_seconds(photos, reinforced, 8, R) < 300
    with pytest.raises(subprocess.CalledProcessError):
        start_seconds(tmp_path / "no.beton", reinforced, 8, R)
