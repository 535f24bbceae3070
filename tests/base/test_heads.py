"""A base that is elsewhere, by the heads of its files: the same base as once it is fetched."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "delivery"))

from servers.fault_proxy import fault_proxy
from servers.hub_server import Hub
from servers.s3_servers import KEY_ID, SECRET_KEY, rclone_server, s3_client

from tenner.base.choice import find_base
from tenner.base.inspection import inspect_base
from tenner.base.model import Base
from tenner.base.source import fetch_base, fetch_heads, parse_base_address
from tenner.base.tiny import base_dir
from tenner.core.errors import SettingsError
from tenner.core.secrets import NO_SECRETS, Secrets
from tenner.families import KnownBase
from tenner.settings import Settings
from tenner.settings.known_bases import KNOWN_BASES
from tests.base.base_servers import TOKEN, Site, checkpoint, hub_env
from tests.hardware.fake_smi import card, install_smi
from tests.hardware.program import photos, sparse_base, tenner

LARGE = 120_000_000
"""Bytes of weights of a base that is not taken for the tiny one."""


def both(requested: str, tmp_path: Path, *, secrets: Secrets = NO_SECRETS, **environ: str):
    """The base by its heads, and as it is once it was fetched, both without their paths."""
    address = parse_base_address(requested)
    assert address is not None
    more = {"secrets": secrets, "environ": environ}
    found = fetch_heads(address, folder=tmp_path / "heads", cache=tmp_path / "no-cache", **more)
    assert found is not None
    assert not found.is_whole
    fetched = fetch_base(address, cache=tmp_path / "cache", **more)
    assert (found.hub_id, found.licence) == (fetched.hub_id, fetched.licence)
    heads = inspect_base(found.path, name=requested, sha256=found.sha256)
    return tuple(
        replace(each, path=Path()) for each in (heads, inspect_base(fetched.path, name=requested))
    )


@pytest.mark.parametrize("takes_ranges", [True, False])
def test_the_head_of_a_file_on_the_web_is_enough(
    site: Site, tmp_path: Path, takes_ranges: bool
) -> None:
    site.takes_ranges = takes_ranges
    site.files["/noob-vpred.safetensors"] = checkpoint(3_000_000)
    heads, fetched = both(f"{site.url}/noob-vpred.safetensors", tmp_path)
    assert heads == fetched
    assert heads.prediction == "v_prediction"
    assert heads.num_bytes == len(site.files["/noob-vpred.safetensors"])
    assert site.seen[0]["Range"] == "bytes=0-524287"


def test_a_head_that_is_longer_than_most_is_read_wholly(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenner.base.source.heads._FIRST_BYTES", 16)
    site.files["/model.safetensors"] = checkpoint()
    heads, fetched = both(f"{site.url}/model.safetensors", tmp_path)
    assert heads == fetched


def test_of_a_private_file_on_the_hub_a_head_arrives_and_the_token_stays(
    hub: Hub, tmp_path: Path
) -> None:
    repo = hub.state.make_repo("model", "me/model", private=True)
    hub.state.add_files(repo, {"model.safetensors": checkpoint(30_000_000)})
    with fault_proxy(hub.port) as proxy:
        env = {"HF_ENDPOINT": f"http://127.0.0.1:{proxy.port}"}
        address = parse_base_address("hf://me/model")
        assert address is not None
        secrets = Secrets(values={"HF_TOKEN": TOKEN})
        at = {"folder": tmp_path / "heads", "cache": tmp_path / "none", "environ": env}
        found = fetch_heads(address, secrets=secrets, **at)
    assert found is not None
    assert found.path.stat().st_size == 30_000_000 + 2 + 8 + _head_bytes(found.path)
    large = [sent for sent in proxy.seen if "/large/" in sent.path]
    assert [sent.headers.get("Range") for sent in large] == ["bytes=0-524287"]
    assert not any("Authorization" in sent.headers for sent in large)
    assert not list((tmp_path / "none").rglob("*.safetensors"))


def _head_bytes(path: Path) -> int:
    with path.open("rb") as file:
        return int.from_bytes(file.read(8), "little")


def test_a_folder_on_the_hub_is_the_one_that_is_fetched(hub: Hub, tmp_path: Path) -> None:
    repo = hub.state.make_repo("model", "me/tiny")
    names = [path for path in base_dir().rglob("*") if path.is_file()]
    files = {path.relative_to(base_dir()).as_posix(): path.read_bytes() for path in names}
    hub.state.add_files(repo, files)
    heads, fetched = both("hf://me/tiny", tmp_path, **hub_env(hub))
    assert heads == fetched


def test_a_file_in_a_bucket(tmp_path: Path) -> None:
    server = tmp_path / "server"
    server.mkdir()
    with rclone_server(server) as port:
        client = s3_client(port)
        client.create_bucket(Bucket="models")
        client.put_object(Bucket="models", Key="sd/model.safetensors", Body=checkpoint())
        secrets = Secrets(values={"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET_KEY})
        endpoint = f"http://127.0.0.1:{port}"
        more = {"secrets": secrets, "AWS_ENDPOINT_URL": endpoint}
        heads, fetched = both("s3://models/sd/model.safetensors", tmp_path, **more)
        assert heads == fetched


def described(settings: Settings, tmp_path: Path, **environ: str) -> Base:
    environ = {"TENNER_MODELS_DIR": str(tmp_path / "none"), "HOME": str(tmp_path), **environ}
    environ |= {"TENNER_CACHE_DIR": str(tmp_path / "cache")}
    heads = tmp_path / "heads"
    return find_base(settings, environ, on_stage=lambda *_: None, on_bytes=None, heads_into=heads)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_named_base_is_known_without_a_network(tmp_path: Path, name: str) -> None:
    away = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    base = described(Settings(dataset="x", base_model=name), tmp_path, **away)
    whole = inspect_base(sparse_base(tmp_path / "models", name) / f"{name}.safetensors", name=name)
    assert (base.family, base.resolution, base.layout) == (
        whole.family,
        whole.resolution,
        whole.layout,
    )
    assert (base.prediction, base.is_tiny) == ("epsilon", False)
    assert "is not on this machine: planned by what is known of" in base.notices[-1].text
    wrong = Settings(dataset="x", base_model=name, base_model_sha256="0" * 64)
    with pytest.raises(SettingsError, match="not the expected file"):
        described(wrong, tmp_path, **away)


@pytest.mark.parametrize("known", KNOWN_BASES, ids=lambda known: known.name)
def test_every_named_base_is_planned_by_its_name(tmp_path: Path, known: KnownBase) -> None:
    away = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    base = described(Settings(dataset="x", base_model=known.name), tmp_path, **away)
    prediction = "v_prediction" if known.name.endswith("-vpred") else "epsilon"
    assert base.prediction == ("flow" if base.facts.transformer else prediction)
    assert (base.family, base.hub_id, base.is_tiny) == (known.family, known.hub_id, False)


def test_what_is_no_base_is_reported_by_its_address(site: Site, tmp_path: Path) -> None:
    site.files["/page.safetensors"] = b"<!DOCTYPE html><html>Please sign in</html>"
    raw = checkpoint().replace(b"cond_stage_model.transformer.x", b"cond_stage_mode1.transformer.x")
    site.files["/odd.safetensors"] = raw
    for name, says in (("page", "a web page"), ("odd", "not a checkpoint of a family that tenner")):
        address = f"{site.url}/{name}.safetensors"
        with pytest.raises(SettingsError, match=says) as raised:
            described(Settings(dataset="x", base_model=address), tmp_path)
        assert address in str(raised.value)
        assert str(tmp_path) not in str(raised.value)


def test_plan_on_a_rented_machine_needs_no_base(hub: Hub, tmp_path: Path) -> None:
    """The program itself, on a machine with a card and nothing else."""
    machine = tmp_path / "machine"
    machine.mkdir()
    env = install_smi(machine, [card("NVIDIA GeForce RTX 4090", 24564, "550.54.14", "8.9")])
    env |= {"TENNER_MODELS_DIR": str(machine / "none"), "HF_ENDPOINT": hub.url}
    pictures = str(photos(tmp_path / "photos", num_images=4, side=1024))
    hub.state.add_files(
        hub.state.make_repo("model", "me/painter"), {"painter.safetensors": checkpoint(LARGE)}
    )
    for base, family, how in (
        ("sdxl", "sdxl", "planned by what is known of stabilityai"),
        ("hf://me/painter", "sd1", "planned by the heads of its files"),
        (f"{hub.url}/me/painter/resolve/main/painter.safetensors", "sd1", "by the heads of its"),
    ):
        done = tenner("plan", pictures, "--base_model", base, "--json", cwd=machine, env=env)
        assert done.returncode == 0, done.stderr
        plan = json.loads(done.stdout)
        assert plan["base"]["family"] == family
        assert plan["needed_gb"] > 2
        assert [each["level"] for each in plan["notices"] if how in each["text"]] == ["note"]
    words = ("--base_model", "hf://me/painter", "--gpu", "4090", "--json")
    done = tenner("plan", pictures, *words, cwd=machine, env={**env, "PATH": os.devnull})
    assert json.loads(done.stdout)["family"] == "sd1", done.stderr
    left = [path for path in machine.rglob("*.safetensors") if path.is_file()]
    assert left == []


@pytest.mark.long
def test_doctor_and_plan_read_only_the_head_of_a_base_on_the_hub(hub: Hub, tmp_path: Path) -> None:
    hub.state.add_files(
        hub.state.make_repo("model", "me/painter"), {"painter.safetensors": checkpoint(LARGE)}
    )
    env = install_smi(tmp_path, [card("NVIDIA GeForce RTX 4090", 24564, "550.54.14", "8.9")])
    pictures = str(photos(tmp_path / "photos", num_images=4, side=512))
    with fault_proxy(hub.port) as proxy:
        env |= {"HF_ENDPOINT": f"http://127.0.0.1:{proxy.port}"}
        done = tenner("doctor", "--base_model", "hf://me/painter", "--json", cwd=tmp_path, env=env)
        checks = {each["name"]: each for each in json.loads(done.stdout)["checks"]}
        assert "Stable Diffusion 1" in checks["base model"]["found"]
        assert checks["base model"]["mark"] == "ok"
        by_doctor = len(proxy.seen)
        done = tenner("plan", pictures, "--base_model", "hf://me/painter", cwd=tmp_path, env=env)
        assert "planned by the heads of its files" in done.stdout + done.stderr
        wrong = tenner("doctor", "--base_model", "hf://me/none", "--json", cwd=tmp_path, env=env)
        assert wrong.returncode == 4
    whole = [sent for sent in proxy.seen if "/large/" in sent.path]
    assert {sent.headers.get("Range") for sent in whole} == {"bytes=0-524287"}
    assert len([sent for sent in proxy.seen[:by_doctor] if "/large/" in sent.path]) == 1
