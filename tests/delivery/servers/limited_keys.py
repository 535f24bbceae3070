"""Keys that may not do everything, as AWS answers them: a bucket policy in front of a server."""

from .fault_proxy import Proxy, SeenRequest, Spoil

DENIED = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


def allow_only(proxy: Proxy, bucket: str, *permissions: str) -> None:
    """Have the proxy refuse what needs another of the permissions Put, Get, List and Delete.

    As on AWS, what is not there is refused too (403, no 404) where the keys may not list, and an
    answer to HEAD has no body.
    """
    stored: set[str] = set()

    def fault(sent: SeenRequest) -> Spoil | None:
        needed, key = needed_for(sent, bucket), sent.path.partition("?")[0]
        absent = needed == "Get" and "List" not in permissions and key not in stored
        if needed not in permissions or absent:
            return Spoil(status=403, body="" if sent.method == "HEAD" else DENIED)
        if sent.method == "PUT" or (sent.method == "POST" and "uploadId" in sent.path):
            stored.add(key)
        return None

    proxy.fault = fault


def needed_for(sent: SeenRequest, bucket: str) -> str:
    """The permission that a request needs."""
    path, _, query = sent.path.partition("?")
    if sent.method in {"PUT", "POST"}:
        return "Put"
    if sent.method == "DELETE":
        return "Abort" if "uploadId" in query else "Delete"
    of_bucket = path.strip("/") == bucket
    if of_bucket or "uploadId" in query:
        return "List" if of_bucket and "uploads" not in query else "ListUploads"
    return "Get"
