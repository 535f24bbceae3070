"""Base models fetched from a Hub on loopback: cached as its library does it, verified, resumed."""

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import hf_hub_download

sys.path.insert(0, str(Path(__file__).parents[1] / "delivery"))

from servers.fault_proxy import SeenRequest, Spoil, fault_proxy
from servers.hub_server import Hub

from tenner.base.inspection import inspect_base
from tenner.base.source import fetch_base, parse_base_address
from tenner.base.source.access import access_problems
from tenner.base.tiny import base_dir
from tenner.core.errors import SettingsError
from tenner.core.secrets import NO_SECRETS, Secrets
from tenner.settings.known_bases import KNOWN_BASES
from tenner.storage.hub_download import Report
from tests.base.base_servers import TOKEN, checkpoint, fetch, hub_env, refusal


def test_a_checkpoint_from_the_hub_is_held_to_its_hash_and_cached(hub: Hub, tmp_path: Path) -> None:
    repo = hub.state.make_repo("model", "me/model", private=True)
    content = checkpoint()
    hub.state.add_files(
        repo, {"model.safetensors": content, "README.md": b"---\nlicense: mit\n---"}
    )
    secrets = Secrets(values={"HF_TOKEN": TOKEN})
    base = fetch("hf://me/model", tmp_path, secrets=secrets, environ=hub_env(hub))
    assert base.path.read_bytes() == content
    assert base.hub_id == "me/model"
    (digest,) = [each for each in hub.state.large if hub.state.large[each] == content]
    hub.state.large[digest] = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(SettingsError, match="not the expected file"):
        fetch("hf://me/model", tmp_path / "new", secrets=secrets, environ=hub_env(hub))
    away = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    saved = fetch("hf://me/model", tmp_path, secrets=secrets, environ=away)
    assert saved.path == base.path  # the Hub cannot be reached: the cached file is taken


def test_a_diffusers_folder_from_the_hub_is_whole(hub: Hub, tmp_path: Path) -> None:
    repo = hub.state.make_repo("model", "me/tiny")
    names = [path for path in base_dir().rglob("*") if path.is_file()]
    files = {f"sub/{path.relative_to(base_dir()).as_posix()}": path.read_bytes() for path in names}
    hub.state.add_files(repo, {**files, "sub/unet/diffusion_pytorch_model.bin": b"pickle"})
    base = fetch("hf://me/tiny/sub", tmp_path, environ=hub_env(hub))
    assert inspect_base(base.path, name="x").family == inspect_base(base_dir(), name="x").family
    assert not list(base.path.rglob("*.bin"))


def test_a_cut_file_from_the_hub_is_resumed_and_the_token_stays_with_the_hub(
    hub: Hub, tmp_path: Path
) -> None:
    repo = hub.state.make_repo("model", "me/model", private=True)
    hub.state.add_files(repo, {"model.safetensors": checkpoint(30_000_000)})
    cut: list[SeenRequest] = []

    def once(sent: SeenRequest) -> Spoil | None:
        if sent.method == "GET" and "/large/" in sent.path and not cut:
            cut.append(sent)
            return Spoil(cut=True)
        return None

    with fault_proxy(hub.port) as proxy:
        proxy.fault = once
        fetch(
            "hf://me/model/model.safetensors",
            tmp_path,
            secrets=Secrets(values={"HF_TOKEN": TOKEN}),
            environ={"HF_ENDPOINT": f"http://127.0.0.1:{proxy.port}"},
        )
    large = [
        seen_request
        for seen_request in proxy.seen
        if seen_request.method == "GET" and "/large/" in seen_request.path
    ]
    assert not any("Authorization" in seen_request.headers for seen_request in large)
    ranges = [seen_request.headers.get("Range") for seen_request in large]
    assert ranges[0] is None
    assert ranges[1] == "bytes=10485760-"
    assert list(tmp_path.rglob("*.part")) == []


def test_a_second_start_resumes_what_the_first_could_not_end(hub: Hub, tmp_path: Path) -> None:
    """Also where the first one's process ended: all that is used of it is in the cache."""
    content = checkpoint(30_000_000)
    hub.state.add_files(hub.state.make_repo("model", "me/model"), {"model.safetensors": content})

    def cut_and_refuse(sent: SeenRequest) -> Spoil | None:
        if sent.method != "GET" or "/large/" not in sent.path:
            return None
        return Spoil(status=403) if "Range" in sent.headers else Spoil(cut=True)

    with fault_proxy(hub.port) as proxy:
        env = {"HF_ENDPOINT": f"http://127.0.0.1:{proxy.port}"}
        proxy.fault = cut_and_refuse
        assert "access denied" in refusal("hf://me/model", tmp_path, environ=env)
        proxy.fault = lambda sent: None
        proxy.seen.clear()
        assert fetch("hf://me/model", tmp_path, environ=env).path.read_bytes() == content
    ranges = [
        seen_request.headers.get("Range")
        for seen_request in proxy.seen
        if "/large/" in seen_request.path
    ]
    assert ranges == ["bytes=10485760-"]


def test_files_of_the_hub_are_where_other_programs_look_for_them(hub: Hub, tmp_path: Path) -> None:
    content = checkpoint()
    commit = hub.state.add_files(
        hub.state.make_repo("model", "me/model"), {"a/model.safetensors": content}
    )
    home, reported = tmp_path / "hf-home", []
    env = {**hub_env(hub), "HF_HOME": str(home)}
    base = fetch(
        "hf://me/model/a",
        tmp_path / "one",
        environ=env,
        on_bytes=lambda *each: reported.append(each),
    )
    assert base.path.read_bytes() == content
    assert reported[-1] == (len(content), len(content))
    found = hf_hub_download(
        "me/model",
        "a/model.safetensors",
        revision=commit.sha,
        cache_dir=home / "hub",
        local_files_only=True,
    )
    assert Path(found).read_bytes() == content
    own = tmp_path / "two"
    away = {"HF_HOME": str(tmp_path / "other"), "TENNER_CACHE_DIR": str(own), **hub_env(hub)}
    assert fetch("hf://me/model/a", own, environ=away).path.resolve().is_relative_to(own)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("trouble", ["unreachable", "HF_HUB_OFFLINE"])
def test_a_file_in_the_hub_s_own_cache_needs_no_network(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    content, home = checkpoint(), tmp_path / "hf-home"
    hub.state.add_files(hub.state.make_repo("model", "me/model"), {"model.safetensors": content})
    hf_hub_download("me/model", "model.safetensors", endpoint=hub.url, cache_dir=home / "hub")
    monkeypatch.setattr("tenner.base.source.from_hub._LISTING_SECONDS", 1.0)
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(home)}
    if trouble == "HF_HUB_OFFLINE":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        env["HF_ENDPOINT"] = hub.url
    requested = "hf://me/model/model.safetensors"
    assert fetch(requested, tmp_path / "x", environ=env).path.read_bytes() == content
    assert "model" in refusal("hf://me/absent/model.safetensors", tmp_path / "y", environ=env)


def test_a_spoilt_file_in_tenner_s_cache_is_fetched_anew(hub: Hub, tmp_path: Path) -> None:
    content = checkpoint()
    hub.state.add_files(hub.state.make_repo("model", "me/model"), {"model.safetensors": content})
    base = fetch("hf://me/model", tmp_path, environ=hub_env(hub))
    (base.path.parent / "complete.json").unlink()
    base.path.resolve().write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert fetch("hf://me/model", tmp_path, environ=hub_env(hub)).path.read_bytes() == content


def test_a_gated_file_is_reported_with_its_page(hub: Hub, tmp_path: Path) -> None:
    """The Hub lists the files of a gated repo to everyone, and refuses only their content."""
    hub.state.add_files(
        hub.state.make_repo("model", "me/gated"), {"model.safetensors": checkpoint()}
    )
    with fault_proxy(hub.port) as proxy:
        proxy.fault = lambda sent: (
            Spoil(status=403, headers={"X-Error-Code": "GatedRepo", "X-Error-Message": "terms"})
            if "/resolve/" in sent.path
            else None
        )
        env = {"HF_ENDPOINT": f"http://127.0.0.1:{proxy.port}"}
        with pytest.raises(SettingsError, match="this repo is gated") as raised:
            fetch("hf://me/gated", tmp_path, environ=env)
    (problem,) = raised.value.problems
    assert f"open {env['HF_ENDPOINT']}/me/gated, accept its terms" in problem.fix


@pytest.mark.parametrize("status", [401, 403])
def test_access_to_a_gated_base_is_checked_before_anything_is_rented(
    hub: Hub, tmp_path: Path, status: int
) -> None:
    """FLUX.1 dev by its short name: refused with its page while the licence is not accepted."""
    known = next(each for each in KNOWN_BASES if each.name == "flux-dev")
    repo = hub.state.make_repo("model", known.hub_id)
    hub.state.add_files(repo, {known.file: checkpoint()})
    with fault_proxy(hub.port) as proxy:
        proxy.fault = lambda sent: (
            Spoil(status=status, headers={"X-Error-Code": "GatedRepo", "X-Error-Message": "terms"})
            if "/resolve/" in sent.path
            else None
        )
        env = {"HF_ENDPOINT": f"http://127.0.0.1:{proxy.port}", "HF_HOME": str(tmp_path)}
        (problem,) = access_problems(known, env)
    assert problem.level == "error"
    assert "open https://huggingface.co/black-forest-labs/FLUX.1-dev, accept its" in problem.fix
    assert access_problems(replace(known, is_gated=False), env) == ()
    silent = {**env, "HF_ENDPOINT": "http://127.0.0.1:9"}
    (note,) = access_problems(known, silent)  # `train` checks again
    assert note.level == "note"
    assert "the Hub did not answer whether you may fetch it" in note.text
    repo_dir = tmp_path / "hub" / f"models--{known.hub_id.replace('/', '--')}"
    cached = repo_dir / "snapshots" / known.revision / known.file
    cached.parent.mkdir(parents=True)
    cached.write_bytes(checkpoint())
    assert access_problems(known, silent) == ()
    assert note.fix == problem.fix


def test_free_space_and_size_are_checked_before_a_file_of_the_hub_is_fetched(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.state.add_files(
        hub.state.make_repo("model", "me/model"), {"model.safetensors": checkpoint()}
    )
    with fault_proxy(hub.port) as proxy:
        env = {"HF_ENDPOINT": f"http://127.0.0.1:{proxy.port}"}
        with monkeypatch.context() as small:
            small.setattr("shutil.disk_usage", lambda path: type("", (), {"free": 1000})())
            with pytest.raises(SettingsError, match=r"has 300\.2 kB, but .*hub"):
                fetch("hf://me/model", tmp_path / "x", environ=env)
        monkeypatch.setattr("tenner.base.source.from_hub.MAX_BYTES", 1000)
        assert "is larger than" in refusal("hf://me/model", tmp_path, environ=env)
    assert not any("/resolve/" in sent.path for sent in proxy.seen)


def test_bytes_of_xet_are_counted_once() -> None:
    """Xet's storage cannot be reached here: its reports are passed to the library's own counter."""
    from huggingface_hub.utils._xet_progress_reporting import XetDownloadProgressReporter

    reported: list[int] = []
    report = type("Report", (Report,), {"on_progress": staticmethod(reported.append)})
    state = SimpleNamespace(
        total_bytes=100, total_bytes_completion_rate=1.0, total_transfer_bytes_completion_rate=1.0
    )
    with XetDownloadProgressReporter(
        reconstruction_desc="x", total=100, log_level=0, tqdm_class=report
    ) as progress:
        for written, arrived in ((0, 30), (40, 70), (100, 90)):
            state.total_bytes_completed, state.total_transfer_bytes_completed = written, arrived
            progress.update_progress(state)
    assert reported == [40, 100]


@pytest.mark.parametrize("folder", ["", "sub/"])
def test_what_the_hub_s_own_cache_holds_is_not_fetched_again(
    hub: Hub, tmp_path: Path, folder: str
) -> None:
    """As another program fetched it; a file there that is another one is not taken."""
    repo = hub.state.make_repo("model", "me/model")
    content, name = checkpoint(2_000_000), f"{folder}model.safetensors"
    hub.state.add_files(repo, {name: content})
    home = tmp_path / "hf-home"
    cached = hf_hub_download("me/model", name, endpoint=hub.url, cache_dir=home / "hub")
    with fault_proxy(hub.port) as proxy:
        env = {"HF_ENDPOINT": f"http://127.0.0.1:{proxy.port}", "HF_HOME": str(home)}
        base = fetch(f"hf://me/model/{name}", tmp_path / "new", environ=env)
        assert base.path.read_bytes() == content
        assert [sent for sent in proxy.seen if "/large/" in sent.path] == []
        Path(cached).resolve().write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        base = fetch(f"hf://me/model/{name}", tmp_path / "other", environ=env)
        assert base.path.read_bytes() == content


def test_a_known_base_in_the_hub_s_own_cache_needs_no_network(hub: Hub, tmp_path: Path) -> None:
    content, file = checkpoint(), "model.safetensors"
    commit = hub.state.add_files(hub.state.make_repo("model", "me/model"), {file: content})
    home = tmp_path / "hf-home"
    hf_hub_download("me/model", file, revision=commit.sha, endpoint=hub.url, cache_dir=home / "hub")
    address = parse_base_address("sdxl")
    assert address is not None
    assert address.known is not None
    digest = hashlib.sha256(content).hexdigest()
    known = replace(address.known, file=file, revision=commit.sha, sha256=digest)
    address = replace(address, location="me/model", path=file, revision=commit.sha, known=known)
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(home)}
    for _ in range(2):
        base = fetch_base(address, cache=tmp_path / "x", secrets=NO_SECRETS, environ=env)
        assert base.path.read_bytes() == content
        assert base.licence == known.licence


@pytest.mark.parametrize(
    ("requested", "says", "fix"),
    [
        ("hf://me/none", "no such repo", "HF_TOKEN"),
        ("hf://me/gated", "gated", "accept its terms"),
        ("hf://me/open@nowhere", "no such branch", "after @"),
        ("hf://me/open/absent.safetensors", "there is no absent.safetensors", "letter for letter"),
    ],
)
def test_what_the_hub_refuses_is_reported(
    hub: Hub, tmp_path: Path, requested: str, says: str, fix: str
) -> None:
    hub.state.make_repo("model", "me/gated").gated = True
    hub.state.make_repo("model", "me/open")
    with pytest.raises(SettingsError) as raised:
        fetch(requested, tmp_path, environ=hub_env(hub))
    (problem,) = raised.value.problems
    assert says in problem.text
    assert fix in problem.fix
