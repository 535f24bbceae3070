"""Keys that may not do everything, as AWS answers them: a bucket policy in front of a server."""

from .fault_proxy import Asked, Proxy, Spoil

DENIED = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


def allow_only(proxy: Proxy, bucket: str, *permissions: str) -> None:
    """Have the proxy refuse what needs another of the permissions Put, Get, List and Delete.

    As on AWS, what is not there is refused too (403, no 404) where the keys may not list, and an
    answer to HEAD has no body.
    """
    stored: set[str] = set()

    def fault(asked: Asked) -> Spoil | None:
        needed, key = needed_for(asked, bucket), asked.path.partition("?")[0]
        absent = needed == "Get" and "List" not in permissions and key not in stored
        if needed not in permissions or absent:
            return Spoil(status=403, body="" if asked.method == "HEAD" else DENIED)
        if asked.method == "PUT" or (asked.method == "POST" and "uploadId" in asked.path):
            stored.add(key)
        return None

    proxy.fault = fault


def needed_for(asked: Asked, bucket: str) -> str:
    """The permission that a request needs."""
    path, _, query = asked.path.partition("?")
    if asked.method in {"PUT", "POST"}:
        return "Put"
    if asked.method == "DELETE":
        return "Abort" if "uploadId" in query else "Delete"
    of_bucket = path.strip("/") == bucket
    if of_bucket or "uploadId" in query:
        return "List" if of_bucket and "uploads" not in query else "ListUploads"
    return "Get"
