"""No secret anywhere, however a run fails: not in output, files, or what children are given."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from servers.fault_proxy import Proxy, Spoil, fault_proxy

from tenner.base.tiny import concept_dir

SECRETS = {
    "HF_TOKEN": "hf_" + "loopbackWord" * 3,
    "AWS_ACCESS_KEY_ID": "AKIA" + "LOOPBACKWORD" + "QRST",
    "AWS_SECRET_ACCESS_KEY": "loopback/secret+word/0123456789",
    "AWS_SESSION_TOKEN": "loopback-session-word-0123456789",
    "CIVITAI_TOKEN": "loopback-civitai-word-0123456789",
    "MY_PASSWORD": "loopback-other-word-0123456789",
}
SHORT = (
    *("--base_model", "tiny", "--resolution", "64", "--min_bucket_reso", "64", "--no_samples"),
    *("--batch_size", "4", "--network_dim", "4", "--optimizer_type", "AdamW"),
    *("--max_train_steps", "2", "--save_every_n_steps", "2", "--output_name", "star"),
)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with fault_proxy(9) as proxy:
        yield proxy


class Children:
    """Arguments and environments of every process below this one, looked at all the time."""

    def __init__(self) -> None:
        self.seen: dict[int, bytes] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Children":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(5)

    def _look(self) -> None:
        while not self._over.wait(0.02):
            parents: dict[int, int] = {}
            for stat in Path("/proc").glob("[0-9]*/stat"):
                try:
                    fields = stat.read_text().rpartition(")")[2].split()
                    parents[int(stat.parent.name)] = int(fields[1])
                except (OSError, IndexError):
                    continue
            for pid in parents:
                if parents.get(parents[pid], 0) != os.getpid():
                    continue  # the program itself is given the secrets; its children are not
                try:
                    proc = Path("/proc") / str(pid)
                    words = (proc / "cmdline").read_bytes()
                    found = words + (proc / "environ").read_bytes()
                    own = (Path("/proc") / str(parents[pid]) / "cmdline").read_bytes()
                    if own in (words, (proc / "cmdline").read_bytes()):
                        continue  # forked, and not yet another program
                except OSError:
                    continue
                self.seen[pid] = self.seen.get(pid, b"") + found


def tenner(cwd: Path, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("TENNER_")}
    env |= {"OMP_NUM_THREADS": "1", "TENNER_CACHE_DIR": str(cwd / "cache"), **SECRETS, **extra}
    return subprocess.run(
        [sys.executable, "-m", "tenner", *words],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def refuse_with_all_secrets(proxy: Proxy) -> None:
    """A server that repeats in its refusal all that it was sent."""
    words = " ".join(SECRETS.values())
    body = f"<Error><Code>AccessDenied</Code><Message>{words}</Message></Error>"
    headers = {"X-Error-Message": words}
    proxy.fault = lambda sent: Spoil(status=403, body=body, headers=headers)


def test_no_secret_is_left_behind_whatever_fails(proxy: Proxy, tmp_path: Path) -> None:
    here = f"http://127.0.0.1:{proxy.port}"
    hub = {"HF_ENDPOINT": here, "HF_DEBUG": "1"}
    s3 = f"s3://bucket/x?endpoint_url={here}"
    run = str(tmp_path / "output" / "star")
    outputs: list[str] = []
    with Children() as children:
        done = tenner(tmp_path, "train", str(concept_dir()), *SHORT)
        assert done.returncode == 0, done.stdout + done.stderr
        refuse_with_all_secrets(proxy)
        for ends, words in (
            (6, ("deliver", run, "--destinations", s3)),
            (6, ("deliver", run, "--destinations", "hf://me/star")),
            (2, ("train", str(concept_dir()), *SHORT, "--destinations", s3)),
            (2, ("train", str(concept_dir()), *SHORT, "--destinations", "hf://me/star")),
            (2, ("train", str(concept_dir()), "--base_model", "hf://me/base", "--device", "cpu")),
            (2, ("train", str(concept_dir()), "--base_model", f"{here}/x", "--device", "cpu")),
        ):
            failed = tenner(tmp_path, *words, **hub)
            assert failed.returncode == ends, (words, failed.stdout + failed.stderr)
            outputs += [failed.stdout, failed.stderr]
    assert len(children.seen) >= 1  # the trainer
    assert any(b"tenner.engines" in seen for seen in children.seen.values())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10
    for name, secret in SECRETS.items():
        assert [text for text in outputs if secret in text] == [], name
        assert [path for path in files if secret.encode() in path.read_bytes()] == [], name
        given = [seen for seen in children.seen.values() if secret.encode() in seen]
        assert given == [], name


@pytest.mark.long
def test_no_credential_of_an_address_is_left_behind(tmp_path: Path) -> None:
    """A dataset behind a password and a signature: trained on, delivered, and written nowhere."""
    hidden = {
        each: f"{each}Loopback{number}Word" for number, each in enumerate(("pw", "sig", "tok"))
    }
    packed = tmp_path / "photos"
    shutil.make_archive(str(packed), "zip", concept_dir())
    content = packed.with_suffix(".zip").read_bytes()
    packed.with_suffix(".zip").unlink()
    seen: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            seen.append((self.path, self.headers.get("Authorization", "")))
            whole = f"sig={hidden['sig']}&token={hidden['tok']}" in self.path
            self.send_response(200 if whole else 403)
            self.send_header("Content-Length", str(len(content) if whole else 0))
            self.end_headers()
            self.wfile.write(content if whole else b"")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        location = f"127.0.0.1:{server.server_address[1]}"
        query = f"sig={hidden['sig']}&token={hidden['tok']}"
        address = f"http://alice:{hidden['pw']}@{location}/photos.zip?{query}"
        to = f"file://{tmp_path}/delivered"
        done = tenner(tmp_path, "train", "--dataset", address, *SHORT, "--destinations", to)
        assert done.returncode == 0, done.stdout + done.stderr
        ways = [
            ("train", "--dataset", address + "x", *SHORT, "--restart"),
            ("train", str(concept_dir()), *SHORT, "--base_model", address, "--device", "cpu"),
            ("train", str(concept_dir()), *SHORT, "--vae", address),
            ("train", str(concept_dir()), *SHORT, "--network_weights", address),
            ("train", str(concept_dir()), *SHORT, "--destinations", address),
            (
                "plan",
                "--dataset",
                address,
                *SHORT,
                "--destinations",
                f"s3://KEY:{hidden['pw']}@bucket/x",
            ),
            ("train", str(tmp_path / "delivered" / "settings.toml"), "--destinations", to),
        ]
        failed = [tenner(tmp_path, *words) for words in ways]
    finally:
        server.shutdown()
        server.server_close()
    assert any(auth.startswith("Basic ") for _, auth in seen), "the server was given all of it"
    assert "without its password or token" in failed[-1].stdout + failed[-1].stderr
    output = [text for each in (done, *failed) for text in (each.stdout, each.stderr)]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert (tmp_path / "delivered" / "events.jsonl").is_file() or len(files) > 10
    for name, secret in hidden.items():
        assert [text for text in output if secret in text] == [], name
        assert [path for path in files if secret.encode() in path.read_bytes()] == [], name
