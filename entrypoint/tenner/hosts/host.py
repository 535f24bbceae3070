"""Which host this is, by the environment of its containers, and the price of an hour.

RunPod: `RUNPOD_POD_ID` and a key for this pod in `RUNPOD_API_KEY`
(docs.runpod.io, "Pod environment variables"; REST API at rest.runpod.io/v1).
Vast.ai: `CONTAINER_ID` (or `VAST_CONTAINERLABEL=C.ID`) and a key for this instance in
`CONTAINER_API_KEY` (docs.vast.ai, "Docker execution environment"; API at console.vast.ai/api/v0).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from tenner.core.messages import msg
from tenner.core.secrets import Secrets
from tenner.hardware.prices import Price
from tenner.hosts.api import ApiRequest, HostError, call

Action = Literal["none", "stop", "remove"]
URL_VARIABLE = "TENNER_HOST_API"
"""Overrides the address of the host's API, for a proxy or a test's server."""
_PRICE_SECONDS = 15.0


@dataclass(frozen=True, kw_only=True, repr=False)
class Host:
    """A rented machine. `provider` is its name in the price book, `page` the address where the
    user can stop it. `key` is the pod's own; it is sent to `url` and never shown.
    """

    name: str
    provider: str
    pod: str
    url: str
    page: str
    key: str
    key_name: str
    fetch_status: ApiRequest
    end: Mapping[Action, ApiRequest]
    read_price: Callable[[Any], float | None]

    def __repr__(self) -> str:
        return f"Host({self.name}, {self.pod})"

    def __str__(self) -> str:
        return f"{self.name} {self.pod}"


def find_host(environ: Mapping[str, str], secrets: Secrets) -> Host | None:
    """The host that this container runs on, None where there is none."""
    other = environ.get(URL_VARIABLE, "").strip()
    if pod := environ.get("RUNPOD_POD_ID", "").strip():
        path = f"/pods/{pod}"
        return Host(
            name="RunPod pod",
            provider="runpod",
            pod=pod,
            url=other or "https://rest.runpod.io/v1",
            page="https://console.runpod.io/pods",
            key=secrets.get("RUNPOD_API_KEY") or "",
            key_name="RUNPOD_API_KEY",
            fetch_status=ApiRequest(method="GET", path=path),
            end={
                "stop": ApiRequest(method="POST", path=f"{path}/stop"),
                "remove": ApiRequest(method="DELETE", path=path),
            },
            read_price=_runpod_price,
        )
    label = environ.get("VAST_CONTAINERLABEL", "").strip().removeprefix("C.")
    is_vast = bool(label) or "CONTAINER_API_KEY" in environ
    instance = environ.get("CONTAINER_ID", "").strip() or label
    if is_vast and instance.isdigit():
        path = f"/instances/{instance}/"
        own = secrets.get("CONTAINER_API_KEY")
        return Host(
            name="Vast.ai instance",
            provider="vast",
            pod=instance,
            url=other or "https://console.vast.ai/api/v0",
            page="https://cloud.vast.ai/instances/",
            key=own or secrets.get("VAST_API_KEY") or "",
            key_name="CONTAINER_API_KEY" if own else "VAST_API_KEY",
            fetch_status=ApiRequest(method="GET", path=path),
            end={
                "stop": ApiRequest(method="PUT", path=path, body={"state": "stopped"}),
                "remove": ApiRequest(method="DELETE", path=path),
            },
            read_price=_vast_price,
        )
    return None


def price_of_host(host: Host, *, limit_seconds: float = _PRICE_SECONDS) -> Price | None:
    """The price of this machine by the host's API; None where it has none. Raises HostError."""
    if not host.key:
        raise HostError(msg("{key_name} is not set", key_name=host.key_name))
    answer = call(host.fetch_status, url=host.url, key=host.key, limit_seconds=limit_seconds)
    usd = host.read_price(answer)
    if usd is None:
        return None
    return Price(
        usd_per_hour=usd,
        kind="host",
        provider=host.provider,
        source=msg("{name}'s own API", name=host.name),
    )


def _runpod_price(answer: Any) -> float | None:
    """`adjustedCostPerHr` includes savings plans, `costPerHr` does not; both may be text."""
    table = _table(answer)
    found = (_usd(table.get(key)) for key in ("adjustedCostPerHr", "costPerHr"))
    return next((usd for usd in found if usd), None)


def _vast_price(answer: Any) -> float | None:
    """`dph_total`: dollars per hour with storage."""
    table = _table(answer)
    inner: Any = table.get("instances", table)
    if isinstance(inner, list):
        listed = cast("list[Any]", inner)
        inner = listed[0] if listed else {}
    return _usd(_table(inner).get("dph_total"))


def _table(answer: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", answer) if isinstance(answer, dict) else {}


def _usd(value: Any) -> float | None:
    try:
        usd = float(value)
    except (TypeError, ValueError):
        return None
    return usd if 0 < usd < 1000 else None
