"""The rented machine that this runs on: what it costs, and how it is stopped or removed."""

from tenner.hosts.api import HostError
from tenner.hosts.ending import fetch_price, check_ending, end_host
from tenner.hosts.host import Host, find_host

__all__ = ["Host", "HostError", "fetch_price", "check_ending", "end_host", "find_host"]
