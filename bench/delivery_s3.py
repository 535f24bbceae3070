"""Delivery to S3 against `aws s3 cp --recursive`: 1 GiB to a loopback server, in turn, in one run.

    python -m venv /tmp/aws && /tmp/aws/bin/pip install awscli
    python -m bench.delivery_s3 /tmp/aws/bin/aws [--rounds 3] [--mib 1024]

The files have 10 to 200 MB, as checkpoints and states do. There are two servers, each fresh for
each upload: `rclone serve s3`, whose only checksum is MD5 (cached here, as by S3, instead of
reading the object again for every HEAD), and SeaweedFS, which like AWS
checks the SHA-256 of each part. `aws` runs with its default settings and tuned (20 requests at
once, 16 MB parts); tenner's `deliver` hashes each file, sends it and verifies what arrived, which
`aws` does not. Seconds are those of the whole process, from its start to its end; CPU seconds and
peak memory are those of the process. The order changes from round to round.

tenner has to reach 0.9 of the faster `aws`. On two cores that other programs used too, 512 MiB to
rclone: tenner 11.5 and 14.3 s, `aws` 11.2 to 16.2 s. CPU 3.4 s against 2.2, for two hashes more:
the SHA-256 of each file, and what the server's is compared with. Peak memory 91 MB, `aws` 101.
"""

import argparse
import hashlib
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.delivery.servers.s3_servers import (
    KEY_ID,
    SECRET_KEY,
    make_used_bucket,
    rclone_server,
    seaweed_server,
)

BUCKET = "bench"
SERVERS = {"rclone": partial(rclone_server, keeps_hashes=True), "seaweed": seaweed_server}
SIZES_MB = (10, 25, 50, 100, 200)
TUNED = "[default]\ns3 =\n  max_concurrent_requests = 20\n  multipart_chunksize = 16MB\n"
LIMIT_MB = 200
SHARE = 0.9
"""Of aws's speed, which is enough: tenner verifies what arrived."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """One upload of all files: seconds from start to end, CPU seconds, peak memory in MB."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def main() -> None:
    """Compare; print medians, and end with 1 where tenner is too slow or too large."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("aws", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--folder", type=Path, help="the folder of files and server")
    parser.add_argument("--server", choices=sorted(SERVERS), help="one of the two")
    parser.add_argument("--hashes", action="store_true", help="time the hashes alone")
    options = parser.parse_args()
    if options.hashes or not options.aws:
        time_hashes(options.mib)
        return
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, {options.mib} MiB, {options.rounds} rounds"
    )
    with TemporaryDirectory(prefix="tenner-bench-", dir=options.folder) as scratch:
        source = make_files(Path(scratch) / "source", options.mib << 20)
        (Path(scratch) / "tuned").write_text(TUNED)
        (Path(scratch) / "plain").write_text("")
        ends = [
            compare(server, source, Path(scratch), options)
            for server in ([options.server] if options.server else SERVERS)
        ]
    sys.exit(max(ends))


def compare(server: str, source: Path, scratch: Path, options: argparse.Namespace) -> int:
    """Upload in turns to one server; 1 where tenner is too slow or too large."""
    print(f"to {server}:")
    found: dict[str, list[Upload]] = {"tenner": [], "aws default": [], "aws tuned": []}
    for number in range(options.rounds):
        for name in [*found][number % 3 :] + [*found][: number % 3]:
            upload = measure(name, server, source, scratch, options.aws)
            found[name].append(upload)
            line = f"{upload.seconds:6.1f} s  {upload.cpu_seconds:5.1f} CPU s"
            print(f"  {name:12} {line}  {upload.peak_mb:6.0f} MB", flush=True)
    return print_medians(found, options.mib)


def print_medians(found: dict[str, list[Upload]], mib: int) -> int:
    """Print the medians; 1 where tenner is slower than `SHARE` allows, or too large."""
    seconds = {name: statistics.median(u.seconds for u in found[name]) for name in found}
    for name, median in seconds.items():
        peak = max(upload.peak_mb for upload in found[name])
        cpu = statistics.median(upload.cpu_seconds for upload in found[name])
        speed = f"{median:6.1f} s, {mib / median:6.1f} MiB/s"
        print(f"{name:12} {speed}, {cpu:4.1f} CPU s, peak {peak:.0f} MB")
    fastest = min(seconds["aws default"], seconds["aws tuned"])
    peak = max(upload.peak_mb for upload in found["tenner"])
    print(f"tenner / fastest aws: {fastest / seconds['tenner']:.2f} of its speed")
    return int(fastest / seconds["tenner"] < SHARE or peak >= LIMIT_MB)


def time_hashes(mib: int) -> None:
    """CPU seconds of each hash over as many bytes as are sent."""
    block = os.urandom(8 << 20)
    for name in ("sha256", "md5"):
        start = time.process_time()
        for _ in range(mib // 8):
            hashlib.new(name, block, usedforsecurity=False)
        print(f"{name:7} {time.process_time() - start:5.2f} CPU s for {mib} MiB")


def make_files(folder: Path, num_bytes: int) -> Path:
    """Files of 10 to 200 MB that have `num_bytes` together; they cannot be compressed."""
    folder.mkdir()
    number = 0
    while num_bytes > 0:
        size = min(num_bytes, SIZES_MB[number % len(SIZES_MB)] * 1_000_000)
        with (folder / f"file-{number:02d}.safetensors").open("wb") as out:
            for start in range(0, size, 1 << 20):
                out.write(os.urandom(min(1 << 20, size - start)))
        num_bytes -= size
        number += 1
    return folder


def measure(name: str, server: str, source: Path, scratch: Path, aws: Path) -> Upload:
    """One upload to a server that is started for it. Raises where it fails."""
    folder = scratch / "server"
    folder.mkdir()
    try:
        with SERVERS[server](folder) as port:
            make_used_bucket(port, BUCKET)
            env = environment(port, scratch / ("tuned" if name == "aws tuned" else "plain"))
            if name == "tenner":
                target = f"s3://{BUCKET}?endpoint_url=http://127.0.0.1:{port}"
                command = [sys.executable, "-c", DELIVER, str(source), target]
            else:
                command = [str(aws), "s3", "cp", "--recursive", "--quiet", str(source)]
                command += [f"s3://{BUCKET}/", "--endpoint-url", f"http://127.0.0.1:{port}"]
            return run(command, env)
    finally:
        shutil.rmtree(folder)


def run(command: list[str], env: dict[str, str]) -> Upload:
    """Run to the end. Raises SystemExit where it fails."""
    start = time.monotonic()
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{command[0]} ended with {process.returncode}")
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return Upload(seconds=seconds, cpu_seconds=cpu_seconds, peak_mb=usage.ru_maxrss / 1000)


def environment(port: int, config: Path) -> dict[str, str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    return {
        **environ,
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(config),
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }


DELIVER = """
import os, sys
from pathlib import Path
from tenner.core.checksums import DeliveredFile
from tenner.runs.deliver import deliver
from tenner.storage.destination_address import parse_destination
from tenner.core.secrets import secrets_from
files = [DeliveredFile(path=each, name=each.name) for each in sorted(Path(sys.argv[1]).iterdir())]
deliver(files, [parse_destination(sys.argv[2])], secrets=secrets_from(os.environ)[0])
"""

if __name__ == "__main__":
    main()
