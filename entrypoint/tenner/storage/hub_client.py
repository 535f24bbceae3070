"""The huggingface_hub client as tenner opens it, and its errors in the user's words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from tenner.core.errors import Problem
from tenner.core.messages import Message, msg
from tenner.core.retry import Deadline, PermanentError, TransientError
from tenner.core.secrets import Secrets
from tenner.storage.redirects import ServerGuard

T = TypeVar("T")
OFFLINE = "OfflineModeIsEnabled"
"""The code of the PermanentError that is raised where HF_HUB_OFFLINE is set."""
TOKENS_PAGE = "https://huggingface.co/settings/tokens"
_ANSWER_SECONDS = 60.0
_PASSING_STATUS = {408, 409, 412, 425, 429}
"""409 and 412: another commit came between. 429 is the answer to the hourly limit on commits
too."""


@dataclass(frozen=True, kw_only=True, repr=False)
class HubClient:
    """The library's client for one Hub, and the token that it uses (none for public reading)."""

    api: Any
    endpoint: str
    token: str | None

    def __repr__(self) -> str:
        return f"HubClient({self.endpoint})"


def open_hub_client(
    location: object,
    *,
    secrets: Secrets,
    env: Mapping[str, str],
    to_write: bool = False,
    signs_in: bool = True,
) -> HubClient:
    """A client with the run's token, else with the one that `hf auth login` left; with none where
    `signs_in` is off.

    `location` is what problems are about. Raises PermanentError where huggingface_hub is missing,
    or where `to_write` and no token is known.
    """
    try:
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.utils import (
            disable_progress_bars,
            logging,
        )
    except ImportError as error:
        problem = Problem(
            text=msg(
                "{location}: Hugging Face needs huggingface_hub, which is not installed",
                location=location,
            ),
            fix=msg("pip install 'tenner[hub]'"),
        )
        raise PermanentError(problem) from error
    disable_progress_bars()
    logging.set_verbosity_error()  # its warnings show addresses with signatures in them
    token = (secrets.hf_token or get_token()) if signs_in else None
    if to_write and not token:
        problem = Problem(
            text=msg("{location}: no token for Hugging Face was given", location=location),
            fix=msg(
                "set HF_TOKEN to a token with write access ({tokens_page})", tokens_page=TOKENS_PAGE
            ),
        )
        raise PermanentError(problem)
    endpoint = (env.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    api = HfApi(endpoint=endpoint, token=token or False, library_name="tenner")
    return HubClient(api=api, endpoint=endpoint, token=token)


def guard_redirects(endpoint: str) -> None:
    """Have the library's client follow no redirect into this machine's own network.

    Its client is one for the whole process, and is made anew after some errors: to be called before
    each use. The guard of another endpoint is replaced.
    """
    from huggingface_hub.utils import get_session

    session = cast(Any, get_session())
    hooks: dict[str, list[Any]] = session.event_hooks
    guard = ServerGuard(endpoint)
    if guard.before not in hooks.get("request", []):
        session.event_hooks = {
            "request": [*_without_guards(hooks.get("request", [])), guard.before],
            "response": [*_without_guards(hooks.get("response", [])), guard.after],
        }


def _without_guards(hooks: Sequence[Any]) -> list[Any]:
    return [each for each in hooks if not isinstance(getattr(each, "__self__", 0), ServerGuard)]


def call_hub(
    location: object,
    client: HubClient,
    deadline: Deadline,
    action: Callable[..., T],
    *given: Any,
    **more: Any,
) -> T:
    """`action(...)`, with the library's errors as TransientError or PermanentError."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import get_session

    deadline.check()
    guard_redirects(client.endpoint)
    get_session().timeout = _ANSWER_SECONDS  # the library itself would wait for ever
    # The base of its own errors is that of the HTTP library which it uses.
    http_error = cast(type[Exception], HfHubHTTPError.__bases__[0])
    try:
        return action(*given, **more)
    except (http_error, OSError, ValueError, RuntimeError) as error:
        raise explain(location, error) from error


def explain(location: object, error: BaseException) -> TransientError | PermanentError:
    """An error of the library as one that may pass, or as a refusal with its fix."""
    if isinstance(error, PermanentError):
        return error  # of the guard, in one of several uploads
    answer = getattr(error, "response", None)
    if answer is not None:
        headers = cast(Mapping[str, str], answer.headers)
        return _explain_answer(location, int(answer.status_code), headers, error)
    if isinstance(error, RuntimeError) and error.__cause__:  # one of several uploads
        return explain(location, error.__cause__)
    match type(error).__name__:
        case "LocalEntryNotFoundError" if error.__cause__:
            return explain(location, error.__cause__)
        case "OfflineModeIsEnabled":
            text, fix = msg("HF_HUB_OFFLINE is set"), msg("unset it: this needs the network")
            return PermanentError(
                Problem(text=msg("{location}: {text}", location=location, text=text), fix=fix),
                code=OFFLINE,
            )
        case "HFValidationError":
            text, fix = _first_line(error), msg("use hf://user/repo")
        case "LocalTokenNotFoundError":
            text, fix = (
                msg("no token was given"),
                msg("set HF_TOKEN ({tokens_page})", tokens_page=TOKENS_PAGE),
            )
        case "ValueError":
            text, fix = _first_line(error), msg("look at what is delivered, and at the repo's page")
        case _:
            return TransientError(
                msg(
                    "{name}: {first_line}", name=type(error).__name__, first_line=_first_line(error)
                )
            )
    return PermanentError(
        Problem(text=msg("{location}: {text}", location=location, text=text), fix=fix)
    )


def _explain_answer(
    location: object, status: int, headers: Mapping[str, str], error: BaseException
) -> TransientError | PermanentError:
    code = headers.get("X-Error-Code", "")
    message = headers.get("X-Error-Message", "").strip() or _first_line(error)
    if status >= 500 or status in _PASSING_STATUS:
        return TransientError(
            msg("Hugging Face answered {status}: {message}", status=status, message=message)
        )
    text, fix = _meaning(status, code, message)
    return PermanentError(
        Problem(text=msg("{location}: {text}", location=location, text=text), fix=fix),
        code=code or str(status),
    )


def _meaning(status: int, code: str, message: str) -> tuple[Message, Message]:
    """What is wrong and what to do, by what the Hub answered."""
    lower = message.lower()
    if code == "GatedRepo":
        return msg("this repo is gated ({message})", message=message), msg(
            "open its page, accept its terms, and try again"
        )
    if code == "RepoNotFound":
        return msg("there is no such repo, or this token may not see it"), msg(
            "check its name and HF_TOKEN"
        )
    if code == "RevisionNotFound":
        return msg("there is no such branch or revision"), msg(
            "check the part after @ or revision="
        )
    if code == "EntryNotFound":
        return msg("there is no such file in the repo"), msg("check the path, letter for letter")
    if status == 401:
        return msg("Hugging Face does not know this token"), msg(
            "check HF_TOKEN ({tokens_page})", tokens_page=TOKENS_PAGE
        )
    if "storage" in lower or "quota" in lower:
        return msg("the storage there is full ({message})", message=message), msg(
            "free space there, or use another destination"
        )
    if status in {402, 403}:
        fix = msg(
            "use a token with write access to this repo ({tokens_page})", tokens_page=TOKENS_PAGE
        )
        return msg("access denied ({message})", message=message), fix
    return msg("Hugging Face answered {status}: {message}", status=status, message=message), msg(
        "look at the repo's page"
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
