"""The catalogues of translations: whole, current, of the same values; and how a page shows them."""

import ast
import errno
import json
import os
import pickle
import re
import string
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po

from scripts import catalogues
from tenner.core.errors import Problem
from tenner.core.events import Warned, parse_event
from tenner.core.messages import Message, as_message, has_id, joined, message_of, msg, plural
from tenner.core.secrets import Secrets
from tenner.engines.sd_scripts.log_lines import PHASES
from tenner.report import labels
from tenner.sample.job import SampleJob
from tenner.ui.translation import SYSTEM_ERRORS, counted_label, in_both_languages, label, translated
from tests.hardware.fake_smi import card, install_smi
from tests.hardware.program import photos, sparse_base

ARABIC = re.compile(r"[\u0600-\u06ff]")


def arabic(text: str) -> str:
    found = translated(text, "ar")
    assert found is not None, text
    return found.striptags()


def read(path: Path) -> Catalog:
    with path.open("rb") as file:
        return read_po(file)


def strings(text: str | tuple[str, ...] | list[str]) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else tuple(text)


def names(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


def test_the_catalogues_hold_the_program_s_messages() -> None:
    """`python -m scripts.catalogues` brings them up to date."""
    text = {strings(each.id) for each in catalogues.extracted() if each.id}
    assert text == {strings(each.id) for each in read(catalogues.TEMPLATE) if each.id}
    for path in catalogues.translations():
        assert text == {strings(each.id) for each in read(path) if each.id}, path


@pytest.mark.parametrize("path", catalogues.translations(), ids=lambda path: path.parts[-3])
def test_every_text_is_translated(path: Path) -> None:
    assert catalogues.missing(read(path)) == []


TEXT_ARGUMENTS = {"text", "fix", "reason", "why", "why_checkpointing", "why_accumulation"}
"""Arguments that people read."""
TEXT_MAKERS = re.compile(
    r"(Problem|Warned|Failed|Choice|BatchChoice|ChosenEngine|Rule|Finding|FileIssue)$"
    r"|(Error|BudgetReached|Stopped)$"
)
ERRORS = re.compile(r"^(Tenner|Settings|Dataset|Machine|Training|Delivery|Transient)Error$")


def plain_texts(path: Path) -> list[int]:
    """Lines where a text that people read is made without an id."""
    found: list[int] = []
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(call, ast.Call):
            continue
        name = getattr(call.func, "id", "") or getattr(call.func, "attr", "")
        if not TEXT_MAKERS.search(name):
            continue
        texts = [each.value for each in call.keywords if each.arg in TEXT_ARGUMENTS]
        texts += call.args[:1] if ERRORS.search(name) else []
        for value in texts:
            either = (value.body, value.orelse) if isinstance(value, ast.IfExp) else (value,)
            for each in either:
                is_text = isinstance(each, ast.Constant) and isinstance(each.value, str)
                if isinstance(each, ast.JoinedStr | ast.BinOp) or (is_text and each.value):
                    found.append(each.lineno)
    return found


@pytest.mark.parametrize(
    "path",
    sorted(catalogues.PACKAGE.rglob("*.py")),
    ids=lambda path: str(path.relative_to(catalogues.PACKAGE)),
)
def test_what_people_read_is_made_of_an_id_and_values(path: Path) -> None:
    assert plain_texts(path) == []


def test_every_message_is_given_its_values() -> None:
    for path in catalogues.PACKAGE.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            maker = getattr(getattr(call, "func", None), "id", "")
            if not isinstance(call, ast.Call) or maker not in ("msg", "plural"):
                continue
            ids = [ast.literal_eval(each) for each in call.args[: 1 if maker == "msg" else 2]]
            expected = set[str]().union(*map(names, ids)) - ({"n"} if maker == "plural" else set())
            assert {each.arg for each in call.keywords} == expected, (path, ids)


@pytest.mark.parametrize("path", catalogues.translations(), ids=lambda path: path.parts[-3])
def test_a_translation_has_the_names_of_its_original(path: Path) -> None:
    for each in read(path):
        if not each.id:
            continue
        expected = set[str]().union(*map(names, strings(each.id)))
        for form in filter(None, strings(each.string)):
            left = expected - names(form)
            assert names(form) <= expected, each.id
            assert left == set() or (left == {"n"} and isinstance(each.id, tuple)), each.id


def test_the_arabic_is_arabic_with_all_six_forms() -> None:
    catalogue = read(catalogues.LOCALE / "ar" / "LC_MESSAGES" / "tenner.po")
    assert catalogue.num_plurals == 6
    for each in catalogue:
        words = re.sub(r"\{\w*\}", "", strings(each.id)[0]) if each.id else ""
        if " " not in words.strip() or not any(map(str.isalpha, words)):
            continue  # a name that is the same in every language, or a form without words
        for form in filter(None, strings(each.string)):
            is_code = words == re.sub(r"\{\w*\}", "", form)
            assert ARABIC.search(form) or is_code, each.id


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "لا صور"),
        (1, "صورة واحدة"),
        (2, "صورتان"),
        (3, "3 صور"),
        (6, "6 صور"),
        (10, "10 صور"),
        (11, "11 صورة"),
        (20, "20 صورة"),
        (100, "100 صورة"),
        (102, "102 صورة"),
        (103, "103 صور"),
        (1011, "1,011 صورة"),
    ],
)
def test_numbers_choose_their_form_as_cldr_has_it(number: int, expected: str) -> None:
    text = plural("{n} image", "{n} images", number)
    assert text == (f"{number:,} image" if number == 1 else f"{number:,} images")
    assert arabic(text) == expected


def test_a_message_is_its_english() -> None:
    text = msg("{path} cannot be written: {why}", path=Path("/x"), why="full")
    assert text == "/x cannot be written: full"
    assert f"{text}." == "/x cannot be written: full."
    assert json.dumps(text) == '"/x cannot be written: full"'
    again = pickle.loads(pickle.dumps(text))
    assert isinstance(again, Message)
    assert (again, again.msgid, again.values) == (text, text.msgid, text.values)
    assert str(ValueError(text)) == text
    assert isinstance(str(ValueError(text)), Message)


def test_a_value_that_is_a_message_is_translated_with_it() -> None:
    names_ = msg("{names} and {more} more", names="a.png, b.png", more="3")
    text = msg(
        "{images} blurred even where sharpest: {names}",
        images=plural("{n} image", "{n} images", 2),
        names=names_,
    )
    assert text == "2 images blurred even where sharpest: a.png, b.png and 3 more"
    assert "صورتان" in arabic(text)
    assert arabic(text).endswith("a.png, b.png و3 غيرها")
    assert arabic(joined(text, msg("trying again"))).endswith("؛ تُعاد المحاولة")


def test_an_event_carries_its_message_through_the_log() -> None:
    text = msg("the page {report} cannot be written: {why}", report="r.html", why="no {space}")
    event = Warned(text=text, fix=msg("trying again"))
    line = event.to_json()
    assert json.loads(line)["text"] == "the page r.html cannot be written: no {space}"
    read_back = parse_event(line)
    assert read_back == event
    assert isinstance(read_back, Warned)
    assert isinstance(read_back.text, Message)
    assert read_back.text.msgid == text.msgid
    assert isinstance(read_back.fix, Message)


@pytest.mark.parametrize(
    "found",
    [
        None,
        3,
        {},
        {"msgid": "{x}"},
        {"msgid": "{x}", "values": []},
        {"msgid": "{x}", "values": {}},
        {"msgid": "{x.y}", "values": {"x": "a"}},
        {"msgid": "another text", "values": {}},
        {"msgid": "{", "values": {}},
        {"msgid": "a", "values": {}, "many": 3},
    ],
)
def test_a_log_with_other_messages_is_shown_as_it_stands(found: object) -> None:
    saved = message_of(found, "the text")
    assert saved == "the text"
    assert not has_id(saved)


def test_another_programs_words_are_shown_as_they_are_and_written_without_an_id() -> None:
    foreign = as_message("No such container: sesame-open")
    assert foreign == "No such container: sesame-open"
    assert translated(foreign, "ar") is None
    assert "messages" not in Warned(text=foreign).to_json()
    assert pickle.loads(pickle.dumps(foreign)) == foreign
    secrets = Secrets(values={"HF_TOKEN": "sesame-open"})
    assert "sesame" not in secrets.redact(foreign)
    own = msg("in use by {holder}", holder="a {brace}")
    assert as_message(own) is own


def test_a_problem_takes_messages_alone() -> None:
    """So that pyright refuses a text without an id, which no catalogue could translate."""
    hints = get_type_hints(Problem)
    assert hints["text"] is hints["fix"] is Message


def test_redacting_keeps_the_message() -> None:
    secrets = Secrets(values={"HF_TOKEN": "sesame-open"})
    text = secrets.redact(msg("{name} could not be saved: {error}", name="x", error="sesame-open"))
    assert isinstance(text, Message)
    assert "sesame" not in text
    assert "sesame" not in json.dumps(text.to_json())


def test_what_is_not_known_stays_english_and_what_is_hostile_stays_text() -> None:
    assert translated("ENOENT: no such thing", "ar") is None
    assert translated(msg("no text of tenner: {x}", x=1), "ar") is None
    page = in_both_languages(msg("no samples: {error}", error="<script>alert(1)</script>{n}"))
    assert "<script" not in page
    assert "{n}" in page
    page = label("limit {value}", value="<img src=x>")
    assert "<img" not in page


def test_reasons_of_the_system_are_translated_and_names_are_not() -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    text = msg("the page {report} cannot be written: {why}", report="base", why=error.strerror)
    assert "base" in arabic(text)
    assert "space" not in arabic(text)
    for number in (errno.EACCES, errno.EIO, errno.EROFS, errno.EDQUOT, errno.ENOENT):
        assert os.strerror(number) in SYSTEM_ERRORS


def test_code_numbers_and_units_keep_their_direction() -> None:
    text = msg("needs {plain} GB without it", plain="9.8")
    assert '<bdi dir="ltr"><bdi dir="ltr">9.8</bdi> GB</bdi>' in (translated(text, "ar") or "")
    text = msg("${usd} of ${limit}", usd="1.20", limit="10.00")
    assert '<bdi dir="ltr">$<bdi dir="ltr">1.20</bdi></bdi>' in (translated(text, "ar") or "")
    text = msg("set learning_rate = 1e-4, or train longer; {again}", again="x")
    assert '<bdi dir="ltr">learning_rate = 1e</bdi>' not in (translated(text, "ar") or "")
    assert '<bdi dir="ltr">-23 %</bdi>' in label("limit {value}", value="-23 %")


def test_labels_of_the_page_count_too() -> None:
    page = counted_label("The first is shown.", "The first {n} are shown.", 60)
    assert "The first" in page
    assert ARABIC.search(page)


@pytest.mark.parametrize(
    ("name", "memory", "capability", "settings"),
    [
        ("NVIDIA GeForce RTX 4090", 24564, "8.9", {}),
        ("Tesla T4", 15360, "7.5", {"effective_batch_size": 24, "max_train_steps": 9}),
        ("NVIDIA GeForce RTX 3060", 12288, "8.6", {"max_hours": 0.5, "attention": "xformers"}),
    ],
)
def test_all_texts_of_a_plan_have_their_translation(
    tmp_path: Path, name: str, memory: int, capability: str, settings: dict[str, object]
) -> None:
    photos(tmp_path / "photos", 16, side=320)
    env = install_smi(tmp_path, [card(name, memory, "550.54.14", capability)])
    env |= {"TENNER_MODELS_DIR": str(sparse_base(tmp_path / "models")), "HOME": str(tmp_path)}
    job = json.dumps({"dataset": "photos", "engine": "native", **settings})
    program = Path(__file__).with_name("plan_texts.py")
    done = subprocess.run(
        [sys.executable, str(program), job],
        cwd=tmp_path,
        env={"PATH": str(tmp_path), "LANG": "C.UTF-8", **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_every_phase_of_a_training_has_its_words() -> None:
    named = re.compile(r'Phase\(name="([a-z ]+)"|\.begin\("([a-z ]+)"|_phase\("([a-z ]+)"')
    sources = [
        catalogues.PACKAGE / "pipeline" / "run.py",
        catalogues.PACKAGE / "pipeline" / "sampler.py",
        catalogues.PACKAGE / "cli" / "demo.py",
    ]
    sources += [*(catalogues.PACKAGE / "engines").rglob("*.py")]
    text = {name for file in sources for each in named.findall(file.read_text()) for name in each}
    text |= {*PHASES.values(), SampleJob.__dataclass_fields__["phase"].default}
    assert {"loading", "sampling"} <= text
    silent = {each for each in text if each and each not in labels.PHASES}
    assert silent == {"training"}  # that is what a state of training says itself
