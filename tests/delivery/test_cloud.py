"""Google Cloud Storage, Azure and rclone's remotes: proven, verified, resumed from, read from."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

sys.path.insert(0, str(Path(__file__).parent))

from remote_files import put_state
from servers.cloud_servers import AZURITE, azure_server, gcs_server, rclone_remote

from tenner.base.source.address import parse_base_address
from tenner.base.source.fetch import fetch_base
from tenner.core.checksums import DeliveredFile
from tenner.core.errors import DatasetError, DeliveryError, SettingsError
from tenner.core.retry import Deadline, PermanentError
from tenner.core.secrets import NO_SECRETS, Secrets, secrets_from
from tenner.dataset.fetch import fetch
from tenner.dataset.request import DatasetRequest
from tenner.runs.check_destinations import check_destinations
from tenner.runs.deliver import deliver
from tenner.runs.remote_run import RemoteRun
from tenner.storage.cloud import CloudStore
from tenner.storage.destination_address import parse_destination
from tenner.storage.opening import open_store
from tenner.storage.store import Store

BUCKET = "loras"
# Of gcsfs, which gives aiohttp whole pieces, and of its sessions at the end of the process.
pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning"),
]


@dataclass
class Cloud:
    """A destination, and the environment in which it is found."""

    name: str
    address: str
    env: dict[str, str] = field(default_factory=dict)

    @property
    def secrets(self) -> Secrets:
        return secrets_from(self.env)[0]

    def under(self, path: Path) -> str:
        return f"{self.address}/{path.name}"

    def store(self, address: str) -> Store:
        return open_store(parse_destination(address), secrets=self.secrets, env=self.env)

    def write(self, address: str, name: str, content: bytes, folder: Path) -> None:
        """Put a file there by a way of its own, not through what is tested."""
        source = folder / "written"
        source.write_bytes(content)
        deliver(
            [DeliveredFile(path=source, name=name)],
            [parse_destination(address)],
            secrets=self.secrets,
            env=self.env,
        )


KINDS = ["gs", pytest.param("rclone", marks=pytest.mark.long), *(["azure"] if AZURITE else [])]


@pytest.fixture(scope="module", params=KINDS)
def cloud(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp(request.param)
    with contextlib.ExitStack() as stack:
        match request.param:
            case "gs":
                env = stack.enter_context(gcs_server(folder, BUCKET))
                yield Cloud("gs", f"gs://{BUCKET}", env)
            case "azure":
                env = stack.enter_context(azure_server(folder, BUCKET))
                yield Cloud("azure", f"az://{BUCKET}", env)
            case _:
                yield Cloud("rclone", "rclone:there:", rclone_remote(folder / "there"))


@pytest.fixture
def address(cloud: Cloud, tmp_path: Path) -> str:
    return f"{cloud.address.rstrip('/')}{'' if cloud.name == 'rclone' else '/'}{tmp_path.name}"


@pytest.fixture
def found(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The cloud in this process's own environment, for what reads that."""
    for name, value in cloud.env.items():
        monkeypatch.setenv(name, value)
    return


def files_of(folder: Path) -> list[DeliveredFile]:
    folder.mkdir()
    sizes = {"star.safetensors": 6 << 20, "samples/grid.png": 1000, "قطة 1.txt": 0}
    files: list[DeliveredFile] = []
    for name, size in sizes.items():
        path = folder / name.replace("/", "-")
        path.write_bytes(os.urandom(size))
        files.append(DeliveredFile(path=path, name=name))
    return files


def test_what_is_delivered_is_verified_and_sent_once(
    cloud: Cloud, address: str, tmp_path: Path
) -> None:
    destination, files = parse_destination(address), files_of(tmp_path / "files")
    given = {"secrets": cloud.secrets, "env": cloud.env}
    assert check_destinations([destination], **given) == ()
    store, deadline = cloud.store(address), Deadline(60)
    assert store.names("", deadline) == ()
    (at,) = deliver(files, [destination], **given).at
    assert set(at.put) == {*(each.name for each in files), "manifest.json"}
    for each in files:
        assert store.read(each.name, deadline) == each.path.read_bytes()
    (again,) = deliver(files, [destination], **given).at
    assert again.put == ()
    # Other bytes of the same size are found, and sent again.
    cloud.write(address, "samples/grid.png", os.urandom(1000), tmp_path)
    (repaired,) = deliver(files, [destination], **given).at
    assert "samples/grid.png" in repaired.put
    assert "star.safetensors" not in repaired.put
    assert store.read("samples/grid.png", deadline) == files[1].path.read_bytes()


def test_a_state_comes_back_on_another_machine_byte_for_byte(
    cloud: Cloud, address: str, tmp_path: Path
) -> None:
    def run() -> RemoteRun:
        return RemoteRun(parse_destination(address), "cat", cloud.secrets, cloud.env)

    assert run().states() == ()
    for step in (4, 8):
        state = tmp_path / f"state-{step}"
        (state / "optim").mkdir(parents=True)
        (state / "optim" / "a.bin").write_bytes(os.urandom(1 << 20))
        put_state(run(), state, step)
    newest, older = run().states()
    assert (newest.step, older.step) == (8, 4)
    run().fetch_state(newest, tmp_path / "back")
    sent = (tmp_path / "state-8" / "optim" / "a.bin").read_bytes()
    assert (tmp_path / "back" / "optim" / "a.bin").read_bytes() == sent
    run().drop_states(1)
    assert [each.step for each in run().states()] == [8]
    ledger = tmp_path / "ledger.json"
    ledger.write_text("{}")
    run().put_file("ledger.json", ledger)
    assert run().get_file("ledger.json") == b"{}"
    assert run().get_file("other.json") is None


def test_of_several_machines_one_creates_a_file(cloud: Cloud, address: str) -> None:
    def run() -> RemoteRun:
        return RemoteRun(parse_destination(address), "cat", cloud.secrets, cloud.env)

    if cloud.name == "rclone":
        with pytest.raises(DeliveryError, match="cannot keep two machines"):
            run().create_file("lease/1", b"me")
        return
    if cloud.name == "gs":  # the emulator passes the condition over: it is shown that it is sent
        assert run().create_file("lease/1", b"me")
        assert "lease" in run().names("")[0]
        requests = (Path(cloud.env["LOG"])).read_text()
        assert "uploadType=multipart&ifGenerationMatch=0" in requests
        return
    answers: list[bool] = []
    threads = [
        threading.Thread(target=lambda: answers.append(run().create_file("lease/1", b"me")))
        for _ in range(4)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(answers) == [False, False, False, True]


@pytest.mark.usefixtures("found")
def test_a_dataset_is_mirrored_and_fetched_once(cloud: Cloud, address: str, tmp_path: Path) -> None:
    cloud.write(address, "10_cat/a.png", b"one", tmp_path)
    cloud.write(address, "10_cat/a.txt", b"a cat", tmp_path)
    request = DatasetRequest(source=f"{address}/10_cat", cache_dir=tmp_path / "cache")
    folder = fetch(request.source, request)
    assert {each.name: each.read_bytes() for each in folder.glob("a.*")} == {
        "a.png": b"one",
        "a.txt": b"a cat",
    }
    (folder / "a.png").write_bytes(b"her")  # of the noted size: taken as it is
    cloud.write(address, "10_cat/a.txt", b"a tabby", tmp_path)
    assert fetch(request.source, request) == folder
    assert (folder / "a.txt").read_bytes() == b"a tabby"
    assert (folder / "a.png").read_bytes() == b"her"
    with pytest.raises(DatasetError, match="holds no files"):
        fetch(f"{address}/dogs", request)


def test_a_base_is_fetched_from_there(cloud: Cloud, address: str, tmp_path: Path) -> None:
    content = os.urandom(20_000_000)  # more than one piece
    cloud.write(address, "models/base.safetensors", content, tmp_path)
    base = parse_base_address(f"{address}/models/base.safetensors")
    assert base is not None
    reported: list[int] = []
    fetched = fetch_base(
        base,
        cache=tmp_path / "cache",
        secrets=cloud.secrets,
        environ=cloud.env,
        on_bytes=lambda done, total: reported.append(done),
    )
    assert fetched.path.read_bytes() == content
    assert reported == [16 << 20, len(content)]


class _Refusing(MemoryFileSystem):
    """A bucket whose keys may do anything but `refused`."""

    refused = ""
    cachable = False

    def _may(self, what: str) -> None:
        if what == self.refused:
            raise PermissionError(13, f"{what} denied")

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        self._may("write")
        return super().pipe_file(path, value, mode=mode, **kwargs)

    def rm_file(self, path):
        self._may("delete")
        return super().rm_file(path)

    def cat_file(self, path, start=None, end=None, **kwargs):
        self._may("read")
        return super().cat_file(path, start, end, **kwargs)


@pytest.mark.parametrize("refused", ["", "write", "read", "delete"])
def test_what_the_keys_may_not_do_is_reported_before_the_training(refused: str) -> None:
    fs = _Refusing()
    fs.refused = refused
    store = CloudStore(parse_destination("gs://loras/a"), fs)
    problems = store.probe(Deadline(5))
    if not refused:
        assert problems == ()
        assert store.create("lease/1", b"me", Deadline(5))
        assert not store.create("lease/1", b"you", Deadline(5))
        assert store.read("lease/1", Deadline(5)) == b"me"
        return
    (problem,) = problems
    assert f"{refused} denied" in problem.text
    assert "Storage Object Admin" in problem.fix


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("gs://loras/a/b/", "gs://loras/a/b"),
        ("gcs://loras", "gs://loras"),
        ("az://loras/a", "azure://loras/a"),
        ("azure://loras", "azure://loras"),
        ("rclone:my drive:a/b/", "rclone:my drive:a/b"),
        ("rclone:box:/srv/a", "rclone:box:/srv/a"),
    ],
)
def test_addresses_are_read_as_they_are_written(text: str, meant: str) -> None:
    destination = parse_destination(text)
    assert str(destination) == meant
    assert destination.required
    assert not parse_destination(f"{text}?optional").required


@pytest.mark.parametrize(
    "text", ["gs://", "az://X y", "rclone:a", "rclone::s3,key=1:b", "gs://a/.."]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        parse_destination(text)


def test_without_rclone_the_error_names_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(PermanentError, match="rclone is not installed") as error:
        open_store(parse_destination("rclone:a:b"), secrets=NO_SECRETS, env={"PATH": str(tmp_path)})
    assert "tenner[rclone]" in error.value.problem.fix
