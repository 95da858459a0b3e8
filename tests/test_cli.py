"""The command line as a user meets it: exit statuses, one-line errors before slow work, help."""

import os
import subprocess
import sys

import pytest


def ffdr(*arguments):
    return subprocess.run([sys.executable, "-m", "ffdr", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["trian"], "did you mean train?"),
        (["train", "--train.epochz=1"], "did you mean train.epochs?"),
        (["train", "--train.out=x"], "data.train"),
        (["write", "--write.source=digit", "--write.out=x.beton"], "did you mean digits?"),
        (["bench", "lodaer"], "is not one of"),
        (["eval"], "eval.data"),
        (["reinforce", "--reinforce.images=x.beton"], "reinforce.out"),
    ],
)
def test_mistakes_end_with_one_line_and_status_2(arguments, part):
    run = ffdr(*arguments)
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.startswith(f"ffdr {arguments[0]}: ")
    assert run.stderr.count("\n") == 1
    assert part in run.stderr


def test_refusals_come_before_the_slow_imports():
    code = (
        "import sys; from ffdr.cli import main; status = main(['train', '--train.lr=x']);"
        "slow = {'torch', 'ffcv', 'numba', 'timm', 'cv2'} & set(sys.modules);"
        "sys.exit(f'{status} {slow}' if slow or status != 2 else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_a_reader_that_has_seen_enough_ends_it_quietly(reinforced_digits):
    command = [sys.executable, "-m", "ffdr", "inspect", str(reinforced_digits), "--json"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    run.stdout.close()
    assert run.stderr.read() == b""
    assert run.wait() == 141
    run.stderr.close()


def test_help_and_version():
    assert "reinforce" in ffdr("--help").stdout
    assert "--train.lr" in ffdr("train", "--help").stdout
    assert ffdr("--version").stdout.startswith("ffdr 0.")


def test_a_folder_that_cannot_be_written_to_is_one_line(digits):
    flags = ["--train.batch_size=25", "--train.resolution=32", "--model.name=test_efficientnet"]
    run = ffdr("train", f"--data.train={digits}", "--train.out=/proc/nowhere", *flags)
    assert run.returncode == 2
    assert run.stderr == "ffdr train: /proc/nowhere: No such file or directory\n"


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["trian"]])
@pytest.mark.parametrize("deaf", ["stdout", "stderr"])
def test_nobody_who_listens_is_no_traceback(arguments, deaf):
    """As in ``ffdr --help | head -1`` and ``ffdr trian 2>&1 | true``."""
    reader, writer = os.pipe()
    os.close(reader)
    other = {"stdout": "stderr", "stderr": "stdout"}[deaf]
    run = subprocess.run([sys.executable, "-m", "ffdr", *arguments], **{deaf: writer, other: subprocess.PIPE})
    os.close(writer)
    told_there = (deaf == "stderr") == (arguments == ["trian"])
    if told_there:
        assert (run.returncode, getattr(run, other)) == (141, b"")
    else:
        assert run.returncode == (2 if arguments == ["trian"] else 0)


def test_an_output_that_is_full_is_one_line():
    command = [sys.executable, "-m", "ffdr", "--version"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    assert (run.returncode, run.stderr) == (1, "ffdr --version: standard output: No space left on device\n")
