"""torch.compile as ffdr uses it: a graph per size, a graph per model, filled-up batches, and no end of the run if it
fails."""

import functools
import getpass
import logging
import os
import tempfile
import warnings

import pytest
import torch
from torch import nn

from ffdr.models import compiling
from ffdr.models.compiling import (
    WORTH_STEPS,
    Compiled,
    FixedBatch,
    float32_of,
    pays,
    set_backends,
    train_mode,
)
from ffdr.util.errors import UserError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_every_size_has_its_own_static_graph(graphs):
    """However many there are: dynamo's own limit is eight."""
    call = Compiled(lambda x: x * 2, "default")
    for size in (*range(4, 24), 4, 5, 6):
        assert torch.equal(call(torch.ones(2, size)), torch.full((2, size), 2.0))
    assert graphs() == 20  # one that serves any size would come second, and last


def test_models_of_one_class_do_not_use_up_each_others_compilations(graphs):
    models = [nn.Linear(3, 2) for _ in range(12)]
    calls = [FixedBatch(model.forward, "teacher.compile", size=4) for model in models]
    x = torch.randn(4, 3)
    for _ in range(2):
        for model, call in zip(models, calls, strict=True):
            torch.testing.assert_close(call(x), model(x))
    assert graphs() == 12


def test_smaller_batches_are_filled_up(graphs):
    call = FixedBatch(lambda x: x.sum((1, 2, 3)), "eval.compile")
    images = torch.randn(8, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    for count in (8, 5, 1):
        torch.testing.assert_close(call(images[:count]), images[:count].sum((1, 2, 3)))
    assert graphs() == 1  # in another memory format a filled-up batch would have had its own


def test_a_filled_up_batch_is_as_a_full_one(graphs):
    """Also in inference mode, in which a new tensor is of another kind, and in whatever memory format it comes."""
    call = FixedBatch(lambda x: x.sum((1, 2, 3)), "teacher.compile", size=4)
    images = torch.randn(4, 3, 5, 5)
    last = images.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        for x in (last[:1], images, last, images[:3]):
            torch.testing.assert_close(call(x), x.sum((1, 2, 3)))
    assert graphs() == 1


@pytest.mark.parametrize("required", [False, True])
def test_what_can_not_be_compiled_is_reported_once(monkeypatch, capfd, required):
    from torch._dynamo.exc import TorchDynamoException

    def broken(function, **settings):
        def call(x):
            raise TorchDynamoException("no compiler\nfound")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    call = Compiled(torch.neg, "default", key="train.compile", required=required)
    if required:
        with pytest.raises(UserError, match=r"train.compile: torch.compile can't run this .no compiler found"):
            call(torch.ones(2))
        return
    for _ in range(3):
        assert call(torch.ones(2)).tolist() == [-1, -1]
    assert call.mode == "off"
    assert capfd.readouterr().err.count("train.compile: torch.compile can't run this (no compiler found)") == 1


def test_errors_of_the_function_are_not_taken_for_the_compilers(graphs):
    call = Compiled(lambda x: x @ x, "default")
    with pytest.raises(RuntimeError, match=r"mat1 and mat2|size mismatch|shape"):
        call(torch.ones(2, 3))


class Learner(nn.Module):
    """All that a forward pass may leave behind: statistics, their counter, and a generator that moved."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 1))

    def forward(self, x):
        return self.layers(x).square().mean()

    def step(self, call):
        """Two batches of two sizes: losses, gradients, buffers, the generator's next number."""
        torch.manual_seed(1)
        losses = [call(torch.ones(size, 5) + torch.arange(size)[:, None]) for size in (4, 6)]
        sum(losses).backward()
        return [*losses, *(p.grad for p in self.parameters()), *self.buffers(), torch.rand(1)]


def fragile(monkeypatch, failures, backward=False):
    """torch.compile with a compiler that fails so many times, like a C++ compiler, and then works; how often it was
    called."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    calls = []

    def works(graph, inputs):
        return make_boxed_func(graph.forward)

    def fails(graph, inputs):
        calls.append(graph)
        if len(calls) <= failures:
            raise RuntimeError(
                "C++ compile error\n\nCommand:\ng++ x.cpp\n\nOutput:\nIn file x:\nx.h:1:2: fatal error: Python.h: No "
                "such file\ncompilation terminated."
            )
        return works(graph, inputs)

    backend = aot_autograd(fw_compiler=works if backward else fails, bw_compiler=fails if backward else works)
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, mode=None, **more: real(function, backend=backend, **more))
    torch._dynamo.reset()
    return calls


def test_compiling_leaves_no_trace_in_what_is_learned(monkeypatch):
    calls = fragile(monkeypatch, failures=0)
    plain, learner = Learner(), Learner()
    call = Compiled(learner.forward, "default", learner)
    for left, right in zip(plain.step(plain), learner.step(call), strict=True):
        assert torch.equal(left, right)
    assert len(calls) == 2 and call.mode == "default"


@pytest.mark.parametrize("backward", [False, True])
def test_a_compiler_that_was_hit_by_a_signal_is_called_again(monkeypatch, capfd, backward):
    calls = fragile(monkeypatch, failures=1, backward=backward)
    plain, learner = Learner(), Learner()
    call = Compiled(learner.forward, "default", learner)
    for left, right in zip(plain.step(plain), learner.step(call), strict=True):
        assert torch.equal(left, right)
    assert len(calls) == 3 and call.mode == "default" and capfd.readouterr().err == ""


@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize("backward", [False, True])
def test_a_pass_that_can_not_be_compiled_is_reported_before_it_counts(monkeypatch, capfd, backward, required):
    calls = fragile(monkeypatch, failures=99, backward=backward)
    plain, learner = Learner(), Learner()
    key = f"some.key{backward}"  # each line is printed once in a process
    call = Compiled(learner.forward, "default", learner, key=key, required=required)
    cause = f"{key}: torch.compile can't run this (C++ compile error: Python.h: No such file)"
    if required:
        with pytest.raises(UserError) as caught:
            learner.step(call)
        assert str(caught.value) == f"{cause}; turn it off"
        assert int(learner.layers[1].num_batches_tracked) == 0
        return
    for left, right in zip(plain.step(plain), learner.step(call), strict=True):
        assert torch.equal(left, right)
    assert len(calls) == 2 and call.mode == "off"
    assert capfd.readouterr().err == f"{cause}; going on without it\n"


@pytest.fixture
def unprepared(monkeypatch):
    """As in a process that has compiled nothing yet."""
    for function in (compiling.prepare, compiling._own_folder, compiling._warn_once):
        function.cache_clear()
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TORCH_LOGS"):
        monkeypatch.setenv(name, "")  # so that what is set meanwhile goes, too
        monkeypatch.delenv(name)
    yield
    compiling.prepare.cache_clear()


@pytest.mark.parametrize("place", ["/proc/self", "/proc/nothing/at/all", "file/within"])
def test_compiled_code_has_a_folder_wherever_it_was_to_go(unprepared, monkeypatch, tmp_path, capfd, place):
    (tmp_path / "file").write_bytes(b"")
    asked = str(tmp_path / place)  # an absolute place stays what it is
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", asked)
    compiling.prepare()
    folder = os.environ["TORCHINDUCTOR_CACHE_DIR"]
    assert folder != asked and os.access(folder, os.W_OK)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"TORCHINDUCTOR_CACHE_DIR: {asked} can't be written to (")
    assert line.endswith(f"; compiled code is kept in {folder}, and goes with this process")


def test_compiled_code_of_a_user_without_a_name_has_a_folder(unprepared, monkeypatch, tmp_path, capfd):
    def unknown():
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(getpass, "getuser", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    compiling.prepare()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / f"torchinductor_uid_{os.getuid()}")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("logs", ["", "+dynamo"])
def test_pytorchs_advice_is_shown_to_who_asks_for_it(unprepared, monkeypatch, logs):
    monkeypatch.setenv("TORCH_LOGS", logs)
    names = ("torch._inductor.utils", "torch._dynamo.convert_frame", "torch.utils.cpp_extension")
    for name in names:
        for logger in (logging.getLogger(name), logging.getLogger(name.rpartition(".")[0])):
            monkeypatch.setattr(logger, "level", logging.NOTSET)
            logger.manager._clear_cache()
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        compiling.prepare()
        for name in names:
            assert logging.getLogger(name).isEnabledFor(logging.WARNING) is bool(logs)
            warnings.warn_explicit("not enough SMs", UserWarning, "file", 1, module=name)
    assert len(shown) == (3 if logs else 0)


@pytest.mark.parametrize(
    ("asked", "device", "steps", "mode"),
    [
        ("auto", CPU, 10**6, "off"),
        ("auto", GPU, WORTH_STEPS - 1, "off"),
        ("auto", GPU, WORTH_STEPS, "default"),
        ("off", GPU, 10**6, "off"),
        ("default", CPU, 1, "default"),
        ("reduce-overhead", GPU, 1, "reduce-overhead"),
    ],
)
def test_auto_compiles_on_gpus_where_it_pays(asked, device, steps, mode):
    assert train_mode(asked, device, steps) == mode
    assert pays(device, steps) is (device == GPU and steps >= WORTH_STEPS)


@pytest.fixture
def backends():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before[1:]


def float32():
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


def test_float32_is_float32_in_products_and_convolutions(backends):
    set_backends(GPU, None)
    assert float32() == ("highest", False) and torch.backends.cudnn.benchmark
    set_backends(GPU, torch.bfloat16)
    assert float32() == ("high", True)
    with float32_of(GPU, None):
        assert float32() == ("highest", False)
    assert float32() == ("high", True)
    set_backends(GPU, None)
    set_backends(CPU, torch.bfloat16)  # which has no such switches
    assert float32() == ("highest", False)


def test_compiled_for_real_it_is_the_same_function():
    """Through the compiler that PyTorch has for this processor, where there is a C++ compiler."""
    from ffdr.models.compiling import why_not

    if why_not(CPU):
        pytest.skip("no C++ compiler")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3))
    call = FixedBatch(functools.partial(model), "eval.compile")
    x = torch.randn(6, 5)
    for count in (6, 2):
        torch.testing.assert_close(call(x[:count]), model(x[:count]))
