"""Sending files to S3: small ones whole, large ones in parts, all on one set of connections."""

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial

from tenner.core.checksums import HashedFile
from tenner.core.parallel import first_error, in_parallel
from tenner.core.retry import Deadline, TransientError, retrying
from tenner.storage.destination import Destination
from tenner.storage.s3_body import Body
from tenner.storage.s3_client import NUM_CONNECTIONS, call
from tenner.storage.s3_multipart import SMALLEST_PART_BYTES, CannotGoOn, Multipart
from tenner.storage.s3_proof import Sent
from tenner.storage.s3_wire import Reach, Wire
from tenner.storage.store import OnBytes

CHECK_NAME = ".tenner-check"
"""A name that is written only to learn how a server answers."""


def send_files(
    wire: Wire,
    destination: Destination,
    files: Sequence[HashedFile],
    deadline: Deadline,
    on_bytes: OnBytes,
) -> dict[str, Sent]:
    """Send all files, parts of several side by side; what was sent of each, by its name.

    They may still be hashed meanwhile: that is not waited for. Raises Passing or Refused.
    """
    reach = partial(call, destination, deadline)
    sent = {file.name: Sent(file=file) for file in files}
    spare_key = destination.name_in_root(CHECK_NAME)  # where it stays, it is one file
    spare = {"Bucket": destination.root, "Key": spare_key}
    uploads: list[Multipart] = []
    jobs: list[Callable[[], None]] = []
    for file in files:
        key = {"Bucket": destination.root, "Key": destination.name_in_root(file.name)}
        one = sent[file.name]
        if file.size <= SMALLEST_PART_BYTES:
            jobs.append(partial(_send_whole, wire, reach, file, key, on_bytes, one))
            continue
        uploads.append(Multipart(wire=wire, reach=reach, file=file, key=key, spare=spare, sent=one))
    _do([partial(retrying, deadline, upload.begin) for upload in uploads], deadline)
    for upload in uploads:
        numbers = range(1, upload.num_parts + 1)
        jobs += [partial(upload.send_part, number, on_bytes) for number in numbers]
    _do([partial(retrying, deadline, job) for job in jobs], deadline)
    return sent


def _do(jobs: Sequence[Callable[[], None]], deadline: Deadline) -> None:
    """Do all jobs side by side. Raises the gravest of what they raise, as Passing or Refused."""
    ended = in_parallel(jobs, num_workers=NUM_CONNECTIONS, deadline=deadline, name="tenner-s3")
    error = first_error(ended)
    if isinstance(error, CannotGoOn):
        error.upload.give_up()
        name = error.upload.file.name
        raise TransientError(f"an unfinished upload of {name} could not be gone on with") from error
    if error:
        raise error


def _send_whole(
    wire: Wire,
    reach: Reach,
    file: HashedFile,
    key: dict[str, str],
    on_bytes: OnBytes,
    sent: Sent,
) -> None:
    with closing(Body.of_file(file.path, size=file.size)) as body:
        sent.digests[1], sent.etag = wire.put_object(reach, body, **key)
    on_bytes(file.size)
