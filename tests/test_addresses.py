"""No credential of an address in anything that is printed, written or delivered."""

import json
import pickle
import string
import tomllib
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tenner.base.tiny import concept_dir
from tenner.core.addresses import Address, full_address, without_credentials, without_credentials_in
from tenner.core.errors import DeliveryError, SettingsError
from tenner.core.event_log import EventLog
from tenner.core.events import Failed, Warned
from tenner.core.run_dir import RunDir
from tenner.core.secrets import Secrets, redact_shapes
from tenner.pipeline.preflight import prepare
from tenner.planning.plan import plan_json
from tenner.planning.prepared import Prepared
from tenner.report.live_page import LivePage
from tenner.runs.card import write_card
from tenner.settings import load_request
from tenner.settings.dataset_config import import_dataset_config
from tenner.settings.saved import settings_toml
from tenner.storage.destination_address import parse_destination, parse_destinations
from tenner.supervision.budget import Budget
from tenner.ui.notify import Notifier

SECRET = st.text(string.ascii_letters + string.digits, min_size=12, max_size=30).map("zq".__add__)
ODD = st.text(
    string.ascii_letters + string.digits + "!$'()*+,:@%_~-.=/", min_size=4, max_size=20
).map(lambda text: f"zq{text}qz")
SCHEME = st.sampled_from(["http", "https", "s3", "hf", "HTTPS", "ftp", "webdav+https"])
HOST = st.sampled_from(
    ["host", "host:9000", "huggingface.co", "b.s3.eu-west-1.amazonaws.com", "[::1]:9000", "bucket"]
)
PLACE = ("user", "password", "user alone", "query", "bare query", "matrix", "fragment", "inner")
NAME = st.sampled_from(
    [
        "token",
        "sig",
        "X-Amz-Signature",
        "AWSAccessKeyId",
        "key",
        "se",
        "sv",
        "a",
        "X-Goog-Credential",
    ]
)


def address_with(secret: str, position: str, scheme: str, host: str, name: str) -> str:
    """An address that holds the secret in one place."""
    inner = quote(f"http://me:{secret}@inner:9000", safe="")
    return {
        "user": f"{scheme}://{secret}:word@{host}/me/photos.zip",
        "password": f"{scheme}://alice:{secret}@{host}/me/photos.zip?links=7d",
        "user alone": f"{scheme}://{secret}@{host}/me/photos.zip",
        "query": f"{scheme}://{host}/me/photos.zip?links=7d&{name}={secret}&optional",
        "bare query": f"{scheme}://{host}/me/photos.zip?{secret}",
        "matrix": f"{scheme}://{host}/me;{name}={secret}/photos.zip",
        "fragment": f"{scheme}://{host}/me/photos.zip#{secret}",
        "inner": f"s3://bucket/x?endpoint_url={inner}",
    }[position]


@pytest.mark.parametrize("position", PLACE)
@given(secret=SECRET, scheme=SCHEME, host=HOST, name=NAME)
def test_a_secret_in_any_part_is_in_nothing_that_is_made_of_the_address(
    position: str, secret: str, scheme: str, host: str, name: str
) -> None:
    text = address_with(secret, position, scheme, host, name)
    address = Address(text)
    errors: list[str] = []
    made: list[object] = []
    try:
        made.append(parse_destination(text))
    except SettingsError as error:
        errors += [str(error), repr(error)]
    destinations, problems = parse_destinations([text, address])
    message = f"could not GET {text}: refused"
    shown = (
        *(str(address), repr(address), f"{address}", json.dumps({"a": address}), str(made)),
        *(str(destinations), str(problems), *errors),
        *(without_credentials_in(message), redact_shapes(message), str({"address": address})),
    )
    assert [each for each in shown if secret in each] == []
    assert full_address(address) == text
    assert full_address(pickle.loads(pickle.dumps(address))) == text


@given(secret=ODD, scheme=st.sampled_from(["http", "https", "s3"]))
@example(secret="zq00:/qz", scheme="http")
@example(secret="/zq00", scheme="http")
def test_signs_that_should_have_been_escaped_hide_no_less(secret: str, scheme: str) -> None:
    for text in (f"{scheme}://me:{secret}@host/x", f"{scheme}://host/x?sig={secret}&links=7d"):
        assert secret not in without_credentials(text)


@settings(max_examples=25, deadline=None)
@given(secret=SECRET, position=st.sampled_from(PLACE), name=NAME)
def test_settings_are_saved_without_them_whichever_key_holds_the_address(
    secret: str, position: str, name: str
) -> None:
    text = address_with(secret, position, "https", "host", name)
    keys = ("dataset", "base_model", "vae", "reg_data_dir", "network_weights")
    request = load_request({**dict.fromkeys(keys, text), "destinations": text}, {})
    saved = settings_toml(request)
    assert secret not in saved
    assert secret not in str(request)
    assert set(keys) <= set(tomllib.loads(saved))
    assert full_address(request.settings.dataset) == text


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A run on the tiny base that could start."""
    words = {"base_model": "tiny", "dataset": str(concept_dir()), "device": "cpu"}
    request = load_request(words, {}, read_default_config=False)
    folder = tmp_path_factory.mktemp("run")
    return prepare(request, {}, folder)


@settings(max_examples=30, deadline=None)
@given(secret=SECRET, position=st.sampled_from(PLACE), scheme=SCHEME, name=NAME)
def test_neither_the_page_nor_the_card_nor_the_webhook_shows_one(
    prepared: Prepared, secret: str, position: str, scheme: str, name: str
) -> None:
    """Of a run whose every address holds the secret, and whose errors repeat the address."""
    text = address_with(secret, position, scheme, "host", name)
    keys = ("dataset", "base_model", "vae", "reg_data_dir", "network_weights")
    request = load_request({**dict.fromkeys(keys, text), "destinations": text}, {})
    run = replace(prepared, request=request)
    destinations, _ = parse_destinations(request.settings.destinations)
    sent: list[str] = []
    hook = f"https://hooks.example/{secret}?token={secret}"
    secrets = Secrets(values={"TENNER_WEBHOOK": hook})

    def take(address: str, json: dict[str, Any], **_: object) -> httpx.Response:
        assert address == hook, "the webhook itself is sent to where it is"
        sent.append(str(json))
        return httpx.Response(200)

    message = f"could not GET {text}: refused"
    error = DeliveryError(message, fix=f"open {text}")
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpx, "post", take)
        run_dir = RunDir(Path(folder) / "run").create()
        page = LivePage(
            prepared=run,
            run_dir=run_dir,
            emit=lambda event: None,
            budget=Budget(max_cost_usd=None, max_hours=None, price_per_hour=None),
            secrets=secrets,
        )
        with (
            Notifier("star", secrets, requested_format="json", on_event=page.handle) as news,
            EventLog(run_dir.events) as log,
        ):
            for event in (
                Warned(text=message, fix=text),
                Failed(kind="other", text=message, fix=text),
            ):
                page.handle(event)
                log.append(event)
            news.send("started", message)
            news.send("failed", str(error))
        page.write_ending(error)
        write_card(run, run_dir, None, destinations, num_steps=3)
        run_dir.settings.write_text(settings_toml(request))
        run_dir.plan.write_text(json.dumps(plan_json(run.plan)))
        written = [path for path in run_dir.path.rglob("*") if path.is_file()]
        assert {"report.html", "live.json", "README.md", "events.jsonl"} <= {
            p.name for p in written
        }
        assert [p.name for p in written if secret.encode() in p.read_bytes()] == []
    assert len(sent) == 2
    assert [body for body in sent if secret in body] == []


@given(secret=SECRET, position=st.sampled_from(PLACE), name=NAME)
def test_folders_of_a_dataset_configuration_may_be_addresses(
    secret: str, position: str, name: str
) -> None:
    text = address_with(secret, position, "https", "host", name)
    for more in ({}, {"num_repeats": 0}, {"cache_info": True}, {"conditioning_data_dir": text}):
        row = {"image_dir": text, **more}
        imported = import_dataset_config({"datasets": [{"subsets": [row]}]})
        assert secret not in str(imported)
        assert full_address(imported.subsets[0].image_dir) == text
    captions = {"image_dir": "x", "metadata_file": text}
    refused = import_dataset_config({"datasets": [{"subsets": [captions]}]})
    assert refused.problems
    assert secret not in str(refused)


def test_an_address_that_was_saved_without_its_credentials_is_requested_again(
    tmp_path: Path,
) -> None:
    from tenner.core.errors import DatasetError
    from tenner.storage.http import download

    saved = without_credentials("http://alice:word@127.0.0.1:9/photos.zip?sig=abc")
    with pytest.raises(DatasetError, match="without its password or token"):
        download(saved, tmp_path / "photos.zip", max_bytes=1000)


def test_local_paths_and_plain_addresses_stay_as_they_are() -> None:
    for text in (
        *(
            "./photos",
            "/data/my photos/10_me@work",
            "C:\\photos",
            "~/x?y=1",
            "file:///a/b?optional",
        ),
        *("hf://me/repo@rev/sub", "s3://b/x?endpoint_url=http://host:9000&links=7d", "sd15"),
        *("https://host/x.safetensors", "https://civitai.com/api/download/1?type=Model&fp=fp16"),
    ):
        assert without_credentials(text) == text


def test_an_event_is_logged_without_them(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        log.append(Warned(text="GET https://me:hidden-word@host/x?sig=other-word failed"))
    written = (tmp_path / "events.jsonl").read_text()
    assert "hidden-word" not in written
    assert "other-word" not in written
    assert "https://***@host/x?sig=***" in written
