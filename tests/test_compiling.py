"""torch.compile as ffdr uses it: a graph per size, a graph per model, filled-up batches, and no end of the run if it
fails."""

import functools

import pytest
import torch
from torch import nn

from ffdr.compiling import WORTH_STEPS, Compiled, FixedBatch, float32_of, pays, set_backends, train_mode
from ffdr.errors import UserError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_every_size_has_its_own_static_graph(graphs):
    call = Compiled(lambda x: x * 2, "default", sizes=3)
    for size in (4, 5, 6, 4, 5, 6):
        assert torch.equal(call(torch.ones(2, size)), torch.full((2, size), 2.0))
    assert graphs() == 3  # one that serves any size would come second, and last


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


@pytest.mark.parametrize("required", [False, True])
def test_what_can_not_be_compiled_is_told_once(monkeypatch, capfd, required):
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
    from ffdr.compiling import why_not

    if why_not(CPU):
        pytest.skip("no C++ compiler")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3))
    call = FixedBatch(functools.partial(model), "eval.compile")
    x = torch.randn(6, 5)
    for count in (6, 2):
        torch.testing.assert_close(call(x[:count]), model(x[:count]))
