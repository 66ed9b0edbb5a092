from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from imlctl.device import (
    autocast,
    available,
    bfloat16_pays,
    describe,
    make_deterministic,
    resolve,
    side_by_side,
    upload,
)
from imlctl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that this machine has two CUDA cards and nothing else."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    monkeypatch.setattr("torch.xpu.is_available", lambda: False)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that this machine has no accelerator."""
    for name in ("cuda", "backends.mps", "xpu"):
        monkeypatch.setattr(f"torch.{name}.is_available", lambda: False)


@pytest.fixture
def restored() -> Iterator[None]:
    """Put the global switches of torch back."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.benchmark, cudnn.deterministic, matmul.allow_tf32, cudnn.allow_tf32)
    yield
    cudnn.benchmark, cudnn.deterministic, matmul.allow_tf32, cudnn.allow_tf32 = before


def test_the_processor_is_always_there_and_comes_last() -> None:
    assert available()[-1] == "cpu"


@pytest.mark.usefixtures("bare")
def test_without_accelerators_auto_is_the_processor() -> None:
    assert available() == ("cpu",)
    assert resolve() == resolve("auto") == resolve("cpu") == torch.device("cpu")


@pytest.mark.usefixtures("two_cards")
def test_auto_takes_the_best() -> None:
    assert available() == ("cuda", "cpu")
    assert resolve("auto") == torch.device("cuda")
    assert resolve("cuda:1") == torch.device("cuda", 1)
    assert resolve("cpu") == torch.device("cpu")


@pytest.mark.usefixtures("two_cards")
def test_an_index_beyond_the_last() -> None:
    with pytest.raises(UsageError, match=r"there is no device 'cuda:2'\. Highest index here: 1"):
        resolve("cuda:2")


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "xpu", "meta"])
def test_a_device_this_machine_lacks(name: str) -> None:
    with pytest.raises(UsageError, match=r"no usable '.*' device\. Usable here: cpu\."):
        resolve(name)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:one", "cpu:-1", "CPU ", "tpu"])
def test_a_name_that_means_nothing(name: str) -> None:
    with pytest.raises(
        UsageError, match=r"unknown device '.*'\. Use auto or one of cuda, mps, xpu"
    ):
        resolve(name)


def test_there_is_one_processor() -> None:
    assert resolve("cpu:0").type == "cpu"
    with pytest.raises(UsageError, match="there is no device 'cpu:1'"):
        resolve("cpu:1")


@pytest.mark.usefixtures("restored")
def test_deterministic_switches() -> None:
    torch.backends.cudnn.benchmark = True
    make_deterministic()
    assert not torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


def test_description(monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe(torch.device("cpu")) == "cpu"
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "Card 9000")
    assert describe(torch.device("cuda", 1)) == "cuda:1 (Card 9000)"


@pytest.mark.parametrize(("capability", "pays"), [("AVX2", False), ("AVX512", True)])
def test_bfloat16_is_used_where_it_is_not_emulated(
    monkeypatch: pytest.MonkeyPatch, capability: str, pays: bool
) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    product = torch.ones(2, 2)
    with autocast(torch.device("cpu"), "bfloat16"):
        assert (product @ product).dtype == (torch.bfloat16 if pays else torch.float32)
    with autocast(torch.device("cpu"), "float32"):
        assert (product @ product).dtype == torch.float32
    assert bfloat16_pays(torch.device("cuda"))


class OnHost:
    """Stands for a tensor on the host, and keeps what is asked of it."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.asked: list[object] = []

    def pin_memory(self) -> OnHost:
        self.asked.append("pin")
        return self

    def to(self, device: torch.device, *, non_blocking: bool = False) -> OnHost:
        self.asked.append((str(device), non_blocking))
        return self


def test_what_goes_to_a_card_is_pinned_and_nobody_waits() -> None:
    values = OnHost()
    upload(values, torch.device("cuda:1"))  # type: ignore[arg-type]
    assert values.asked == ["pin", ("cuda:1", True)]


def test_what_stays_on_the_processor_is_not_copied() -> None:
    values = torch.zeros(3)
    assert upload(values, torch.device("cpu")) is values


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_side_by_side_keeps_the_order_and_shares_out_the_threads(workers: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        made = list(side_by_side(lambda n: (n, torch.get_num_threads()), range(7), workers))
        assert made == [(n, {1: 4, 2: 2, 3: 1}[workers]) for n in range(7)]
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
