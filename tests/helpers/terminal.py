"""Runs of the trainer in pseudo-terminals: a process that imports all of it once, and forks for each of them.

Called with a list of runs in JSON; says in JSON what each terminal was sent, and the run's exit status.
"""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios


def run_all(runs):
    """What came of each run, by name: what its terminal was sent, and its exit status."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TERM": "xterm-256color"}
    for name in ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR"):
        environment.pop(name, None)
    command = [sys.executable, __file__, json.dumps(runs)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment).stdout)


def _in_terminal(out, number=0, columns=100, lines=30, piped="", encoding="utf-8", environment=None, epochs=1):
    """number: of the signal that the run gets in its first epoch; -1: an error."""
    child, ours = pty.fork()
    if child == 0:
        status = 1
        try:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
            os.environ.update(environment or {})
            if piped:
                os.dup2(os.open(piped, os.O_WRONLY | os.O_CREAT), 1)
            sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", 1, encoding) for descriptor in (1, 2))
            _train(out, number, epochs)
            status = 0
        except BaseException as error:
            print(f"{error}\nended by {type(error).__name__}", file=sys.stderr)
        finally:
            os._exit(status)
    sent = bytearray()
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not part:
            break
        sent += part
    os.close(ours)
    return sent.decode(encoding), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _train(out, number, epochs):
    loader = FakeLoader(n=512, batch_size=8)

    def after(epoch, batch):
        if (epoch, batch) == (0, 5):
            warn("a warning meanwhile")
        if number and (epoch, batch) == (0, 55):
            os.kill(os.getpid(), number) if number > 0 else 1 / 0

    loader.after_batch = after
    given = options(out, epochs=epochs, batch_size=8, live=True)
    student = build_student(given, ModelOptions("test_resnet"), 4, torch.device("cpu"))
    Trainer(given, student, DATA, loader, FakeLoader(n=50, shuffle=False)).fit()


if __name__ == "__main__":
    import torch
    from fakes import DATA, FakeLoader, options

    from ffdr.config.learning import ModelOptions
    from ffdr.train.fit import Trainer
    from ffdr.train.student import build_student
    from ffdr.util.text import warn

    torch.set_num_threads(1)
    print(json.dumps({name: _in_terminal(**run) for name, run in json.loads(sys.argv[1]).items()}))
