"""What a reinforcement is said to take is what it takes."""

import os
import re
import shutil
from collections import namedtuple
from dataclasses import replace

import pytest
from betons import MIXING, PLAIN, files_in

from ffdr.beton.read import ReinforcedBeton
from ffdr.config.learning import ReinforceOptions, TeacherOptions
from ffdr.reinforce import estimate
from ffdr.reinforce.generate import generate
from ffdr.util.errors import UserError, WriteError

Usage = namedtuple("Usage", "total used free")


def options(images, out, **changes):
    return ReinforceOptions(images=str(images), out=str(out), views=3, topk=3, workers=1, **changes)


@pytest.mark.parametrize("policy", [PLAIN, MIXING], ids=["plain", "mixing"])
def test_dry_run_says_the_bytes_and_writes_nothing(digits, teacher, tmp_path, capsys, policy):
    models, plan = TeacherOptions(models=teacher, batch_size=16), options(digits, tmp_path / "new" / "x.beton")
    generate(replace(plan, dry_run=True), policy, models)
    text = capsys.readouterr().out
    assert os.listdir(tmp_path) == []
    out = generate(plan, policy, models, progress=False)
    assert f"{out}: {out.stat().st_size:,} bytes" in text
    assert "300 views: 100 images × 3, in 20 shards" in text
    seconds, rate, sampled = re.search(
        r"^([\d.]+) s on 1 rank, at ([\d,]+) views/s .* on (\d+) views", text, re.M
    ).groups()
    assert int(sampled) == 12 * 15
    assert float(seconds) == pytest.approx(300 / int(rate.replace(",", "")), abs=0.06)


def test_a_disk_too_small_is_refused_before_the_start(digits, teacher, tmp_path, monkeypatch):
    models, plan = TeacherOptions(models=teacher, batch_size=16), options(digits, tmp_path / "x.beton")
    size = generate(plan, PLAIN, models, progress=False).stat().st_size
    plan = replace(plan, out=str(tmp_path / "new" / "y.beton"))
    needed = 2 * size + 16 * 100  # the file, as many bytes of shards at most, the journal
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, needed - 1))
    with pytest.raises(WriteError, match=rf"y\.beton: needs {needed:,} bytes, but only {needed - 1:,} are free there$"):
        generate(plan, PLAIN, models, progress=False)
    assert files_in(tmp_path) == ["x.beton"]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, needed))
    generate(plan, PLAIN, models, progress=False)


def test_a_dry_run_says_that_the_disk_is_too_small(digits, teacher, tmp_path, monkeypatch, capsys):
    models, plan = TeacherOptions(models=teacher, batch_size=16), options(digits, tmp_path / "x.beton", dry_run=True)
    for free, note in ((10**9, ""), (1000, "; too few")):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: Usage(0, 0, free))
        generate(plan, PLAIN, models)
        assert f" per view; {free:,} are free there{note}\n" in capsys.readouterr().out


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_place_that_can_not_be_written_is_refused(digits, tmp_path, monkeypatch, dry_run):
    """Before the teacher is even looked for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.py").write_text("")
    (tmp_path / "folder").mkdir()
    for out, cause in (
        ("/proc/q.beton", "can't be written: No such file or directory"),
        ("t.py/q.beton", "can't be written: t.py is not a folder"),
        ("t.py/new/q.beton", "can't be written: t.py is not a folder"),
        ("folder", "a folder; give the name of a file"),
    ):
        with pytest.raises(UserError, match=f"^{out}: {cause}$"):
            generate(options(digits, out, dry_run=dry_run), PLAIN, TeacherOptions(models="none:none"))
    assert files_in(tmp_path) == ["folder", "t.py"]


def test_what_a_killed_run_has_is_not_needed_again(reinforced_digits, tmp_path):
    header, out = ReinforcedBeton.open(reinforced_digits).header, tmp_path / "x.beton"
    before = estimate._bytes_needed(out, header, 1)
    (tmp_path / "x.beton.partial").write_bytes(bytes(range(256)) * 32)
    occupied = os.stat(tmp_path / "x.beton.partial").st_blocks * 512
    assert occupied >= 8192
    assert estimate._bytes_needed(out, header, 1) == before - occupied
