"""The Arabic of what the program says: whole, of the same values, and on the page."""

import json
import re
from pathlib import Path

import pytest
from sentences import ROOT, sentences

from tenner.engines.sd_scripts.log_lines import PHASES
from tenner.report.arabic import in_arabic
from tenner.report.arabic import sentences as catalogue
from tenner.report.page import known_word
from tenner.sample.job import SampleJob
from tests.hardware.fake_smi import card, install_smi
from tests.hardware.program import photos, sparse_base, tenner

NO_PAGE = (
    "dataset/captioning",
    "cli/caption.py",
    "queue",
    "cli/plan.py",
    "cli/inspect_lora.py",
    "lora_files/programs.py",
    "cli/main.py",
    "cli/doctor.py",
    "pipeline/comparing.py",
)
"""What is said where no run has a page."""
STAYS_ENGLISH = {
    "pip install tensorboard",
    "HTTP {}",
    "network_weights = {file}",
    "https://huggingface.co/settings/tokens",
    "pip install 'tenner[hub]'",
    "pip install 'tenner[s3]'",
    '{{"file_name": "photo1.jpg", "text": "a photo of …"}}',  # an example of a file
}


def plain(template: str) -> str:
    return re.sub(r"\$?\{\w*\}", "{}", template)


KNOWN = {plain(each) for each in catalogue()}


@pytest.mark.parametrize(
    "module",
    [
        each
        for each in sorted(ROOT.rglob("*.py"))
        if not str(each.relative_to(ROOT)).startswith(NO_PAGE)
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_sentence_of_the_page_has_its_arabic(module: Path) -> None:
    """A new one belongs into arabic.json, under its English with a name for each value."""
    said = {plain(each) for each in sentences(module) - STAYS_ENGLISH}
    assert said - KNOWN == set()


def test_the_arabic_carries_the_same_values() -> None:
    for english, arabic in catalogue().items():
        names = sorted(re.findall(r"\{(\w+)\}", english))
        told = sorted(re.findall(r"\{(\w+)\}", arabic))
        assert names == told or {"{n}"} == set(re.findall(r"\{\w+\}", english)), english
        is_arabic = re.search(r"[\u0600-\u06ff]", arabic)
        is_code = english in STAYS_ENGLISH or " " not in english
        assert is_arabic or is_code, english


@pytest.mark.parametrize(
    ("english", "arabic"),
    [
        ("20 images: enough for a simple concept", "20 صورة: تكفي لمفهوم بسيط"),
        (
            "the guide's for RTX 4090; needs 9.8 of 25.2 GB",
            "قيمة الدليل لبطاقة RTX 4090؛ تحتاج 9.8 من 25.2 GB",
        ),
        (
            "captions: 18 of 20 images; no: a.txt and 3 more",
            "الأوصاف: 18 من 20 صورة؛ no: a.txt و3 غيرها",
        ),
        (
            "training failed: sd-scripts ended with code 1\n    KeyError",
            "فشل التدريب: انتهى sd-scripts بالرمز 1KeyError",
        ),
        ("$0.34 an hour, as you said", "$0.34 في الساعة، كما ذكرت"),
        ("1 h 05 m", "1 س 05 د"),
        (
            "s3://loras/x: its README.md was edited by hand and stays as it is",
            "s3://loras/x: عُدّل README.md يدويًا فبقي كما هو",
        ),
        (
            "s3://loras/x: there is no such bucket on that server; trying again",
            "s3://loras/x: لا توجد حاوية (bucket) كهذه على ذلك الخادم؛ تُعاد المحاولة",
        ),
        (
            '3 of 20 captions without the trigger "x"; they write "y" 3 times: a.txt and 1 more',
            '3 من 20 وصفًا دون عبارة التفعيل "x"؛ كُتبت "y" 3 times: a.txt و1 غيرها',
        ),
    ],
)
def test_values_go_over_and_parts_are_told_in_arabic_too(english: str, arabic: str) -> None:
    told = in_arabic(english)
    assert told is not None
    assert told.striptags() == arabic


def test_what_is_not_known_stays_and_what_is_hostile_stays_text() -> None:
    assert in_arabic("ENOENT: no such thing") is None
    assert in_arabic("x; " * 2000) is None
    told = in_arabic("see <script>alert(1)</script>{n}")
    assert told is not None
    assert "<script" not in told
    assert "{n}" in told


def test_settings_and_numbers_keep_their_direction() -> None:
    told = in_arabic('set num_repeats, or name the folder "10_cat"')
    assert told is not None
    assert '<bdi dir="ltr">"<bdi dir="ltr">10</bdi>_<bdi dir="ltr">cat</bdi>"</bdi>' in told
    told = in_arabic("no pictures are drawn: the budget is used up ($9.99 of $10.00)")
    assert told is not None
    assert '<bdi dir="ltr">$9.99</bdi>' in told


@pytest.mark.parametrize(
    ("name", "memory", "capability", "words"),
    [
        ("NVIDIA GeForce RTX 4090", 24564, "8.9", ()),
        ("Tesla T4", 15360, "7.5", ("--effective_batch_size", "24", "--max_train_steps", "9")),
        (
            "NVIDIA GeForce RTX 3060",
            12288,
            "8.6",
            ("--max_hours", "0.5", "--attention", "xformers"),
        ),
    ],
)
def test_all_that_a_plan_says_is_told_in_arabic(
    tmp_path: Path, name: str, memory: int, capability: str, words: tuple[str, ...]
) -> None:
    photos(tmp_path / "photos", 16, side=320)
    env = install_smi(tmp_path, [card(name, memory, "550.54.14", capability)])
    env |= {"TENNER_MODELS_DIR": str(sparse_base(tmp_path / "models"))}
    job = ("photos", "--engine", "native", *words)
    done = tenner("plan", *job, "--json", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    said = [each["reason"] for each in plan["choices"]]
    said += [text for each in plan["notices"] for text in (each["text"], each["fix"]) if text]
    assert [text for text in said if in_arabic(text) is None] == []


def test_every_phase_of_a_training_has_its_words() -> None:
    named = re.compile(r'Phase\(name="([a-z ]+)"|\.begin\("([a-z ]+)"|_phase\("([a-z ]+)"')
    rooms = [
        ROOT / "pipeline" / "run.py",
        ROOT / "pipeline" / "sampler.py",
        ROOT / "cli" / "demo.py",
    ]
    rooms += [*(ROOT / "engines").rglob("*.py")]
    said = {name for room in rooms for each in named.findall(room.read_text()) for name in each}
    said |= {*PHASES.values(), SampleJob.__dataclass_fields__["phase"].default}
    assert {"loading", "sampling"} <= said
    silent = {each for each in said if each and not known_word(f"phase_{each}")}
    assert silent == {"training"}  # that is what a state of training says itself
