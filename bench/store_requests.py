"""How many requests a run makes to its S3 destination, by kind, counted at the server.

python -m bench.store_requests

Two runs of the tiny base that differ in the number of checkpoints, against a server on loopback:
the difference is what one more checkpoint with its state costs, the rest is paid once a run.
"""

import collections
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import boto3
from botocore.config import Config

from tenner.base.tiny import concept_dir

PORT = 5078
KEYS = {
    "AWS_ACCESS_KEY_ID": "loopback",
    "AWS_SECRET_ACCESS_KEY": "loopback-word",
    "AWS_ENDPOINT_URL": f"http://127.0.0.1:{PORT}",
    "AWS_REGION": "us-east-1",
}
PAID_AS_PUT = ("PUT", "POST", "LIST")
PUT_USD, GET_USD = 0.005 / 1000, 0.0004 / 1000
"""S3 Standard, us-east-1: PUT, COPY, POST, LIST and GET, all others; DELETE is free
(https://aws.amazon.com/s3/pricing/)."""


def requests_of(folder: Path, name: str, every: int) -> collections.Counter[str]:
    """Train a run; the number of its requests by kind, from the server's log."""
    log = folder / "moto.log"
    before = log.stat().st_size
    words = [sys.executable, "-m", "tenner", "train", str(concept_dir()), "--base_model=tiny"]
    words += ["--resolution=64", "--min_bucket_reso=64", "--batch_size=4", "--network_dim=4"]
    words += ["--optimizer_type=AdamW", "--max_train_steps=24", f"--save_every_n_steps={every}"]
    words += [f"--output_name={name}", f"--destinations=s3://loras/{name}", "--no_samples"]
    subprocess.run(words, cwd=folder, env=os.environ | KEYS, check=True, capture_output=True)
    reported = log.read_bytes()[before:].decode(errors="replace")
    found: collections.Counter[str] = collections.Counter()
    for method, path in re.findall(r'"([A-Z]+) (\S+) HTTP', reported):
        found["LIST" if "list-type=2" in path or path.endswith("?uploads") else method] += 1
    return found


def usd(found: collections.Counter[str]) -> float:
    """What the requests cost."""
    puts = sum(found[each] for each in PAID_AS_PUT)
    return puts * PUT_USD + (found.total() - puts - found["DELETE"]) * GET_USD


def main() -> None:
    """Print both runs and the difference a checkpoint makes."""
    with tempfile.TemporaryDirectory(prefix="tenner-bench-") as name:
        folder = Path(name)
        with (folder / "moto.log").open("wb") as log:
            words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(PORT)]
            server = subprocess.Popen(words, stdout=log, stderr=log)
            try:
                time.sleep(5)
                client = boto3.client(
                    "s3",
                    endpoint_url=KEYS["AWS_ENDPOINT_URL"],
                    aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
                    aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
                    region_name="us-east-1",
                    config=Config(s3={"addressing_style": "path"}),
                )
                client.create_bucket(Bucket="loras")
                few, many = requests_of(folder, "few", 8), requests_of(folder, "many", 4)
            finally:
                server.terminate()
                server.wait()
    print(f"2 checkpoints on the way: {dict(few)}, {few.total()} in all, ${usd(few):.6f}")
    print(f"5 checkpoints on the way: {dict(many)}, {many.total()} in all, ${usd(many):.6f}")
    print(f"one more checkpoint: {(many.total() - few.total()) / 3:.1f} requests, ", end="")
    print(f"${(usd(many) - usd(few)) / 3:.6f}")


if __name__ == "__main__":
    main()
