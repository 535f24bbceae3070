"""The rented machine that this runs on: what it costs, and how it is stopped or removed."""

from tenner.hosts.api import HostError
from tenner.hosts.ending import check_ending, end_host, fetch_price
from tenner.hosts.host import Host, find_host

__all__ = ["Host", "HostError", "check_ending", "end_host", "fetch_price", "find_host"]
