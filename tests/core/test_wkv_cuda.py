"""Which form of the WKV a CUDA tensor gets, and Triton's kernels in its interpreter."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from imlctl.core import wkv, wkv_cuda
from imlctl.core.wkv import bi_wkv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

HERE = Path(__file__).parent
# Runs tests of the operator with the kernels in the place of the plain form, on the processor.
# Small tiles make several of them out of short inputs; the interpreter takes its time for each.
IN_THE_INTERPRETER = """
import sys
import pytest, torch
from imlctl.core import wkv_cuda, wkv_triton

if sys.argv[1] == "small":
    wkv_triton._CHANNELS, wkv_triton._TOKENS, wkv_triton._CHUNKS = 4, 64, 2
    wkv_cuda._TRIED = (((2, 7, 100), True), ((1, 3, 300), False))
else:
    wkv_cuda._TRIED = (((1, 3, 16_400), False),)
calls = 0
kernels = wkv_triton.bi_wkv
def counted(*args):
    global calls
    calls += 1
    return kernels(*args)
wkv_triton.bi_wkv = counted
library = torch.library.Library("imlctl", "IMPL")
library.impl("bi_wkv", wkv_cuda.bi_wkv, "CPU")
failed = pytest.main(["-q", "-x", "-p", "no:cacheprovider", *sys.argv[2:]])
print("calls", calls, "given up", wkv_cuda._off.is_set())
sys.exit(failed)
"""


def on_cuda(args: list[Tensor]) -> Tensor:
    """Compute as the operator does for CUDA tensors, with tensors of the processor."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    return torch.ops.imlctl.bi_wkv.default.redispatch(keys, *args)  # type: ignore[no-any-return]


def inputs(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(5,), (5,), (2, 5, 33), (2, 5, 33)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


class Kernels:
    """In the place of Triton's: right, unless told otherwise; counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0
        self.wrong: Callable[[Tensor], Tensor] = lambda y: y

    def __call__(self, *args: Tensor) -> Tensor:
        self.calls += 1
        return self.wrong(wkv._bi_wkv(*args))


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernels]:
    made = Kernels()
    monkeypatch.delenv(wkv_cuda.SWITCH, raising=False)
    monkeypatch.setattr(wkv_cuda, "_present", lambda: True)
    monkeypatch.setattr(wkv_cuda, "_kernels", lambda: made)
    wkv_cuda._proven.cache_clear()
    yield made
    wkv_cuda._proven.cache_clear()
    wkv_cuda._off.clear()


def fail(y: Tensor) -> Tensor:
    raise RuntimeError("no such instruction\nin line 3")


TRIALS = len(wkv_cuda._TRIED)


def test_kernels_that_prove_right_are_used(kernels: Kernels) -> None:
    args = inputs()
    for _ in range(3):
        assert torch.equal(on_cuda(args), wkv._bi_wkv(*args))
    assert kernels.calls == TRIALS + 3  # tried once, then trusted
    kernels.wrong = lambda y: y + 7
    assert torch.equal(on_cuda(args), wkv._bi_wkv(*args) + 7)  # so it is their answer


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (fail, "RuntimeError: no such instruction"),
        (lambda y: y * 1.001, "differ from it by 1.0e-03 on cpu"),
        (lambda y: y.index_fill(-1, torch.tensor([y.shape[-1] - 1]), 0), "differ from it by"),
        (lambda y: y.index_fill(-1, torch.tensor([3]), torch.nan), "differ from it by nan"),
    ],
)
def test_what_fails_or_disagrees_is_off_and_says_so(
    kernels: Kernels,
    wrong: Callable[[Tensor], Tensor],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kernels.wrong = wrong
    args = inputs()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert torch.equal(on_cuda(args), wkv._bi_wkv(*args))
    assert kernels.calls == 1
    [record] = caplog.records  # once, and in one line
    assert "the Triton kernels of the WKV are off, its plain form is used" in record.message
    assert reason in record.message
    assert "\n" not in record.message


def test_a_failure_after_the_trial_is_survived_too(
    kernels: Kernels, caplog: pytest.LogCaptureFixture
) -> None:
    args = inputs()
    on_cuda(args)
    kernels.wrong = fail
    for _ in range(2):
        assert torch.equal(on_cuda(args), wkv._bi_wkv(*args))
    assert kernels.calls == TRIALS + 2
    assert len(caplog.records) == 1


def test_want_of_memory_is_no_fault_of_the_kernels(kernels: Kernels) -> None:
    def exhaust(y: Tensor) -> Tensor:
        raise torch.cuda.OutOfMemoryError("out of memory")

    on_cuda(inputs())
    kernels.wrong = exhaust
    with pytest.raises(torch.cuda.OutOfMemoryError):
        on_cuda(inputs())
    assert not wkv_cuda._off.is_set()


def test_the_switch_keeps_to_the_plain_form(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(wkv_cuda.SWITCH, "0")
    assert torch.equal(on_cuda(inputs()), wkv._bi_wkv(*inputs()))
    assert kernels.calls == 0


def test_without_triton_nothing_is_tried_or_said(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wkv_cuda, "_present", lambda: False)
    assert torch.equal(on_cuda(inputs()), wkv._bi_wkv(*inputs()))
    assert kernels.calls == 0
    assert not caplog.records


def test_double_precision_is_left_to_the_plain_form(kernels: Kernels) -> None:
    args = inputs(torch.float64)
    assert torch.equal(on_cuda(args), wkv._bi_wkv(*args))
    assert kernels.calls == 0


def test_the_trial_leaves_the_random_numbers_alone(kernels: Kernels) -> None:
    before = torch.get_rng_state()
    on_cuda(inputs())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_processor_never_asks(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(wkv_cuda, "_suits", lambda *args: asked.append(args))
    bi_wkv(*inputs())
    assert not asked
    on_cuda(inputs())
    assert asked  # so the test would have seen it
    assert kernels.calls == 0


@pytest.mark.timeout(900)
@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="triton is not installed")
@pytest.mark.parametrize(
    ("tiles", "tests"),
    [
        ("small", "not linear_time"),  # a time would be the interpreter's
        ("real", "agrees_with_its_definition or bfloat16"),
    ],
)
def test_kernels_pass_the_operators_tests_in_the_interpreter(tiles: str, tests: str) -> None:
    tests = f"({tests}) and not TestBiWKV6"
    done = subprocess.run(
        [sys.executable, "-c", IN_THE_INTERPRETER, tiles, str(HERE / "test_wkv.py"), "-k", tests],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    calls, given_up = done.stdout.splitlines()[-1].split()[1::3]
    assert given_up == "False", done.stderr
    assert int(calls) > 15


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="triton is not installed")
@pytest.mark.parametrize("capability", [75, 80, 90])
@pytest.mark.parametrize("channels_last", [True, False])
def test_kernels_compile_for_graphics_cards(
    capability: int, channels_last: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one: the compiler refuses things that the interpreter takes."""
    import triton
    from triton.backends.compiler import GPUTarget

    from imlctl.core import wkv_triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    fixed = {"LIMIT": 60.0, "LEAST": 1e-20, "C": 8, "L": 256}
    ones = dict.fromkeys(("key_c", "value_c") if channels_last else ("key_t", "value_t"), 1)
    for kernel, more in ((wkv_triton._summarise, {}), (wkv_triton._mix, {"N": 64})):
        constants = fixed | ones | more
        pointers = ("decay", "bonus", "key", "value", "facts", "out")
        types = {n: "*fp32" if n in pointers else "i32" for n in kernel.arg_names}
        source = triton.compiler.ASTSource(
            fn=kernel,
            signature=types | dict.fromkeys(constants, "constexpr"),
            constexprs={(kernel.arg_names.index(n),): v for n, v in constants.items()},
        )
        target = GPUTarget("cuda", capability, 32)
        built = triton.compile(source, target=target, options=wkv_triton._BUILD)
        assert f".target sm_{capability}" in built.asm["ptx"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="triton is not installed")
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 11, 777), (3, 16, 4096), (1, 128, 16_384)])
def test_kernels_agree_with_the_plain_form_on_a_graphics_card(shape: tuple[int, int, int]) -> None:
    from imlctl.core import wkv_triton

    generator = torch.Generator().manual_seed(0)
    decay, bonus = (torch.randn(shape[1], generator=generator) * 20 for _ in range(2))
    key, value = (torch.randn(shape, generator=generator) * 2 for _ in range(2))
    args = [x.cuda() for x in (decay, bonus, key, value)]
    expected = wkv._bi_wkv(*(x.double() for x in args))
    error = (wkv_triton.bi_wkv(*args).double() - expected).abs().amax() / expected.abs().amax()
    assert float(error) < 2e-5
