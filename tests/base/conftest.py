"""Servers on loopback that hold base models."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "delivery"))

from servers.hub_server import Hub, hub_server
from servers.hub_state import Account

from tests.base.base_servers import TOKEN, Site, web_site


@pytest.fixture
def site() -> Iterator[Site]:
    with web_site() as site:
        yield site


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as hub:
        hub.state.tokens[TOKEN] = Account("me")
        yield hub
