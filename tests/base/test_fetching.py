"""Base models fetched from web servers and buckets on loopback: whole, verified, resumed."""

import hashlib
import pickle
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "delivery"))

from servers.s3_servers import KEY_ID, SECRET_KEY, rclone_server, s3_client

from tenner.base.inspection import inspect_base
from tenner.core.errors import SettingsError
from tenner.core.secrets import Secrets
from tests.base.base_servers import Site, checkpoint, fetch, refusal


def test_a_file_from_the_web_arrives_once_and_is_revalidated(site: Site, tmp_path: Path) -> None:
    site.files["/a/model.safetensors"] = content = checkpoint()
    reported: list[tuple[int, int | None]] = []
    requested = f"{site.url}/a/model.safetensors"
    base = fetch(requested, tmp_path, on_bytes=lambda done, total: reported.append((done, total)))
    assert base.path.read_bytes() == content
    assert inspect_base(base.path, name="x").family == "sd1"
    assert reported[-1] == (len(content), len(content))
    assert fetch(requested, tmp_path).path == base.path
    assert "If-None-Match" in site.seen[-1]
    site.files["/a/model.safetensors"] = other = checkpoint()
    assert fetch(requested, tmp_path).path.read_bytes() == other


def test_a_cut_download_is_resumed_only_in_the_same_file(site: Site, tmp_path: Path) -> None:
    site.files["/model.safetensors"] = content = checkpoint()
    site.cut_at = [200_000, 250_000]
    assert fetch(f"{site.url}/model.safetensors", tmp_path).path.read_bytes() == content
    assert [each.get("Range") for each in site.seen] == [None, "bytes=200000-", "bytes=250000-"]
    assert all("If-Range" in each for each in site.seen[1:])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (401, "401: access is denied"),
        (403, "403: access is denied"),
        (404, "404: there is no such file"),
        (b"<!DOCTYPE html><html>Please sign in</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "git-lfs pointer"),
        (pickle.dumps({"state_dict": list(range(999))}), "a pickle"),
        (b"PK\x03\x04" + bytes(4000), "a pickle"),
        (b"\xff" * 5000, "no safetensors file"),
    ],
)
def test_what_is_no_model_is_distinguished(
    site: Site, tmp_path: Path, content: bytes | int, says: str
) -> None:
    site.files["/model.safetensors"] = content
    reported = refusal(f"{site.url}/model.safetensors", tmp_path)
    assert says in reported
    assert f"{site.url}/model.safetensors" in reported


def test_a_login_page_with_status_200_is_reported_by_its_type_too(
    site: Site, tmp_path: Path
) -> None:
    site.files["/model.safetensors"] = b"  " * 5000
    site.types["/model.safetensors"] = "text/html; charset=utf-8"
    assert "a web page, not a model" in refusal(f"{site.url}/model.safetensors", tmp_path)


def test_a_wrong_sha256_is_reported_and_nothing_stays(site: Site, tmp_path: Path) -> None:
    site.files["/model.safetensors"] = content = checkpoint()
    requested = f"{site.url}/model.safetensors"
    assert "not the expected file" in refusal(requested, tmp_path, sha256="0" * 64)
    right = hashlib.sha256(content).hexdigest().upper()
    assert fetch(requested, tmp_path, sha256=right).path.is_file()


def test_a_disk_that_is_too_small_is_reported_before_the_download(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.files["/model.safetensors"] = checkpoint()
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("", (), {"free": 1000})())
    with pytest.raises(SettingsError, match="set TENNER_CACHE_DIR"):
        fetch(f"{site.url}/model.safetensors", tmp_path)


def test_a_checkpoint_from_a_bucket(tmp_path: Path) -> None:
    server = tmp_path / "server"
    server.mkdir()
    content = checkpoint()
    with rclone_server(server) as port:
        endpoint = f"http://127.0.0.1:{port}"
        client = s3_client(port)
        client.create_bucket(Bucket="models")
        client.put_object(Bucket="models", Key="sd/model.safetensors", Body=content)
        keys = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        more = {"secrets": Secrets(values=keys), "environ": {"AWS_ENDPOINT_URL": endpoint}}
        for requested in ("s3://models/sd/model.safetensors", "s3://models/sd"):
            assert fetch(requested, tmp_path / "cache", **more).path.read_bytes() == content
        with pytest.raises(SettingsError):
            fetch("s3://models/absent.safetensors", tmp_path / "cache", **more)
