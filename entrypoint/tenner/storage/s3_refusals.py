"""What an S3 server's error means, in the user's words: one that may pass, or one with its fix."""

from collections.abc import Mapping
from typing import Any

from tenner.core.errors import Problem
from tenner.core.messages import Message, msg
from tenner.core.retry import PermanentError, TransientError

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
FULL = "StorageFull"
"""The code of a refusal that the storage is full, whatever the server calls it."""
_FULL_CODES = {
    "QuotaExceeded",  # Ceph, SeaweedFS
    "BucketQuotaExceeded",
    "XMinioAdminBucketQuotaExceeded",
    "XMinioStorageFull",
    "StorageFull",
    "InsufficientStorage",
    "StorageQuotaExceeded",
    "storage_cap_exceeded",  # B2
}
_FULL_WORDS = ("quota exceeded", "quota has been", "storage cap", "no space left", "storage full")
_EXPIRED_CODES = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_DENIED_CODES = {"AccessDenied", "403", "Forbidden", "AllAccessDisabled", "UnauthorizedAccess"}
_REGION_CODES = {"PermanentRedirect", "301", "AuthorizationHeaderMalformed"}
_CHECK_KEYS = msg("check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, letter for letter")
_MEANINGS = {
    "NoSuchBucket": (
        msg("there is no such bucket on that server"),
        msg("create the bucket, or check its name and the endpoint (AWS_ENDPOINT_URL)"),
    ),
    "InvalidAccessKeyId": (
        msg("the server does not know this access key"),
        msg(
            "{check_keys}; for other servers than AWS set AWS_ENDPOINT_URL too",
            check_keys=_CHECK_KEYS,
        ),
    ),
    "SignatureDoesNotMatch": (
        msg("the secret key does not belong to the access key"),
        msg("{check_keys}; the region must be the bucket's", check_keys=_CHECK_KEYS),
    ),
    "InvalidToken": (
        msg("the session token is not valid"),
        msg("take fresh keys, or unset AWS_SESSION_TOKEN"),
    ),
    "RequestTimeTooSkewed": (
        msg("the server refuses this machine's clock"),
        msg("this machine's clock is wrong: set it, or rent another machine"),
    ),
}
_NEEDED = {
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "DeleteObject": "s3:DeleteObject",
    "ListObjectsV2": "s3:ListBucket",
}
"""The permission that a call needs on AWS (Actions, resources, and condition keys for S3)."""


def explain_answer(
    destination: str, answer: Mapping[str, Any], operation: str
) -> TransientError | PermanentError:
    """A server's answer to the call `operation` as a trouble that may pass, or a refusal."""
    error, meta = answer.get("Error", {}), answer.get("ResponseMetadata", {})
    code, status = str(error.get("Code", "")), int(meta.get("HTTPStatusCode", 0) or 0)
    message = str(error.get("Message", "")) or code
    if _is_full(code, status, message):
        problem = Problem(
            text=msg(
                "{destination}: the storage there is full ({status} {code}: {message})",
                destination=destination,
                status=status,
                code=code,
                message=message,
            ),
            fix=msg(
                "free space there or raise its limit; meanwhile the files stay in the run's folder"
            ),
        )
        return PermanentError(problem, code=FULL)
    if status >= 500 or status == 429 or code in _PASSING_CODES:
        return TransientError(
            msg(
                "the server answered {status} {code}: {message}",
                status=status,
                code=code,
                message=message,
            )
        )
    region = meta.get("HTTPHeaders", {}).get("x-amz-bucket-region") or error.get("Region")
    text, fix = _meaning(code, status, message, operation, region)
    return PermanentError(
        Problem(text=msg("{destination}: {text}", destination=destination, text=text), fix=fix),
        code=code,
    )


def _is_full(code: str, status: int, message: str) -> bool:
    words = any(each in message.lower() for each in _FULL_WORDS)
    return status == 507 or code in _FULL_CODES or (words and status in {400, 403, 413, 500, 503})


def _meaning(
    code: str, status: int, message: str, operation: str, region: str | None
) -> tuple[Message, Message]:
    """Text and fix of a refusal."""
    if code in _MEANINGS:
        return _MEANINGS[code]
    if code in _REGION_CODES:
        where = (
            msg("set AWS_REGION={region}", region=region)
            if region
            else msg("set AWS_REGION to the bucket's region")
        )
        return msg("the bucket is in another region"), where
    if code in _EXPIRED_CODES:
        return (
            msg("the keys have expired ({message})", message=message),
            msg(
                "take fresh keys that outlive the run (AWS_SESSION_TOKEN belongs to the other two)"
            ),
        )
    if code in _DENIED_CODES:
        needed = _NEEDED.get(
            operation, msg("s3:PutObject, s3:GetObject, s3:DeleteObject, s3:ListBucket")
        )
        return (
            msg("access denied to {operation} ({message})", operation=operation, message=message),
            msg(
                "these keys need {needed} there; docs/permissions.md has a policy that is enough",
                needed=needed,
            ),
        )
    return (
        msg(
            "the server answered {status} {code}: {message}",
            status=status,
            code=code,
            message=message,
        ),
        msg(
            "this is the server's own error: look it up there, and check AWS_ENDPOINT_URL and"
            " AWS_REGION"
        ),
    )
