"""Measurements: the corpus is the same every time, the statistics are right, the bench runs and stores what it says."""

import json

import numpy as np
import pytest
from PIL import Image

from ffdr.bench.corpus import make_photos
from ffdr.bench.epoch import bench_epoch
from ffdr.bench.statistics import median_interval
from ffdr.options import BenchOptions


def test_the_corpus_is_seeded_and_varied(tmp_path):
    once, again = (make_photos(tmp_path / name, 12, seed=3) for name in ("a", "b"))
    files = sorted(path.relative_to(once) for path in once.rglob("*.jpg"))
    assert len(files) == 12
    assert all((once / file).read_bytes() == (again / file).read_bytes() for file in files)
    assert len({(once / file).read_bytes() for file in files}) == 12
    assert Image.open(once / files[0]).size == (500, 375)


def test_the_median_has_its_order_statistics_interval():
    median, (low, high) = median_interval(np.arange(1.0, 12.0))
    # For 11 values the 95 % interval of the median is from the 2nd to the 10th: P(Bin(11, 1/2) <= 1) = 0.6 %.
    assert (median, low, high) == (6.0, 2.0, 10.0)
    assert median_interval(np.array([3.0, 1.0, 2.0])) == (2.0, (1.0, 3.0))


def test_the_epoch_bench_stores_its_ratios(tmp_path, capsys):
    bench_epoch(BenchOptions(images=64, repeats=3, json=str(tmp_path / "epoch.json")))
    assert "training" in capsys.readouterr().out
    stored = json.loads((tmp_path / "epoch.json").read_text())
    row = stored["ratios"]["training"]
    assert row["median"] == pytest.approx(np.median(np.divide(row["seconds"]["dr"], row["seconds"]["erm"])))
    assert stored["environment"]["numba"]
