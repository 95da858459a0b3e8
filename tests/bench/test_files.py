"""The bench of files: every figure is there, and what it reads is what was written."""

import json

import numpy as np

from ffdr.bench.loading import files
from ffdr.beton.read import ReinforcedBeton
from ffdr.config.measuring import BenchOptions


def test_every_figure_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "READS", 2 * files.BATCH)
    monkeypatch.setattr(files, "IMAGENET", (5000, 20))
    monkeypatch.setattr(files, "PHOTOS", 16)
    out = tmp_path / "files.json"
    files.bench_files(BenchOptions(repeats=3, json=str(out)))
    figures = json.loads(out.read_text())
    names = {f"{what}, {kind}" for what in ("import", "read") for kind in ("plain", "mixing")}
    assert set(figures["rates"]) == names | {
        "write, coefficients",
        "transcode, JPEG to coefficients",
        "transcode, coefficients to JPEG",
    }
    assert all(len(rate["values"]) == 3 and min(rate["values"]) > 0 for rate in figures["rates"].values())
    assert len(figures["summary"]) == 7
    assert all(figure["median"] > 0 for figure in figures["summary"].values())
    assert figures["summary"]["record reads/s, mixing"] == figures["rates"]["read, mixing"]
    assert "opening" in out.with_suffix(".md").read_text()


def test_the_file_with_a_hole_is_whole_but_for_its_data(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "IMAGENET", (5000, 20))
    beton = ReinforcedBeton.open(files._sparse(tmp_path / "hole.beton"))
    assert (len(beton), beton.header.views) == (5000, 20)
    assert np.all(np.diff(beton.view_ptr.astype(np.int64)) >= beton.header.view_bytes + beton.header.logit_bytes)
    assert (tmp_path / "hole.beton").stat().st_blocks * 512 < 3_000_000
