"""Generation on any number of ranks, killed at any moment: always the same bytes, never half a file."""

import functools
import re
import subprocess
import sys
from pathlib import Path

import torch
from betons import MIXING, files_in
from crashes import LIMIT, Ordeal, fresh_process

from ffdr.config.learning import ReinforceOptions, TeacherOptions
from ffdr.reinforce import collect
from ffdr.reinforce.generate import generate


def options(images, out, **changes):
    """20 shards of 5 images."""
    return ReinforceOptions(images=str(images), out=str(out), views=3, topk=4, workers=1, **changes)


def reinforce_through_kills(images, teacher, folder):
    """50 kills of 1 to 3 ranks; then what becomes of a rank whose neighbour dies in the middle of the work; at last
    two ranks that find the file finished, and two whose work is another."""
    torch.set_num_threads(1)
    collect._COLLECT_EVERY = 0

    def work(out, **changes):
        generate(options(images, out, **changes), MIXING, TeacherOptions(models=teacher, batch_size=16), progress=False)

    ordeal = Ordeal(work, folder, seed=1, ranks=3)
    killed = ordeal.run(50)
    bereaved = []
    for victim in (0, 1):
        ordeal.empty()
        bereaved.append(ordeal.attempt(2, victim, step=4 if victim else 20, grace=LIMIT))
    ordeal.attempt(1, 0)
    work(ordeal.out)
    again = []
    for changes in ({}, {"seed": 1}, {"seed": 1, "overwrite": True}):
        ordeal.work = functools.partial(work, **changes)
        before = ordeal.out.stat().st_mtime_ns
        again.append((ordeal.statuses(2), ordeal.out.stat().st_mtime_ns == before))
    return killed, bereaved, again, ordeal.whole


def test_killed_at_random_moments(digits, teacher, tmp_path):
    with fresh_process() as process:
        result = process.submit(reinforce_through_kills, digits, teacher, tmp_path / "work").result()
    killed, bereaved, again, whole = result
    assert killed["time"] > 0
    assert sum(killed.values()) >= 50
    assert {"os.rename", "fsync"} <= set(killed)
    assert bereaved == [[-9, 2], [2, -9]]  # the other one ends by itself, in one line
    assert again == [([0, 0], True), ([2, 2], True), ([0, 0], False)]
    alone = generate(
        options(digits, tmp_path / "x.beton"), MIXING, TeacherOptions(models=teacher, batch_size=16), False
    )
    assert whole == {".x.beton.work": True, "x.beton": alone.read_bytes()}


def test_torchrun(digits, teacher, tmp_path):
    """Two ranks through the command line: the bytes of one process."""
    out = tmp_path / "two.beton"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "ffdr"]
    command += [
        "reinforce",
        f"--images={digits}",
        f"--out={out}",
        "--views=3",
        "--topk=4",
        f"--teacher.models={teacher}",
    ]
    command += ["--teacher.batch_size=16", "--policy.mixup=0.5", "--policy.cutmix=0.5", "--policy.scale=0.3,1.0"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    assert len(re.findall("storage fidelity", run.stdout)) == 1  # only rank 0 speaks
    alone = generate(
        options(digits, tmp_path / "x.beton"), MIXING, TeacherOptions(models=teacher, batch_size=16), False
    )
    assert Path(out).read_bytes() == alone.read_bytes()
    assert files_in(tmp_path) == ["two.beton", "x.beton"]
