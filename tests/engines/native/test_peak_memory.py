"""The reported peak is that of the steps after the first, without what was allocated before."""

import pytest
import torch

from tenner.core.events import Event, MemoryUsed
from tenner.engines.native.peak_memory import PeakMemory


class Allocator:
    """A card's allocator: the memory allocated now and at the peak, as torch.cuda returns it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.peak = 0
        for name in ("synchronize", "empty_cache"):
            monkeypatch.setattr(torch.cuda, name, lambda *_: None)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", self.reset)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: self.peak)
        monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: self.peak + 1)

    def take(self, size: int) -> None:
        self.peak = max(self.peak, self.now + size)

    def reset(self, device: torch.device) -> None:
        self.peak = self.now


def test_the_peak_of_the_steps_after_the_first_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    card, events = Allocator(monkeypatch), list[Event]()
    memory = PeakMemory(torch.device("cuda"), events.append)
    card.take(90)  # the VAE
    memory.report(0)
    card.take(70)  # the first step, with the search
    memory.after_step(21)
    memory.report(21)
    assert events == []
    card.take(40)
    memory.after_step(22)
    assert events == [MemoryUsed(step=22, allocated_bytes=40, reserved_bytes=41)]
    card.take(45)  # another bucket
    memory.after_step(23)
    memory.report(23)
    assert events[1:] == [MemoryUsed(step=23, allocated_bytes=45, reserved_bytes=46)]


def test_on_a_cpu_nothing_is_reported() -> None:
    events: list[Event] = []
    memory = PeakMemory(torch.device("cpu"), events.append)
    for step in (1, 2, 3):
        memory.after_step(step)
    memory.report(3)
    assert events == []
