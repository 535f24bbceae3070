"""The S3 client as tenner opens it, and its errors in the user's words.

It is botocore's, the core of boto3, whose own layer is not needed and takes a third longer to read.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from tenner.delivery.destination import Destination
from tenner.delivery.endpoint import Endpoint
from tenner.delivery.retry import Deadline, Passing, Refused
from tenner.errors import Problem
from tenner.secrets import Secrets

NUM_CONNECTIONS = 8
_CONNECT_SECONDS = 10
_READ_SECONDS = 60  # completing a large multipart upload may take this long to be answered

Answer = dict[str, Any]


class S3Client(Protocol):
    """The calls that are used of the client, which has no types of its own."""

    def put_object(self, **wanted: Any) -> Answer: ...
    def get_object(self, **wanted: Any) -> Answer: ...
    def head_object(self, **wanted: Any) -> Answer: ...
    def delete_object(self, **wanted: Any) -> Answer: ...
    def list_objects_v2(self, **wanted: Any) -> Answer: ...
    def create_multipart_upload(self, **wanted: Any) -> Answer: ...
    def upload_part(self, **wanted: Any) -> Answer: ...
    def list_parts(self, **wanted: Any) -> Answer: ...
    def list_multipart_uploads(self, **wanted: Any) -> Answer: ...
    def complete_multipart_upload(self, **wanted: Any) -> Answer: ...
    def abort_multipart_upload(self, **wanted: Any) -> Answer: ...
    def generate_presigned_url(self, method: str, **wanted: Any) -> str: ...


def open_client(
    destination: Destination,
    endpoint: Endpoint,
    *,
    secrets: Secrets,
    env: Mapping[str, str],
    signs_payload: bool,
) -> S3Client:
    """A client with the usual AWS settings: keys, profiles, roles, whatever its chain finds.

    `signs_payload` signs the SHA-256 of every body too, as is always done where somebody on the way
    could change it.

    Keys given as secrets win, unless the destination names a profile. Raises Refused.
    """
    try:
        from botocore.config import Config  # pyright: ignore[reportMissingTypeStubs]
        from botocore.exceptions import (  # pyright: ignore[reportMissingTypeStubs]
            BotoCoreError,
        )
        from botocore.session import Session  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        problem = Problem(
            text=f"{destination}: delivering to S3 needs botocore, which is not installed",
            fix="pip install 'tenner[s3]'",
        )
        raise Refused(problem) from error
    is_signed = signs_payload or not endpoint.keeps_bytes
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
        session = Session(profile=profile)
        make = cast(Callable[..., S3Client], session.create_client)  # pyright: ignore[reportUnknownMemberType]
        where = {"region_name": endpoint.region, "endpoint_url": endpoint.url}
        return make("s3", **where, **own_keys, config=config)
    except (BotoCoreError, ValueError) as error:
        raise explain(destination, error) from error


def call(
    destination: Destination,
    deadline: Deadline,
    action: Callable[..., Any],
    *given: Any,
    **wanted: Any,
) -> Any:
    """`action(...)`, with the client's errors as Passing or Refused."""
    from botocore.exceptions import (  # pyright: ignore[reportMissingTypeStubs]
        BotoCoreError,
        ClientError,
    )
    from urllib3.exceptions import HTTPError

    deadline.check()
    try:
        return action(*given, **wanted)
    except (BotoCoreError, ClientError, HTTPError) as error:
        raise explain(destination, error) from error


def code_of(error: BaseException | None) -> str:
    """The server's own word for an error of the client library."""
    answer: Answer = getattr(error, "response", None) or {}  # none came where the line was cut
    return str(answer.get("Error", {}).get("Code", ""))


def explain(destination: Destination, error: Exception) -> Passing | Refused:
    """A client's error as one that may pass, or as a refusal with its fix."""
    answer = cast(Answer | None, getattr(error, "response", None))
    own = cast(Mapping[str, Any], getattr(error, "kwargs", {})).get("error")
    if isinstance(own, Passing):
        return own  # raised by what was being sent
    if answer is None:
        return _explain_without_answer(destination, error)
    code = str(answer.get("Error", {}).get("Code", ""))
    said = str(answer.get("Error", {}).get("Message", "")) or code
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) or 0)
    if status >= 500 or status == 429 or code in _PASSING_CODES:
        return Passing(f"the server answered {status} {code}: {said}")
    headers = cast(Mapping[str, str], answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}))
    region = headers.get("x-amz-bucket-region") or answer.get("Error", {}).get("Region")
    problem = Problem(text=f"{destination}: {_meaning(code, status, said)}", fix=_fix(code, region))
    return Refused(problem, code=code)


_PASSING_CODES = {
    "SlowDown",
    "RequestTimeout",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "InternalError",
    "ServiceUnavailable",
    "OperationAborted",
    "BadDigest",
    "XAmzContentSHA256Mismatch",
    "IncompleteBody",
    "NoSuchUpload",
    "InvalidPart",
    "PreconditionFailed",
}
_CHECK_KEYS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, letter for letter"
_FIXES = {
    "NoSuchBucket": "create the bucket, or check its name and the endpoint (AWS_ENDPOINT_URL)",
    "InvalidAccessKeyId": f"{_CHECK_KEYS}; for other servers than AWS set AWS_ENDPOINT_URL too",
    "SignatureDoesNotMatch": f"{_CHECK_KEYS}; the region must be the bucket's",
    "InvalidToken": "the session token is not valid: take fresh keys, or unset AWS_SESSION_TOKEN",
    "ExpiredToken": "the session token has run out: take fresh keys that outlive the run",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it, or rent another machine",
}


def _meaning(code: str, status: int, said: str) -> str:
    match code:
        case "NoSuchBucket":
            return "there is no such bucket on that server"
        case "InvalidAccessKeyId":
            return "the server does not know this access key"
        case "SignatureDoesNotMatch":
            return "the secret key does not belong to the access key"
        case "AccessDenied" | "403" | "Forbidden" | "AllAccessDisabled":
            return f"access denied ({said})"
        case "PermanentRedirect" | "301" | "AuthorizationHeaderMalformed":
            return "the bucket is in another region"
        case _:
            return f"the server answered {status} {code}: {said}"


def _fix(code: str, region: str | None) -> str:
    if code in {"PermanentRedirect", "301", "AuthorizationHeaderMalformed"}:
        return f"set AWS_REGION={region}" if region else "set AWS_REGION to the bucket's region"
    return _FIXES.get(
        code,
        "these keys need s3:PutObject, s3:GetObject, s3:DeleteObject and s3:ListBucket there",
    )


def _explain_without_answer(destination: Destination, error: Exception) -> Passing | Refused:
    """Errors from this side: no keys, no such profile, no connection."""
    match type(error).__name__:
        case "NoCredentialsError" | "PartialCredentialsError" | "CredentialRetrievalError":
            text = "no keys were given"
            fix = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give a role"
        case "ProfileNotFound":
            text, fix = str(error), "name one of the profiles in ~/.aws/config"
        case "NoRegionError":
            text, fix = "no region is known", "set AWS_REGION to the bucket's region"
        case "SSLError":
            text = f"the server's certificate is not trusted: {error}"
            fix = "set AWS_CA_BUNDLE to its authority's file, or use an http:// endpoint at home"
        case "SSOTokenLoadError" | "UnauthorizedSSOTokenError" | "TokenRetrievalError":
            text, fix = "the single sign-on session has run out", "run: aws sso login"
        case "ValueError" | "InvalidConfigError" | "ConfigParseError" | "InvalidRegionError":
            text, fix = str(error), "check the AWS_* settings"
        case _:
            return Passing(f"{type(error).__name__}: {error}")
    return Refused(Problem(text=f"{destination}: {text}", fix=fix))


def _keys(secrets: Secrets) -> dict[str, str]:
    names = {
        "aws_access_key_id": "AWS_ACCESS_KEY_ID",
        "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
        "aws_session_token": "AWS_SESSION_TOKEN",
    }
    found = {option: secrets.get(name) for option, name in names.items()}
    given = {option: value for option, value in found.items() if value}
    return given if "aws_access_key_id" in given and "aws_secret_access_key" in given else {}
