"""Which S3 server to use: endpoint addresses in all the shapes people paste.

AWS needs none. For the others the region is often in the host's name, and only path-style
addressing is certain to work without wildcard DNS.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from tenner.core.messages import msg

ENDPOINT_HOSTS = re.compile(
    r"(?:^|\.)(?:s3[.-].*amazonaws\.com(?:\.cn)?|s3\.amazonaws\.com|r2\.cloudflarestorage\.com"
    r"|backblazeb2\.com|wasabisys\.com|digitaloceanspaces\.com|storage\.googleapis\.com"
    r"|scw\.cloud|linodeobjects\.com|your-objectstorage\.com|s3[.-][a-z0-9.-]+)$"
)
"""Hosts that are known to speak S3, or whose name begins with one of these words."""

_REGION_IN_HOST = (
    re.compile(r"(?:^|\.)s3[.-]([a-z0-9-]+)\.(?:backblazeb2|wasabisys|scw)\."),
    re.compile(r"(?:^|\.)s3[.-]([a-z]{2}(?:-[a-z]+)+-\d)\.amazonaws\.com"),
    re.compile(r"(?:^|\.)([a-z]{3}\d)\.digitaloceanspaces\.com$"),
    re.compile(r"(?:^|\.)([a-z]{2}-[a-z]+-\d)\.linodeobjects\.com$"),
    re.compile(r"(?:^|\.)([a-z]{3}\d)\.your-objectstorage\.com$"),
)

_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "S3_ENDPOINT_URL", "S3_ENDPOINT")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """`url` is None for AWS itself; `region` None where the client's own chain decides."""

    url: str | None
    region: str | None
    path_style: bool

    @property
    def is_tamper_proof(self) -> bool:
        """Whether nobody on the way can change what is sent: over TLS, or on this machine."""
        parts = urlsplit(self.url or "https://")
        host = parts.hostname or ""
        is_here = ipaddress.ip_address(host).is_loopback if _is_address(host) else False
        return parts.scheme == "https" or host == "localhost" or is_here


def find_endpoint(
    bucket: str,
    *,
    requested: str | None = None,
    region: str | None = None,
    env: Mapping[str, str],
) -> Endpoint:
    """The server that holds `bucket`: the destination's (`requested`), else the environment's.

    Raises ValueError in the user's words where the address cannot be read.
    """
    text = requested or next((env[name] for name in _VARIABLES if env.get(name, "").strip()), "")
    region = region or env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or None
    if not text.strip():
        return Endpoint(url=None, region=region, path_style=False)
    scheme, host, port = _parts(text.strip().strip("\"'"))
    host = host.removeprefix(f"{bucket}.") if not _is_address(host) else host
    found = next((match[1] for rule in _REGION_IN_HOST if (match := rule.search(host))), None)
    if host.endswith(("amazonaws.com", "amazonaws.com.cn")):
        return Endpoint(url=None, region=found or region, path_style=False)
    if host.endswith(".r2.cloudflarestorage.com"):
        found = "auto"
    address = f"[{host}]" if ":" in host else host
    url = f"{scheme}://{address}" + (f":{port}" if port else "")
    return Endpoint(url=url, region=found or region or "us-east-1", path_style=True)


def bucket_in_host(host: str) -> tuple[str, str]:
    """Split a virtual-hosted address: `b.s3.eu-west-1.amazonaws.com` holds the bucket `b`."""
    rules = (
        r"(?:(?P<bucket>.+)\.)?(?P<end>s3[.-](?:.*\.)?amazonaws\.com(?:\.cn)?)",
        r"(?:(?P<bucket>.+)\.)?(?P<end>[0-9a-f]{32}(?:\.\w+)?\.r2\.cloudflarestorage\.com)",
        r"(?:(?P<bucket>.+)\.)?(?P<end>s3[.-][a-z0-9-]+\.(?:backblazeb2|wasabisys|scw)\.\w+)",
        r"(?:(?P<bucket>.+)\.)?(?P<end>[a-z]{3}\d\.(?:digitaloceanspaces|your-objectstorage)\.com)",
        r"(?:(?P<bucket>.+)\.)?(?P<end>storage\.googleapis\.com)",
    )
    for rule in rules:
        if match := re.fullmatch(rule, host):
            return match["bucket"] or "", match["end"]
    return "", host


def _parts(text: str) -> tuple[str, str, int | None]:
    """Scheme, host and port. A path (a console's link to the bucket) is left out."""
    with_scheme = text if "://" in text else f"//{text}"
    parts = urlsplit(with_scheme)
    try:
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        host, port = "", None
    if not host or not re.fullmatch(r"[a-z0-9._:-]+", host):
        raise ValueError(msg("the S3 endpoint cannot be read"))
    if parts.scheme and parts.scheme not in {"http", "https"}:
        raise ValueError(
            msg(
                "the S3 endpoint begins with {scheme}://; it needs https:// or http://",
                scheme=parts.scheme,
            )
        )
    return parts.scheme or ("http" if _is_near(host, port) else "https"), host, port


def _is_near(host: str, port: int | None) -> bool:
    """A server on this machine or network, where plain http is the rule."""
    if _is_address(host):
        return ipaddress.ip_address(host).is_private
    return (
        host == "localhost"
        or "." not in host
        or host.endswith((".local", ".internal"))
        or (port in {9000, 8080, 8333, 3900})
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
