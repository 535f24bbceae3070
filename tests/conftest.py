"""What all tests share: examples are judged by what they show, never by this machine's speed."""

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("tenner", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tenner")

# Tests run side by side, one for each core: threads of one would wait for those of another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_FIRST = ("tests/tiny/test_demo.py", "tests/engines/test_gpu_day.py", "tests/run/test_train.py")
"""The files whose tests take longest: last, they would run on one core while others are idle."""


@pytest.fixture(autouse=True)
def no_credentials_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program hides what was a credential of an address wherever it comes up again."""
    monkeypatch.setattr("tenner.core.addresses._hidden", set())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(_FIRST))
