"""The doctor's words follow from the rates; cold reads come from the disk; the command runs on a user's files."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from ffdr.bench import doctor
from ffdr.bench.diagnosis import COPY, DECODE, DISK, MEMORY, STEP, TOGETHER, Measured, diagnose
from ffdr.bench.loading import reading
from ffdr.beton.read import ImageBeton
from ffdr.cli import main
from ffdr.config.measuring import BenchOptions
from ffdr.util.errors import UserError

GIB = 2**30
GPU = Measured(
    disk=2_000.0,
    pages=9_000.0,
    memory=100_000.0,
    decode=20_000.0,
    copy=50_000.0,
    step=3_000.0,
    training=2_950.0,
    file_bytes=100 * GIB,
    free_bytes=500 * GIB,
    cores=16,
    threads=16,
    side=400.0,
    resolution=224,
    jpeg=True,
    precision="bfloat16",
    compiled=True,
    memory_share=0.7,
)
CPU = replace(
    GPU, copy=None, memory_share=None, disk=50_000.0, decode=2_000.0, step=100.0, training=95.0, cores=2, threads=2
)


def settings(measured):
    return " | ".join(diagnose(measured).settings)


def test_the_step_limits_a_gpu_that_is_full():
    found = diagnose(GPU)
    assert found.limit == STEP
    assert found.sentences[0].startswith("Training is limited by the training step: 3,000 images/s at most.")
    assert "Next comes decoding and replaying the images, with 20,000" in found.sentences[0]
    # Nothing is left to switch on but smaller views or more GPUs.
    assert len(found.settings) == 1 and "torchrun" in found.settings[0]


def test_what_is_switched_off_is_advised():
    slow = settings(replace(GPU, precision="float32", compiled=False, memory_share=0.2))
    for setting in ("train.precision=auto", "train.compile=default", "train.batch_size: the step takes 20%"):
        assert setting in slow
        assert setting not in settings(GPU)


def test_a_slow_disk_counts_once_where_the_file_fits_in_memory():
    found = diagnose(GPU)
    assert "first epoch also waits for the disk (2,000 images/s)" in found.sentences[-1]
    assert len(diagnose(replace(GPU, disk=4_000.0)).sentences) == 1
    assert len(diagnose(replace(GPU, disk=None)).sentences) == 1


def test_the_disk_limits_a_file_beyond_memory():
    large = replace(GPU, file_bytes=1000 * GIB, training=1_900.0)
    found = diagnose(large)
    assert found.limit == DISK
    assert found.sentences == (
        "Training is limited by reading the images from the disk: 2,000 images/s at most. Next comes the training "
        "step, with 3,000.",
    )
    assert found.settings[0].startswith("data.order=quasi_random with data.os_cache=false: whole pages come at 9,000")
    assert "more memory (the file has 1,000.0 GiB, 500.0 are free)" in found.settings[-1]
    assert "os_cache" not in settings(replace(large, pages=2_100.0))
    assert "write.max_resolution=256" in settings(replace(large, resolution=128))


def test_decoding_limits_few_cores():
    few = replace(GPU, decode=1_500.0, training=1_450.0, threads=4)
    found = diagnose(few)
    assert found.limit == DECODE
    assert found.settings[0].startswith("data.workers=16: 4 threads decode")
    assert found.settings[-1].startswith("more cores: about 8 ")  # 4 × 3000 / 1500
    assert "write.growth" in settings(few) and "write.mode=raw" in settings(few)
    assert "write.max_resolution=256" in settings(replace(few, resolution=128))
    raw = settings(replace(few, jpeg=False, threads=16))
    assert "write." not in raw and "data.workers" not in raw


def test_copying_and_memory_can_limit():
    assert diagnose(replace(GPU, copy=1_000.0, training=980.0)).limit == COPY
    found = diagnose(replace(GPU, memory=900.0, training=880.0))
    assert found.limit == MEMORY and "write.mode=jpg" in found.settings[0]


def test_stages_that_disturb_each_other():
    found = diagnose(replace(GPU, training=2_000.0))
    assert found.limit == TOGETHER
    assert "2,000 images/s, although its stages would allow 3,000" in found.sentences[0]
    assert found.settings[0].startswith("data.workers=15:")
    assert "data.workers" not in settings(replace(GPU, training=2_000.0, threads=8))


def test_a_cpu_shares_its_cores():
    assert CPU.expected == pytest.approx(1 / (1 / 2_000 + 1 / 100))
    found = diagnose(CPU)
    assert found.limit == STEP and "share the 2 cores: together 95 images/s" in found.sentences[1]
    assert found.settings[0].startswith("a GPU")
    assert "precision" not in settings(replace(CPU, precision="float32"))
    assert diagnose(replace(CPU, decode=50.0, training=33.0)).limit == DECODE


def leaves_memory(folder) -> bool:
    """Whether the file system lets go of what is written: one in memory has nothing outside it."""
    path = folder / "probe"
    path.write_bytes(bytes(1 << 16))
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return reading._is_cold(np.memmap(path, mode="r"), (0, 1 << 16))


def test_cold_reads_come_from_outside_memory(photos, tmp_path, monkeypatch):
    """Told by where the bytes are when a reading is timed; how long it takes says nothing on a virtual disk."""
    path = tmp_path / "photos.beton"
    shutil.copy(photos, path)  # one that no other test has mapped
    images, cold_when_timed, timed = ImageBeton.open(path), [], reading._timed

    def watched(fd, spans, threads):
        cold_when_timed.append([reading._is_cold(images.memmap, span) for span in spans])
        return timed(fd, spans, threads)

    monkeypatch.setattr(reading, "_timed", watched)
    with open(path, "rb") as file:
        os.pread(file.fileno(), 1 << 30, 0)
    assert int(images.memmap.sum(dtype=np.int64)) > 0  # all of it is mapped, as after a look at every image
    rates = reading.read_rates(images, threads=2)
    assert rates.memory > 0
    if leaves_memory(tmp_path):
        assert rates.disk is not None and rates.disk > 0
        assert rates.pages is not None and rates.pages > 0
        pages, disk, _, memory = cold_when_timed
        assert len(pages) == 1 and len(disk) == len(images)
        assert all(pages) and all(disk) and not any(memory)
    else:
        assert rates.disk is None and rates.pages is None


def test_looking_where_bytes_are_reads_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    file = np.memmap(path, mode="r")
    spans = [(at, 1 << 14) for at in range(0, 1 << 20, 1 << 14)]
    assert not any(reading._is_cold(file, span) for span in spans)
    if leaves_memory(tmp_path):
        with open(path, "rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert all(reading._is_cold(file, span) for span in spans * 2)


def test_a_file_that_stays_in_memory_has_no_disk_rate(photos, monkeypatch):
    monkeypatch.setattr(reading, "_is_cold", lambda file, span: False)
    rates = reading.read_rates(ImageBeton.open(photos), threads=1)
    assert rates.disk is None and rates.pages is None and rates.memory > 0


def test_the_doctor_examines_a_users_files(digits, reinforced_digits, tmp_path, capsys):
    options = BenchOptions(
        models=("test_efficientnet",),
        resolutions=(32,),
        batch_size=25,
        steps=2,
        repeats=3,
        data=str(digits),
        reinforced=str(reinforced_digits),
        json=str(tmp_path / "doctor.json"),
    )
    doctor.bench_doctor(options)
    printed = capsys.readouterr().out
    stored = json.loads((tmp_path / "doctor.json").read_text())
    measured = Measured(**stored["measured"])
    assert diagnose(measured).limit == stored["diagnosis"]["limit"]
    assert stored["diagnosis"]["sentences"][0] in printed
    assert measured.file_bytes == os.path.getsize(digits) + os.path.getsize(reinforced_digits)
    assert measured.copy is None and not measured.jpeg and measured.side == 32 and measured.precision == "float32"
    assert measured.free_bytes < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert measured.training > 0 and measured.step > 0
    assert (tmp_path / "doctor.md").read_text().startswith("# Doctor")


def test_images_that_fill_no_batch_are_refused(digits):
    with pytest.raises(UserError, match=r"bench.batch_size: 100 images do not fill one batch of 128"):
        doctor.bench_doctor(BenchOptions(models=("test_efficientnet",), data=str(digits), batch_size=128))


@pytest.mark.parametrize("what", ["doctor", "train"])
def test_the_command_line_reaches_it(what, capsys):
    assert main(["bench", what, "--models=resnet5", "--steps=1"]) == 2
    assert "ffdr bench: model.name: timm has no model 'resnet5'" in capsys.readouterr().err
