"""One call of a host's API: the request, which errors are transient, and which are not."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tenacity import stop_after_attempt, stop_after_delay

from tenner.core.messages import msg
from tenner.core.retry import retry_policy
from tenner.core.secrets import redact_shapes

_TRANSIENT = frozenset((408, 425, 429))
_CALL_SECONDS = 15.0
_REFUSALS_TRIED = 3


class HostError(Exception):
    """The host's API refused or failed. `is_transient` where another try may help."""

    def __init__(self, text: str, *, status: int = 0, is_transient: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.is_transient = is_transient


@dataclass(frozen=True, kw_only=True)
class ApiRequest:
    """A request: its path below the API's address, and the JSON it carries."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None


def call(
    request: ApiRequest, *, url: str, key: str, limit_seconds: float, waits: float = 1.0
) -> Any:
    """The answer's JSON (None where it has none). Transient errors are retried for `limit_seconds`,
    refusals twice. `waits` scales the pauses. Raises HostError."""
    again = retry_policy(
        lambda error: isinstance(error, HostError),
        stop_after_delay(limit_seconds) | _Refused(_REFUSALS_TRIED),
        first_seconds=0.5 * waits,
        longest_seconds=20 * waits,
    )
    return again(
        lambda: _once(request, url=url, key=key, seconds=min(_CALL_SECONDS, limit_seconds))
    )


class _Refused(stop_after_attempt):
    """Stops retrying what is refused; transient errors are retried until the time is over."""

    def __call__(self, retry_state: Any) -> bool:
        error = retry_state.outcome.exception()
        is_transient = isinstance(error, HostError) and error.is_transient
        return not is_transient and super().__call__(retry_state)


def _once(request: ApiRequest, *, url: str, key: str, seconds: float) -> Any:
    import httpx  # `plan` imports this module and sends nothing

    headers = {"Authorization": f"Bearer {key}", "Accept": "application/json"}
    try:
        answer = httpx.request(
            request.method,
            url.rstrip("/") + request.path,
            headers=headers,
            json=dict(request.body) if request.body is not None else None,
            timeout=seconds,
        )
    except httpx.TimeoutException as error:
        raise HostError(
            msg("no answer within {seconds} s", seconds=f"{seconds:.0f}"), is_transient=True
        ) from error
    except httpx.HTTPError as error:
        text = redact_shapes(str(error)) or type(error).__name__
        raise HostError(text, is_transient=True) from error
    if answer.is_success:
        try:
            return answer.json()
        except ValueError:
            return None
    status = answer.status_code
    body = redact_shapes(answer.text.strip().splitlines()[0][:200] if answer.text.strip() else "")
    raise HostError(
        msg("HTTP {status}{what}", status=status, what=msg(": {body}", body=body) if body else ""),
        status=status,
        is_transient=status >= 500 or status in _TRANSIENT,
    )
