"""The S3 client (boto3's) as tenner opens it, and its errors in the user's words."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.core.retry import Deadline, PermanentError, TransientError
from tenner.core.secrets import Secrets
from tenner.storage.destination import Destination
from tenner.storage.endpoint import Endpoint
from tenner.storage.s3_refusals import explain_answer

NUM_CONNECTIONS = 8
_CONNECT_SECONDS = 10
_READ_SECONDS = 60  # completing a large multipart upload may take this long to be answered

Answer = dict[str, Any]


class S3Client(Protocol):
    """The calls that are used of the client, which has no types of its own."""

    def put_object(self, **arguments: Any) -> Answer: ...
    def get_object(self, **arguments: Any) -> Answer: ...
    def head_object(self, **arguments: Any) -> Answer: ...
    def delete_object(self, **arguments: Any) -> Answer: ...
    def list_objects_v2(self, **arguments: Any) -> Answer: ...
    def create_multipart_upload(self, **arguments: Any) -> Answer: ...
    def upload_part(self, **arguments: Any) -> Answer: ...
    def list_parts(self, **arguments: Any) -> Answer: ...
    def list_multipart_uploads(self, **arguments: Any) -> Answer: ...
    def complete_multipart_upload(self, **arguments: Any) -> Answer: ...
    def abort_multipart_upload(self, **arguments: Any) -> Answer: ...
    def generate_presigned_url(self, method: str, **arguments: Any) -> str: ...


def open_client(
    destination: Destination,
    endpoint: Endpoint,
    *,
    secrets: Secrets,
    env: Mapping[str, str],
    signs_payload: bool,
) -> S3Client:
    """A client with the usual AWS settings: keys, profiles, roles, whatever its chain finds.

    `signs_payload` signs the SHA-256 of every body too, as is always done over plain HTTP.

    Keys given as secrets win, unless the destination names a profile. Raises PermanentError.
    """
    try:
        import s3transfer.manager  # noqa: F401  # pyright: ignore  (slow to import: before any deadline)
        from boto3.session import Session  # pyright: ignore[reportMissingTypeStubs]
        from botocore.config import Config  # pyright: ignore[reportMissingTypeStubs]
        from botocore.exceptions import (  # pyright: ignore[reportMissingTypeStubs]
            BotoCoreError,
        )
    except ImportError as error:
        problem = Problem(
            text=msg(
                "{destination}: delivering to S3 needs boto3, which is not installed",
                destination=destination,
            ),
            fix=msg("pip install 'tenner[s3]'"),
        )
        raise PermanentError(problem) from error
    is_signed = signs_payload or not endpoint.is_tamper_proof
    addressing = destination.addressing or ("path" if endpoint.path_style else "auto")
    config = Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        max_pool_connections=NUM_CONNECTIONS + 2,
        retries={"mode": "standard", "total_max_attempts": 2},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": addressing, "payload_signing_enabled": is_signed},
        signature_version="s3v4",
    )
    own_keys = {} if destination.profile else _keys(secrets)
    profile = destination.profile or (None if own_keys else env.get("AWS_PROFILE") or None)
    try:
        session = Session(profile_name=profile)
        make = cast(Callable[..., S3Client], session.client)  # pyright: ignore[reportUnknownMemberType]
        where = {"region_name": endpoint.region, "endpoint_url": endpoint.url}
        return make("s3", **where, **own_keys, config=config)
    except (BotoCoreError, ValueError) as error:
        raise explain(destination, error) from error


def call(
    destination: Destination,
    deadline: Deadline,
    action: Callable[..., Any],
    *given: Any,
    **arguments: Any,
) -> Any:
    """`action(...)`, with the client's errors as TransientError or PermanentError."""
    from botocore.exceptions import (  # pyright: ignore[reportMissingTypeStubs]
        BotoCoreError,
        ClientError,
    )
    from urllib3.exceptions import HTTPError

    deadline.check()
    try:
        return action(*given, **arguments)
    except (BotoCoreError, ClientError, HTTPError) as error:
        raise explain(destination, error) from error


def status_and_code(error: TransientError | PermanentError) -> tuple[int, str]:
    """The status of the answer that `call` made an error of, and the server's own word; 0 and an
    empty text where none came."""
    answer: Answer = getattr(error.__cause__, "response", None) or {}
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return int(status or 0), str(answer.get("Error", {}).get("Code", ""))


def explain(destination: Destination, error: Exception) -> TransientError | PermanentError:
    """A client's error as one that may pass, or as a refusal with its fix."""
    answer = cast(Answer | None, getattr(error, "response", None))
    own = cast(Mapping[str, Any], getattr(error, "kwargs", {})).get("error")
    if isinstance(own, TransientError):
        return own  # raised by what was being sent
    if answer is None:
        return _explain_without_answer(destination, error)
    return explain_answer(str(destination), answer, str(getattr(error, "operation_name", "")))


def _explain_without_answer(
    destination: Destination, error: Exception
) -> TransientError | PermanentError:
    """Errors from this side: no keys, no such profile, no connection."""
    match type(error).__name__:
        case "NoCredentialsError" | "PartialCredentialsError" | "CredentialRetrievalError":
            text = msg("no keys were given")
            fix = msg(
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give a role"
            )
        case "ProfileNotFound":
            text, fix = str(error), msg("name one of the profiles in ~/.aws/config")
        case "NoRegionError":
            text, fix = msg("no region is known"), msg("set AWS_REGION to the bucket's region")
        case "SSLError":
            text = msg("the server's certificate is not trusted: {error}", error=error)
            fix = msg(
                "set AWS_CA_BUNDLE to its authority's file, or use an http:// endpoint at home"
            )
        case "SSOTokenLoadError" | "UnauthorizedSSOTokenError" | "TokenRetrievalError":
            text, fix = msg("the single sign-on session has run out"), msg("run: aws sso login")
        case "ValueError" | "InvalidConfigError" | "ConfigParseError" | "InvalidRegionError":
            text, fix = str(error), msg("check the AWS_* settings")
        case _:
            return TransientError(msg("{name}: {error}", name=type(error).__name__, error=error))
    return PermanentError(
        Problem(text=msg("{destination}: {text}", destination=destination, text=text), fix=fix)
    )


def _keys(secrets: Secrets) -> dict[str, str]:
    names = {
        "aws_access_key_id": "AWS_ACCESS_KEY_ID",
        "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
        "aws_session_token": "AWS_SESSION_TOKEN",
    }
    found = {option: secrets.get(name) for option, name in names.items()}
    given = {option: value for option, value in found.items() if value}
    return given if "aws_access_key_id" in given and "aws_secret_access_key" in given else {}
