"""The command line: flags in every spelling, output for people, logs and programs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tenner.base.tiny import concept_dir
from tenner.cli.command_line import COMMANDS, parse_command_line
from tenner.cli.plan import USUAL_CARDS
from tenner.core.errors import SettingsError


def tenner(cwd: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TENNER_")}
    return subprocess.run(
        [sys.executable, "-m", "tenner", *words],
        cwd=cwd,
        env={**clean, "OMP_NUM_THREADS": "1", **environ},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def photos(folder: Path, names: tuple[str, ...] = ("a", "b", "c")) -> Path:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        Image.effect_noise((64, 64), 40 + number).convert("RGB").save(folder / f"{name}.png")
    return folder


@pytest.mark.parametrize("words", [("--version",), ("-V",), ("version",)])
def test_versions(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = tenner(tmp_path, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(r"tenner \d+\.\d+\.\d+\nsd-scripts [0-9a-f]{40}", done.stdout)


def test_help_of_a_command(tmp_path: Path) -> None:
    assert tenner(tmp_path, "help", "plan").stdout == tenner(tmp_path, "plan", "--help").stdout
    everything = tenner(tmp_path, "help")
    assert everything.returncode == 0
    assert all(f"\n    {name}" in everything.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    ("dashed", "plain"),
    [
        (["--base-model", "tiny"], ["--base_model", "tiny"]),
        (["--base-model=tiny"], ["--base_model=tiny"]),
        (["--max-train-steps", "4", "--no-samples"], ["--max_train_steps", "4", "--no_samples"]),
        (["--min-snr-gamma", "5"], ["--min_snr_gamma", "5"]),
        (["--text-encoder-lr", "1e-5", "2e-5"], ["--text_encoder_lr", "1e-5", "2e-5"]),
        (["--nonexistent-flag", "1"], ["--nonexistent_flag", "1"]),
    ],
)
def test_flags_are_read_with_dashes_and_with_underscores(
    dashed: list[str], plain: list[str]
) -> None:
    for command in ("train", "plan", "check"):
        with_dashes = vars(parse_command_line([command, "photos", *dashed]))
        assert with_dashes == vars(parse_command_line([command, "photos", *plain]))
    both = ("--stop-after", "--stop_after")
    first, second = (parse_command_line(["batch", "jobs", each, "2"]) for each in both)
    assert first.stop_after == second.stop_after == "2"


def test_a_value_that_looks_like_a_flag_with_dashes_stays_what_it_is() -> None:
    parsed = parse_command_line(["plan", "my-photos", "--output-name=a-b_c--d"])
    assert (parsed.config, parsed.output_name) == ("my-photos", "a-b_c--d")


@pytest.mark.parametrize("command", ["train", "plan", "check"])
@pytest.mark.parametrize(
    "words", [["flux-dev", "photos"], ["photos", "flux-dev"], ["flux-dev", "--seed", "1", "photos"]]
)
def test_a_base_may_stand_beside_the_dataset(command: str, words: list[str]) -> None:
    parsed = parse_command_line([command, *words])
    assert (parsed.base_model, parsed.config) == ("flux-dev", "photos")


def test_a_folder_called_like_a_base_is_the_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "pony")
    parsed = parse_command_line(["plan", "sdxl", "pony"])
    assert (parsed.base_model, parsed.config) == ("sdxl", "pony")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["sdxll", "photos"], "did you mean the base sdxl?"),
        (["photos", "more"], "write tenner plan photos/ --base_model BASE"),
        (["sdxl", "photos", "more"], "but got: sdxl, photos, more"),
        (["sdxl", "photos", "--base_model", "sd15"], "the base is given twice: sdxl and"),
    ],
)
def test_ambiguous_names_are_reported(words: list[str], answer: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_command_line(["plan", *words])
    (problem,) = caught.value.problems
    assert answer in f"{problem.text} {problem.fix}"


def test_a_base_and_a_folder_are_planned(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    beside = tenner(tmp_path, "plan", "sd15", "photos", "--gpu", "RTX 4090")
    flag = tenner(tmp_path, "plan", "photos", "--base_model", "sd15", "--gpu", "RTX 4090")
    assert (beside.returncode, beside.stdout) == (0, flag.stdout)
    alone = tenner(tmp_path, "plan", "sd15")
    assert (alone.returncode, "name the dataset too: sd15 photos/" in alone.stderr) == (2, True)


def test_without_a_card_the_plan_is_for_those_to_rent_and_the_refusal_stays(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    here = tenner(tmp_path, "plan", "sd15", "photos")
    usual = [word for card in USUAL_CARDS for word in ("--gpu", card)]
    elsewhere = tenner(tmp_path, "plan", "sd15", "photos", *usual)
    assert (here.returncode, elsewhere.returncode) == (4, 0)
    assert here.stdout == elsewhere.stdout
    assert "no GPU here" in here.stderr
    assert elsewhere.stderr.strip() in here.stderr
    document = tenner(tmp_path, "plan", "sd15", "photos", "--json")
    assert (document.returncode, json.loads(document.stdout)["exit_code"]) == (4, 4)
    assert "no GPU here" in json.loads(document.stdout)["problems"][0]["text"]


@pytest.mark.parametrize("command", ["plan", "check", "inspect", "status", "doctor", "batch"])
def test_a_command_that_fails_prints_one_json_document(tmp_path: Path, command: str) -> None:
    words = {"doctor": ["--base_model", "none.safetensors"], "batch": ["none.toml", "--dry-run"]}
    done = tenner(tmp_path, command, *words.get(command, ["none"]), "--json")
    document = json.loads(done.stdout)
    assert done.returncode != 0
    assert command == "doctor" or document["exit_code"] == done.returncode
    assert command == "doctor" or document["problems"][0]["text"]
    assert "Traceback" not in done.stderr


def test_no_command_prints_a_token_that_stands_in_a_wrong_setting(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    token = "hf_" + "a1B2" * 8
    for command in ("plan", "check"):
        words = (command, "photos", "--gpu_budget", token, "--base_model", f"x/{token}", "--json")
        wrong = (command, "photos", "--optimizer_type", token, "--json")
        for done in (tenner(tmp_path, *words), tenner(tmp_path, *wrong)):
            assert done.returncode != 0
            assert token not in done.stdout + done.stderr


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_options_of_all_commands_may_stand_before_them(command: str) -> None:
    words = {
        "caption": ["photos"],
        "batch": ["jobs"],
        "inspect": ["file"],
        "completion": ["bash"],
        **{name: ["run"] for name in ("status", "deliver", "serve")},
    }.get(command, [])
    for option in ("-q", "--quiet"):
        before = parse_command_line([option, command, *words])
        assert vars(before) == vars(parse_command_line([command, *words, option]))
        assert before.quiet


def test_options_before_the_command_do_what_they_do_behind_it(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    words = ("plan", "photos", "--base_model", "sd15", "--gpu", "RTX 4090")
    quiet = tenner(tmp_path, "--quiet", *words)
    assert quiet.returncode == 0, quiet.stderr
    assert "note:" in tenner(tmp_path, *words).stderr
    assert "note:" not in quiet.stderr
    assert json.loads(tenner(tmp_path, "--json", "-q", *words).stdout)["family"] == "sd1"
    assert parse_command_line(["-q", "--version"]).command == "version"
    with pytest.raises(SettingsError) as caught:
        parse_command_line(["--base_model", "sd15", "plan", "photos"])
    assert caught.value.problems[0].fix == "write: tenner plan … --base_model …"


def test_status_of_the_folder_above_names_the_runs_and_batches_in_it(tmp_path: Path) -> None:
    for name, file in (("cat", "ledger.json"), ("jobs.batch", "batch.json"), ("notes", "a.txt")):
        (tmp_path / "output" / name).mkdir(parents=True)
        (tmp_path / "output" / name / file).write_text("{}")
    above = tenner(tmp_path, "status", "output")
    assert above.returncode == 2
    assert "fix: name one of those in it: cat, jobs.batch\n" in above.stderr


def test_a_command_that_there_is_not_is_answered_with_what_was_meant(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    for word, fix in (
        ("trian", "did you mean `tenner train`?"),
        (str(tmp_path / "photos"), f"to train on it: tenner train {tmp_path / 'photos'}"),
        ("xyzzy", "commands are: train, plan"),
    ):
        with pytest.raises(SettingsError) as caught:
            parse_command_line([word])
        assert fix in caught.value.problems[0].fix
    done = tenner(tmp_path, "trian")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)


def test_a_base_of_another_family_or_misspelt_is_named(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    other = tenner(tmp_path, "plan", str(folder), "--base-model", "wan2.1", "--device", "cpu")
    assert "Wan is not among the families that tenner trains" in other.stderr
    typo = tenner(tmp_path, "plan", str(folder), "--base-model", "sdxll", "--device", "cpu")
    assert "did you mean sdxl?" in typo.stderr
    assert other.returncode == typo.returncode == 2


def test_output_is_whole_in_ascii_and_never_wrapped(tmp_path: Path) -> None:
    """File names longer than a terminal is wide can be searched for in a log."""
    name = "a-name-" + "that-goes-on-" * 9 + "and-ends"
    folder = photos(tmp_path / "10_cat", ("a", name))
    (folder / f"{name}.png").write_bytes((folder / f"{name}.png").read_bytes()[:200])
    done = tenner(
        *(tmp_path, "check", str(tmp_path), "--base_model", "tiny", "--resolution", "64"),
        PYTHONIOENCODING="ascii",
        COLUMNS="80",
    )
    assert done.returncode in (0, 3), done.stderr
    assert f"{name}.png" in done.stdout
    assert "64x64" in done.stdout
    assert done.stdout.isascii()
    assert not any(line != line.rstrip() for line in done.stdout.splitlines())
    good = photos(tmp_path / "good")
    plan = tenner(
        *(tmp_path, "plan", str(good), "--base_model", "sd15", "--gpu", "RTX 4090"),
        PYTHONIOENCODING="ascii",
    )
    assert (plan.returncode, "512x512" in plan.stdout) == (0, True)


RUN = (
    *("train", str(concept_dir()), "--base-model", "tiny", "--resolution", "64"),
    *("--batch-size", "2", "--max-train-steps", "2", "--no-samples", "--output-dir"),
)


def test_a_run_for_programs_is_json_lines_and_its_text_goes_to_stderr(tmp_path: Path) -> None:
    done = tenner(tmp_path, *RUN, "out", "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["step"] for each in lines if each["event"] == "step"] == [1, 2]
    result = lines[-1]
    assert result["event"] == "result"
    assert (result["state"], result["exit_code"], result["num_steps"]) == ("delivered", 0, 2)
    assert Path(tmp_path, result["weights"]).is_file()
    logged = {
        json.loads(line)["event"]
        for line in (tmp_path / "out/my_lora/events.jsonl").read_text().splitlines()
    }
    assert logged <= {each["event"] for each in lines}
    shown = [line for line in done.stderr.splitlines() if line]
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in shown)
    again = tenner(tmp_path, *RUN, "out", "--json")
    assert json.loads(again.stdout.splitlines()[-1])["state"] == "delivered before"


def test_a_refused_run_is_reported_to_programs_and_leaves_no_folder(tmp_path: Path) -> None:
    done = tenner(tmp_path, *RUN, "deep/er/out", "--learning_rate", "-3", "--json")
    assert done.returncode == 2
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["event"], result["exit_code"]) == ("result", 2)
    assert "learning_rate" in result["problems"][0]["text"]
    empty = tmp_path / "empty"
    empty.mkdir()
    none = tenner(tmp_path, "train", str(empty), *RUN[2:], "deep/er/out")
    assert none.returncode == 3
    assert [each.name for each in tmp_path.iterdir()] == ["empty"]


def test_a_quiet_run_prints_its_warnings_and_its_result(tmp_path: Path) -> None:
    done = tenner(tmp_path, *RUN, "out", "--quiet")
    assert done.returncode == 0, done.stderr
    kinds = {line.split()[1] for line in done.stderr.splitlines() if line}
    assert kinds <= {"warning:", "fix:"}
    assert "delivered and verified" in done.stdout


SWEEP = """
base_model = "sd15"
dataset = "photos"
[sweep]
network_dim = [8, 32]
learning_rate = [1e-4, 5e-5]
"""


def test_a_dry_run_prices_all_jobs_and_starts_none(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    (tmp_path / "jobs.toml").write_text(SWEEP)
    done = tenner(tmp_path, "batch", "jobs.toml", "--dry-run", "--gpu", "RTX 4090", "--json")
    assert done.returncode == 0, done.stderr
    totals = json.loads(done.stdout)["totals"]
    assert {each["card"] for each in totals} == {"RTX 4090"}
    for total in totals:
        assert len(total["jobs"]) == 4
        assert total["usd"] == pytest.approx(
            sum(each["usd"] for each in total["jobs"].values()), abs=0.003
        )
    assert totals == sorted(totals, key=lambda each: each["usd"])
    text = tenner(tmp_path, "batch", "jobs.toml", "--dry-run")
    assert (text.returncode, text.stdout.count("$") >= 5) == (0, True)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["jobs.toml", "photos"]


def test_a_dry_run_names_the_job_that_would_be_refused(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    (tmp_path / "jobs.toml").write_text(
        'base_model = "sd15"\ndataset = "photos"\n[[jobs]]\noutput_name = "good"\n'
        '[[jobs]]\noutput_name = "bad"\ndataset = "missing"\n'
    )
    done = tenner(tmp_path, "batch", "jobs.toml", "--dry-run", "--gpu", "RTX 4090")
    assert done.returncode == 3
    assert "good" in done.stdout
    assert "error: bad: " in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_flags(tmp_path: Path, shell: str) -> None:
    done = tenner(tmp_path, "completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(word in done.stdout for word in ("inspect", "learning_rate", "dry-run"))
    if shell == "bash":
        script = tmp_path / "completion"
        script.write_text(
            done.stdout
            + "\nCOMP_WORDS=(tenner plan --learning_r); COMP_CWORD=2"
            + "\n_shtab_tenner; printf '%s\\n' \"${COMPREPLY[@]}\"\n"
        )
        answer = subprocess.run(
            ["bash", str(script)], capture_output=True, text=True, check=False, timeout=60
        )
        assert answer.stdout.split() == ["--learning_rate"], answer.stderr
