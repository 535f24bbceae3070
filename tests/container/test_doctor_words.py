"""`tenner doctor` says each look as it happens, and a word while it waits."""

import threading

import pytest

from tenner.cli import doctor


def test_a_long_look_is_reported_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "WORD_SECONDS", 0.01)
    ready, heard = threading.Event(), list[str]()

    def say(text: str) -> None:
        heard.append(text)
        if text.startswith("  still looking at the disk: "):
            ready.set()

    found = doctor._waiting("the disk", lambda: ready.wait(60), say)
    assert found is True
    assert heard[0] == "looking at the disk"
    assert heard[1].startswith("  still looking at the disk: ")


def test_what_a_look_raises_comes_out() -> None:
    with pytest.raises(ZeroDivisionError):
        doctor._waiting("zero", lambda: 1 // 0, lambda text: None)
