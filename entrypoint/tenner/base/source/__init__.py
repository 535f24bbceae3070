"""Base models that are not on this machine: from the Hugging Face Hub, the web or a bucket, into
the cache."""

from tenner.base.source.address import BaseAddress, parse_base_address
from tenner.base.source.cache import FetchedBase
from tenner.base.source.fetch import fetch_base
from tenner.base.source.heads import fetch_heads

__all__ = ["BaseAddress", "FetchedBase", "fetch_base", "fetch_heads", "parse_base_address"]
