"""Keys of few permissions: what works with each, and what is reported of what does not."""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from remote_files import put_checkpoint, put_state
from servers.fault_proxy import Proxy, SeenRequest, Spoil, fault_proxy
from servers.limited_keys import allow_only, needed_for
from servers.s3_servers import KEY_ID, SECRET_KEY, moto_server, rclone_server, s3_client

from tenner.core.checksums import DeliveredFile
from tenner.core.errors import DeliveryError
from tenner.core.secrets import Secrets
from tenner.runs.check_destinations import check_destinations
from tenner.runs.deliver import deliver
from tenner.runs.remote_run import RemoteRun, Shipment
from tenner.storage.destination_address import parse_destination

SECRETS = Secrets(values={"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET_KEY})
BUCKET = "loras"
SERVERS = {"moto": moto_server, "rclone": rclone_server}
WITHOUT_DELETE = ("Put", "Get", "List")
WITHOUT_LIST = ("Put", "Get")
DROP_BOX = ("Put",)


@pytest.fixture(scope="module", params=sorted(SERVERS))
def server_port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    with SERVERS[request.param](tmp_path_factory.mktemp(request.param)) as port:
        s3_client(port).create_bucket(Bucket=BUCKET)
        yield port


@pytest.fixture
def proxy(server_port: int) -> Iterator[Proxy]:
    with fault_proxy(server_port) as proxy:
        yield proxy


class Bucket:
    """A prefix in the bucket behind a proxy, seen with all permissions from behind."""

    def __init__(self, proxy: Proxy, server_port: int, tmp_path: Path) -> None:
        self.proxy = proxy
        self.prefix = hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]
        url = f"http://127.0.0.1:{proxy.port}"
        self.text = f"s3://{BUCKET}/{self.prefix}?endpoint_url={url}"
        self.destination = parse_destination(self.text)
        self._client = s3_client(server_port)
        self.output: list[str] = []

    def run(self) -> RemoteRun:
        return RemoteRun(self.destination, "cat", SECRETS, {}, on_trouble=self.output.append)

    def check(self) -> list[tuple[str, str]]:
        found = check_destinations([self.destination], secrets=SECRETS, job="cat", env={})
        return [(problem.level, problem.text) for problem in found]

    def names(self) -> set[str]:
        page = self._client.list_objects_v2(Bucket=BUCKET, Prefix=f"{self.prefix}/")
        return {each["Key"].removeprefix(f"{self.prefix}/") for each in page.get("Contents", ())}

    def content(self, name: str) -> bytes:
        key = f"{self.prefix}/{name}"
        return self._client.get_object(Bucket=BUCKET, Key=key)["Body"].read()


@pytest.fixture
def bucket(proxy: Proxy, server_port: int, tmp_path: Path) -> Bucket:
    return Bucket(proxy, server_port, tmp_path)


def state_folder(path: Path) -> Path:
    (path / "optim").mkdir(parents=True)
    (path / "optim" / "weights.bin").write_bytes(path.name.encode() + os.urandom(1 << 20))
    (path / "only-once.bin").write_bytes(
        os.urandom(9 << 20) if path.name == "20" else os.urandom(5)
    )
    return path


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def lora(tmp_path: Path, content: bytes) -> list[DeliveredFile]:
    path = tmp_path / "cat.safetensors"
    path.write_bytes(content)
    return [DeliveredFile(path=path, name="cat.safetensors")]


@pytest.mark.parametrize("permissions", [WITHOUT_DELETE, WITHOUT_LIST])
def test_states_overwrite_each_other_in_turn_and_the_newest_is_resumed(
    bucket: Bucket, tmp_path: Path, permissions: tuple[str, ...]
) -> None:
    allow_only(bucket.proxy, BUCKET, *permissions)
    run = bucket.run()
    sizes: list[int] = []
    for step in (10, 20, 30, 40, 50):
        folder = state_folder(tmp_path / str(step))
        run.put_set(Shipment(state=(folder, step), keep_states=1))
        another = bucket.run()
        newest = another.states()[0]
        assert newest.step == step
        another.fetch_state(newest, tmp_path / f"back-{step}")
        assert tree(tmp_path / f"back-{step}") == tree(folder)
        sizes.append(len(bucket.names()))
    assert sizes[1:] == [sizes[1]] * 4, "the bucket does not grow"
    run.drop_states(0)
    assert bucket.run().states() == ()
    assert not [text for text in bucket.output if "trying again" in text]


@pytest.mark.parametrize("permissions", [WITHOUT_DELETE, WITHOUT_LIST])
def test_a_state_that_is_cut_while_it_overwrites_another_leaves_the_newest_whole(
    bucket: Bucket, tmp_path: Path, permissions: tuple[str, ...]
) -> None:
    allow_only(bucket.proxy, BUCKET, *permissions)
    policy, run = bucket.proxy.fault, bucket.run()
    for step in (10, 20):
        put_state(run, state_folder(tmp_path / str(step)), step)
    for cut_at in range(1, 4):  # of its two files and its mark
        third = state_folder(tmp_path / f"30-{cut_at}")
        puts, cut = 0, bucket.run()

        def fault(sent: SeenRequest, cut_at: int = cut_at, cut: RemoteRun = cut) -> Spoil | None:
            nonlocal puts
            puts += sent.method == "PUT" and "slot" in sent.path
            if puts < cut_at:
                return policy(sent)
            cut.cancel()  # the machine goes away at this request
            return Spoil(status=503)

        bucket.proxy.fault = fault
        with pytest.raises(DeliveryError):
            cut.put_set(Shipment(state=(third, 30)))
        assert puts >= cut_at
        bucket.proxy.fault = policy
        whole = bucket.run().states()
        assert whole
        assert whole[0].step == 20
        into = tmp_path / f"back-{cut_at}"
        bucket.run().fetch_state(whole[0], into)
        assert tree(into) == tree(tmp_path / "20")
    put_state(bucket.run(), third, 30)
    assert bucket.run().states()[0].step == 30


def test_a_delete_that_is_refused_from_then_on_is_reported_once_and_costs_no_state(
    bucket: Bucket, tmp_path: Path
) -> None:
    run = bucket.run()
    run.put_set(Shipment(state=(state_folder(tmp_path / "10"), 10), keep_states=1))
    allow_only(bucket.proxy, BUCKET, *WITHOUT_DELETE)
    for step in (20, 30):
        run.put_set(Shipment(state=(state_folder(tmp_path / str(step)), step), keep_states=1))
        assert bucket.run().states()[0].step == step
    assert len([text for text in bucket.output if "older states stay" in text]) == 1


@pytest.mark.parametrize(
    ("permissions", "level", "says"),
    [
        (("Put", "Get", "List", "Delete"), "", ""),
        (("Put", "Get", "Delete"), "note", "cannot be listed"),
        (WITHOUT_DELETE, "warning", "not deleted"),
        (WITHOUT_LIST, "warning", "not deleted"),
        (DROP_BOX, "warning", "not read back"),
        (("Get", "List", "Delete"), "error", "PutObject"),
    ],
)
def test_what_the_keys_lack_is_reported_before_the_run_and_leaves_one_file_at_most(
    bucket: Bucket, permissions: tuple[str, ...], level: str, says: str
) -> None:
    allow_only(bucket.proxy, BUCKET, *permissions)
    for _ in range(3):
        found = bucket.check()
        assert [each[0] for each in found] == ([level] if level else [])
        assert says in "".join(each[1] for each in found)
    assert bucket.names() <= {".tenner-check"}


@pytest.mark.parametrize("server_port", ["moto"], indirect=True)  # the other stores no versions
@pytest.mark.parametrize("kind", ["versions", "locked"])
def test_a_bucket_that_stores_each_version_is_named_before_the_run_with_the_rule_that_ends_it(
    server_port: int, kind: str
) -> None:
    client, name = s3_client(server_port), f"versions-{kind}"
    if kind == "locked":
        client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
        retention = {"Mode": "COMPLIANCE", "Days": 1}
        lock = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": retention}}
        client.put_object_lock_configuration(Bucket=name, ObjectLockConfiguration=lock)
    else:
        client.create_bucket(Bucket=name)
        client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    address = f"s3://{name}/run?endpoint_url=http://127.0.0.1:{server_port}"
    destination = parse_destination(address)
    (found,) = check_destinations([destination], secrets=SECRETS, job="cat", env={})
    assert found.level == "warning"
    assert "it grows by a state at each save" in found.text
    assert ("until its lock has ended" in found.text) == (kind == "locked")
    rules = re.search(r"--lifecycle-configuration '(.*)'", found.fix)
    assert rules, found.fix
    client.put_bucket_lifecycle_configuration(
        Bucket=name, LifecycleConfiguration=json.loads(rules[1])
    )
    (rule,) = client.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]
    assert rule["Filter"]["Prefix"] == "run/.tenner/", "states alone, and no LoRA"
    assert rule["NoncurrentVersionExpiration"]["NoncurrentDays"] == 1


@pytest.mark.parametrize("permissions", [WITHOUT_DELETE, WITHOUT_LIST, DROP_BOX])
def test_a_set_is_delivered_and_delivered_anew_and_never_called_whole_in_between(
    bucket: Bucket, tmp_path: Path, permissions: tuple[str, ...]
) -> None:
    allow_only(bucket.proxy, BUCKET, *permissions)
    manifests: list[tuple[str, str]] = []
    policy = bucket.proxy.fault

    def watched(sent: SeenRequest) -> Spoil | None:
        if sent.method == "PUT" and sent.path.endswith("cat.safetensors"):
            there = "manifest.json" in bucket.names()
            manifests.append(("before", bucket.content("manifest.json").decode() if there else ""))
        return policy(sent)

    bucket.proxy.fault = watched
    for content in (b"first" * 1000, os.urandom(9 << 20), b"third"):
        files = lora(tmp_path, content)
        delivered = deliver(files, [bucket.destination], secrets=SECRETS, env={}, job="cat")
        assert delivered.at[0].put == ("cat.safetensors", "manifest.json")
        assert bucket.content("cat.safetensors") == content
        listed = json.loads(bucket.content("manifest.json"))["files"][0]
        assert listed["sha256"] == hashlib.sha256(content).hexdigest()
    assert manifests
    assert [text for _, text in manifests if '"files"' in text] == []


def test_a_drop_box_gets_no_request_again_that_it_has_refused(
    bucket: Bucket, tmp_path: Path
) -> None:
    allow_only(bucket.proxy, BUCKET, *DROP_BOX)
    run = bucket.run()
    assert not run.permissions().reads
    for number in range(3):
        checkpoint = tmp_path / f"cat-{number}.safetensors"
        checkpoint.write_bytes(os.urandom(1000))
        put_checkpoint(run, checkpoint)
        run.put_set(Shipment(notes=(("ledger.json", b"{}"),), keep_states=1))
        assert bucket.content(f"checkpoints/{checkpoint.name}") == checkpoint.read_bytes()
    assert run.states() == ()
    refused = [a for a in bucket.proxy.seen if needed_for(a, BUCKET) not in DROP_BOX]
    assert len(refused) < 30
    assert not [text for text in bucket.output if "trying again" in text]


def test_what_arrives_damaged_in_a_drop_box_is_not_called_delivered(
    bucket: Bucket, tmp_path: Path
) -> None:
    """The server's answer names another MD5 than that of what was sent."""
    allow_only(bucket.proxy, BUCKET, *DROP_BOX)
    policy = bucket.proxy.fault
    digests: list[str] = []

    def fault(sent: SeenRequest) -> Spoil | None:
        if sent.method == "PUT" and sent.path.endswith("cat.safetensors"):
            digests.append(sent.headers["X-Amz-Content-SHA256"])
            if len(digests) == 1:
                return Spoil(etag='"0123456789abcdef0123456789abcdef"')
        return policy(sent)

    bucket.proxy.fault = fault
    content = os.urandom(5000)
    deliver(lora(tmp_path, content), [bucket.destination], secrets=SECRETS, env={}, job="cat")
    assert len(digests) == 2, "sent again, with a signed hash that every server checks"
    assert digests[1] == hashlib.sha256(content).hexdigest()
    assert bucket.content("cat.safetensors") == content
