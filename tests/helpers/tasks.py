"""Tasks that workers do in tests; a worker imports this module by name."""

import os
import signal
import time
from pathlib import Path

from ffdr.train.signals import StopRequest
from ffdr.util.errors import UserError


def double(number):
    return 2 * number


def process():
    return os.getpid()


def threads():
    return os.environ["OMP_NUM_THREADS"], os.environ["NUMBA_NUM_THREADS"]


def mistake():
    raise UserError("train.lr: too high")


def crash():
    return 1 // 0


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def meet(folder, me, other):
    """Wait until the other is there, too: ends only if both run at once. The device that it may use."""
    (Path(folder) / me).touch()
    end = time.monotonic() + 60
    while not (Path(folder) / other).exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    return os.environ["CUDA_VISIBLE_DEVICES"]


def until_stopped(file):
    """As a run of the trainer: goes on until asked to stop, then saves."""
    with StopRequest() as stop:
        Path(file).with_suffix(".begun").write_text(str(os.getpid()))
        while not stop.requested:
            time.sleep(0.01)
        Path(file).write_text("saved")
        stop.end()
