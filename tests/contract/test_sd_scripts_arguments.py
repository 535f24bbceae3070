"""Our arguments against sd-scripts' parsers: rebuilt from the facts, and the real ones.

The real parsers are asked where SD_SCRIPTS_DIR and TENNER_TRAINER_PYTHON name them.
"""

import argparse
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenner.core.family import Family
from tenner.engines.sd_scripts.arguments import Paths, arguments, translate
from tenner.engines.sd_scripts.engine import Job, command
from tenner.engines.sd_scripts.find import Trainer
from tenner.families import FAMILIES
from tenner.kohya.options import OWNED, Option, Value, options
from tests.train_options import train_options

TYPES = {"str": str, "path": str, "int": int, "float": float}


class Strict(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise AssertionError(message)


def int_or_float(text: str) -> int | float:
    if text.endswith("%"):
        return float(text[:-1]) / 100
    return int(text) if float(text) >= 1 else float(text)


def parser_from_facts(family: Family) -> Strict:
    parser = Strict(allow_abbrev=False)
    script = FAMILIES[family].script
    for option in (each.of(script) for each in options().values() if each.is_of(script)):
        add_to(parser, option)
    return parser


def add_to(parser: Strict, option: Option) -> None:
    if option.kind == "switch":
        parser.add_argument(f"--{option.name}", action="store_true")
        return
    kind: Any = TYPES.get(option.kind, int_or_float)
    parser.add_argument(
        f"--{option.name}",
        type=kind,
        default=option.default,
        choices=option.choices or None,
        nargs="*" if option.many else None,
    )


def value_of(option: Option) -> st.SearchStrategy[Value]:
    text = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=20)
    word = st.from_regex(r"[a-z_]{1,8}=[a-z0-9.]{1,8}", fullmatch=True)
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "str": word if option.many else text,
        "path": text,
        "int": st.integers(-(2**31), 2**31),
        "float": st.floats(allow_nan=False, allow_infinity=False),
        "int_or_float": st.integers(0, 10**6) | st.floats(0, 0.999),
        "switch": st.booleans(),
    }
    one = kinds[option.kind]
    if option.many and option.kind == "float":
        one = st.floats(0, 10)
    if option.choices:
        one = st.sampled_from([each for each in option.choices if each is not None])
    return st.lists(one, min_size=1, max_size=3).map(tuple) if option.many else one


SOME_OPTIONS = st.lists(
    st.sampled_from(sorted(options())), unique=True, min_size=1, max_size=25
).flatmap(lambda names: st.fixed_dictionaries({name: value_of(options()[name]) for name in names}))


@given(SOME_OPTIONS)
def test_any_value_of_any_option_arrives_as_it_was_meant(values: dict[str, Value]) -> None:
    every = Strict(allow_abbrev=False)
    for option in options().values():
        add_to(every, option)
    parsed = vars(every.parse_args(arguments(values)))
    for name, value in values.items():
        expected = list(value) if isinstance(value, tuple) else value
        if isinstance(expected, str):
            expected = expected.strip()
        assert parsed[name] == expected


def job(family: Family, expected: dict[str, object], **more: Any) -> Job:
    return Job(
        trainer=Trainer(directory=Path("/opt/sd-scripts"), python=Path("/opt/trainer/bin/python")),
        family=family,
        paths=Paths(
            base_model=Path("/models/a base.safetensors"),
            train_data_dir=Path("/run/data"),
            output_dir=Path("/run/out"),
            output_name="my_lora",
            logging_dir=Path("/run/logs"),
            tokenizers=Path("/models/tokenizers"),
        ),
        options=train_options(**expected),
        num_steps=100,
        steps_per_epoch=10,
        **more,
    )


WANTED: dict[str, object] = {
    "resolution": (512, 768),
    "train_batch_size": 2,
    "learning_rate": 1e-4,
    "text_encoder_lr": (5e-5,),
    "lr_scheduler": "cosine_with_restarts",
    "lr_warmup_steps": 10,
    "network_dim": 32,
    "network_alpha": 16.0,
    "conv_dim": 8,
    "optimizer_type": "AdamW8bit",
    "optimizer_args": ("weight_decay=0.01",),
    "mixed_precision": "fp16",
    "save_every_n_epochs": 2,
    "attention": "sdpa",
    "max_token_length": 225,
}

CASES: list[tuple[Family, int, bool]] = [
    (family, first_step, state)
    for family in FAMILIES
    for first_step, state in ((0, False), (20, True), (25, True))
]


def words(family: Family, first_step: int, state: bool) -> Sequence[str]:
    made = job(family, WANTED)
    at = Path("/run/state/step-00000020") if state else None
    return command(made, made.attempt(first_step), state=at).argv[4:]


@pytest.mark.parametrize(("family", "first_step", "state"), CASES)
def test_every_attempt_of_every_family_is_accepted(
    family: Family, first_step: int, state: bool
) -> None:
    parsed = parser_from_facts(family).parse_args(words(family, first_step, state))
    for name, value in FAMILIES[family].required.items():
        assert getattr(parsed, name) == value
    assert parsed.network_module == FAMILIES[family].lora_module
    assert parsed.resolution == "512,768"
    convolutions = None if FAMILIES[family].transformer else ["conv_dim=8"]
    assert parsed.network_args == convolutions
    assert parsed.resume == ("/run/state/step-00000020" if state else None)


@given(SOME_OPTIONS, st.sampled_from(sorted(FAMILIES)))
@settings(max_examples=50)
def test_any_further_options_are_accepted_by_the_familys_trainer(
    values: dict[str, Value], family: Family
) -> None:
    further = {name: value for name, value in values.items() if name not in OWNED}
    script = FAMILIES[family].script  # the rules refuse what its parser would
    further = {
        name: value
        for name, value in further.items()
        if not options()[name].of(script).choices or value in options()[name].of(script).choices
    }
    reported = arguments(translate({**WANTED, **further}, family=family))
    parser_from_facts(family).parse_args(reported)


PROBE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import argparse, importlib
def facts(parser):
    return [
        dict(name=a.dest, flags=a.option_strings, switch=a.nargs == 0, many=a.nargs == "*",
             type=getattr(a.type, "__name__", None), choices=a.choices,
             default=None if a.nargs == 0 else a.default)
        for a in parser._actions if a.dest != "help"
    ]
cases = json.loads(sys.argv[2])
names = sorted({case["script"] for case in cases})
parsers = {name: importlib.import_module(name[:-3]).setup_parser() for name in names}
for case in cases:
    parsers[case["script"]].parse_args(case["words"])
print("FACTS" + json.dumps({name: facts(each) for name, each in parsers.items()}))
"""


@pytest.mark.sd_scripts
@pytest.mark.skipif("SD_SCRIPTS_DIR" not in os.environ, reason="SD_SCRIPTS_DIR is not set")
def test_the_real_parsers_accept_our_words_and_equal_the_facts() -> None:
    cases = [
        {"script": FAMILIES[family].script, "words": list(words(family, first, state))}
        for family, first, state in CASES
    ]
    done = subprocess.run(
        [
            os.environ["TENNER_TRAINER_PYTHON"],
            "-c",
            PROBE,
            os.environ["SD_SCRIPTS_DIR"],
            json.dumps(cases),
        ],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(
        next(line for line in done.stdout.splitlines() if line.startswith("FACTS"))[5:]
    )
    assert len(found) == 7
    for name in found:
        known = {each.name: each.of(name) for each in options().values() if each.is_of(name)}
        assert {each["name"] for each in found[name]} == set(known)
        for each in found[name]:
            option = known[each["name"]]
            assert each["flags"] == [f"--{option.name}"]
            assert each["switch"] == (option.kind == "switch")
            assert each["many"] == option.many
            untyped = "switch" if each["switch"] else "str"
            assert (each["type"] or untyped).lower() == option.kind
            assert tuple(each["choices"] or ()) == option.choices
            assert each["default"] == option.default
