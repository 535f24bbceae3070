"""How the image starts: which program, as which user, with what left behind."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.image.conftest import SHORT, Engine

ALARMS = re.compile(
    r"^(?:\d\d:\d\d:\d\d )?((?:.*\b(?:WARNING|ERROR|Traceback)\b|warning:|error:).*)",
    re.MULTILINE,
)


def test_without_a_word_of_ours_it_trains_and_says_what_is_missing(engine: Engine) -> None:
    done = engine.run()
    assert done.code == 3
    assert "no images in training_data" in done.output
    assert "docker run --gpus all" in done.output


def test_other_programs_pass_through_with_their_exit_codes(engine: Engine) -> None:
    assert engine.run("bash", "-c", "exit 7").code == 7
    versions = engine.run("python", "-c", "import torch; print(torch.version.cuda)")
    assert versions.output.strip().replace(".", "") == engine.labels["tenner.cuda"][2:]
    assert engine.run("accelerate", "--help").code == 0


def test_a_misspelt_command_is_tenners_to_explain(engine: Engine) -> None:
    done = engine.run("trian")
    assert done.code == 2
    assert "train" in done.output


def test_no_command_of_tenner_hides_behind_another_program(engine: Engine) -> None:
    from tenner.cli.command_line import COMMANDS

    words = " ".join(COMMANDS)
    found = engine.run("bash", "-c", f"for each in {words}; do type -P $each; done; true")
    assert found.output == ""


def test_without_a_gpu_it_says_so_with_exit_4(engine: Engine, concept: Path) -> None:
    mounted = {str(concept): {"bind": "/data", "mode": "ro"}}
    done = engine.run("train", *SHORT, "--device", "cuda", "--dataset", "/data", volumes=mounted)
    assert done.code == 4
    assert "--gpus all" in done.output


def test_the_doctor_finds_the_whole_trainer_and_no_card(engine: Engine) -> None:
    done = engine.run("doctor", "--json")
    assert done.code == 4
    checks = {each["name"]: each for each in json.loads(done.output)["checks"]}
    assert checks["card"]["mark"] == "error"
    assert "--gpus all" in checks["card"]["fix"]
    for part in ("xformers", "bitsandbytes", "sd-scripts"):
        assert checks[part]["mark"] == "ok", checks[part]


def test_the_guides_folder_is_there_and_nothing_else_under_workspace(engine: Engine) -> None:
    script = "ls -A; readlink sd-scripts; cd /workspace/sd-scripts && ls train_network.py"
    output = engine.run("bash", "-c", script).output.split()
    assert output[:3] == ["output", "sd-scripts", "training_data"]
    assert output[3:] == ["/opt/sd-scripts", "train_network.py"]


def test_a_users_own_sd_scripts_is_left_alone(engine: Engine, folder: Path) -> None:
    (folder / "sd-scripts").mkdir()
    volumes = {str(folder): {"bind": "/workspace"}}
    done = engine.run("bash", "-c", "test ! -L /workspace/sd-scripts", volumes=volumes)
    assert done.code == 0


def test_the_output_belongs_to_whoever_owns_the_folder(
    engine: Engine, folder: Path, concept: Path
) -> None:
    # The owner is set in a container: this test may run as any user.
    binds = {str(folder): {"bind": "/workspace/output"}}
    assert engine.run("chown", "4321:4322", "/workspace/output", volumes=binds).code == 0
    volumes = {**binds, str(concept): {"bind": "/workspace/training_data/1_sks star", "mode": "ro"}}
    done = engine.run("train", *SHORT, "--output_name", "star", volumes=volumes)
    assert done.code == 0, done.output
    assert not ALARMS.search(done.output), done.output
    lora = folder / "star" / "delivered" / "star.safetensors"
    assert (lora.stat().st_uid, lora.stat().st_gid) == (4321, 4322)


@pytest.mark.parametrize(
    ("options", "output", "expected"),
    [
        ({}, "/workspace/output", "1000:1000"),
        ({"environment": {"PUID": "1234", "PGID": '"1235"'}}, "/tmp/made", "1234:1235"),
        ({"environment": {"PUID": "0"}}, "/workspace/output", "0:0"),
        ({"user": "4321:0"}, "/tmp/made", "4321:0"),
    ],
)
def test_who_a_run_is(
    engine: Engine, concept: Path, options: dict[str, object], output: str, expected: str
) -> None:
    volumes = {str(concept): {"bind": "/data", "mode": "ro"}}
    words = ("train", *SHORT, "--dataset", "/data", "--output_dir", output)
    container = engine.start(*words, volumes=volumes, **options)
    try:
        assert engine.finish(container).code == 0, container.logs()
        assert engine.owner_in(container, f"{output}/my_lora/state") == expected
    finally:
        container.remove(force=True)


def test_without_the_privileges_it_runs_as_it_is(engine: Engine) -> None:
    done = engine.run("train", cap_drop=["ALL"])
    assert "the container lacks CAP_SETGID, CAP_SETUID" in done.output
    assert done.code == 4, "root without privileges may not write into another user's folder"
    assert "belongs to uid 1000 tenner (mode 755), and tenner runs as uid 0" in done.output
    assert engine.run("train", "--output_dir", "/root/out", cap_drop=["ALL"]).code == 3


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, "0:0"), ({"environment": {"PUID": "1234"}}, "0:0"), ({"user": "4321:0"}, "4321:0")],
)
def test_any_other_program_starts_as_the_container_does(
    engine: Engine, options: dict[str, object], expected: str
) -> None:
    done = engine.run("bash", "-c", 'echo "$(id -u):$(id -g)"; touch "$HOME/x"', **options)
    assert done.output.strip() == expected
    assert done.code == 0


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (("--output_dir", "/results/my out"), {}),
        ((), {"TENNER_OUTPUT_DIR": '"/results/my out"'}),
        (("--config", "/results/job.toml"), {}),
    ],
    ids=["flag", "quoted variable", "settings file"],
)
def test_the_user_is_the_owner_of_the_folder_that_is_written_to(
    engine: Engine, folder: Path, words: tuple[str, ...], environment: dict[str, str]
) -> None:
    volumes = {str(folder): {"bind": "/results"}}
    (folder / "job.toml").write_text('output_dir = "/results/my out"\n')
    make = "mkdir -p '/results/my out/my_lora' && chown -R 4321:4322 '/results/my out'"
    assert engine.run("bash", "-c", make, volumes=volumes).code == 0
    done = engine.run("train", *words, environment=environment, volumes=volumes)
    assert done.code == 3, done.output
    made = folder / "my out" / "my_lora" / "state"
    assert (made.stat().st_uid, made.stat().st_gid) == (4321, 4322)


@pytest.mark.parametrize("puid", ["me", "99999999999"])
def test_a_puid_that_is_nobodys_is_an_error(engine: Engine, puid: str) -> None:
    done = engine.run("version", environment={"PUID": puid})
    assert done.code == 2
    assert f"PUID={puid}: expected a number" in done.output


def test_a_secret_of_root_is_read_before_the_user_changes(engine: Engine, folder: Path) -> None:
    (folder / "hook").write_text("not an address")
    volumes = {str(folder): {"bind": "/run/secrets"}}
    shut = "chown 0:0 /run/secrets/hook && chmod 600 /run/secrets/hook"
    assert engine.run("bash", "-c", shut, volumes=volumes).code == 0
    secret = {"TENNER_WEBHOOK_FILE": "/run/secrets/hook"}
    done = engine.run("train", environment=secret, volumes=volumes)
    assert "cannot be read" not in done.output
    assert "TENNER_WEBHOOK" in done.output


@pytest.mark.parametrize(
    ("options", "mode", "expected"),
    [
        ({"user": "1000"}, "rw", "belongs to uid 0"),
        ({}, "ro", "is on a read-only file system"),
        ({"read_only": True, "tmpfs": {"/tmp": "exec"}}, "", "is on a read-only file system"),
    ],
    ids=["another user's", "read-only mount", "read-only root"],
)
def test_an_output_folder_that_cannot_be_written_is_a_sentence(
    engine: Engine, folder: Path, options: dict[str, object], mode: str, expected: str
) -> None:
    volumes = {str(folder): {"bind": "/workspace/output", "mode": mode}} if mode else {}
    if mode == "rw":
        own = "chown 0:0 /workspace/output && chmod 755 /workspace/output"
        assert engine.run("bash", "-c", own, volumes=volumes).code == 0
    done = engine.run("train", volumes=volumes, **options)
    assert done.code == 4, done.output
    assert "Traceback" not in done.output
    assert expected in done.output


def test_a_result_that_goes_with_the_container_is_reported_before_anything(
    engine: Engine, folder: Path
) -> None:
    lost = engine.run("train")
    assert "warning: /workspace/output is in the container's own file system" in lost.output
    saved = engine.run("train", volumes={str(folder): {"bind": "/workspace/output"}})
    assert "lies in" not in saved.output
    away = engine.run("train", environment={"TENNER_DESTINATIONS": "s3://bucket/loras"})
    assert "lies in" not in away.output


def test_a_folder_in_use_names_the_container(engine: Engine, folder: Path, concept: Path) -> None:
    folder.chmod(0o777)
    volumes = {
        str(concept): {"bind": "/data", "mode": "ro"},
        str(folder): {"bind": "/workspace/output"},
    }
    words = ("train", *SHORT, "--max_train_steps", "100000", "--dataset", "/data")
    first = engine.start(*words, volumes=volumes)
    try:
        engine.wait_for(first, " step 1/")
        second = engine.run(*words, volumes=volumes)
        assert second.code == 2, second.output
        assert f"on container {first.short_id}" in second.output
    finally:
        first.remove(force=True)


def test_a_volume_over_opt_is_reported(engine: Engine, folder: Path) -> None:
    done = engine.run("train", volumes={str(folder): {"bind": "/opt"}})
    assert done.code == 2
    assert "is hidden by what is mounted at /opt" in done.output


def test_a_stop_while_it_starts_prints_a_line(engine: Engine) -> None:
    container = engine.start("doctor")
    try:
        engine.wait_for(container, "looking at the card")
        container.kill("SIGTERM")
        ended = engine.finish(container)
    finally:
        container.remove(force=True)
    assert ended.code == 143, ended.output
    assert "stopped" in ended.output


def test_no_file_is_anybodys_to_write_and_none_changes_the_user(engine: Engine) -> None:
    everywhere = "find / -xdev -type f \\( -perm -0002 -o -perm /6000 \\)"
    assert engine.run("bash", "-c", everywhere).output.strip() == ""


@pytest.mark.parametrize("user", ["4321:4321", "root"])
def test_it_trains_on_a_read_only_root(engine: Engine, concept: Path, user: str) -> None:
    done = engine.run(
        *("train", *SHORT, "--output_dir", "/tmp/output"),
        user=user,
        read_only=True,
        tmpfs={"/tmp": "exec"},
        volumes={str(concept): {"bind": "/workspace/training_data/1_sks star", "mode": "ro"}},
    )
    assert done.code == 0, done.output
    alarms = [found[1] for found in ALARMS.finditer(done.output)]
    assert [line.partition(":")[2].split(": ")[0].strip() for line in alarms] == [
        "/tmp/output is in memory"
    ], "the folder goes with the container, and nothing else is wrong"


def test_quotes_of_an_env_file_are_no_part_of_the_value(engine: Engine, concept: Path) -> None:
    words = ("--dataset", "/data", "--json")
    done = engine.run(
        *("plan", *SHORT, *words),
        environment=['TENNER_OUTPUT_NAME="quoted name"', "TENNER_TRIGGER='sks star'"],
        volumes={str(concept): {"bind": "/data", "mode": "ro"}},
    )
    assert done.code == 0, done.output
    assert '"quoted name"' in done.output


def test_an_empty_volume_at_workspace(engine: Engine, concept: Path) -> None:
    volume = engine.client.volumes.create()
    try:
        volumes = {
            volume.name: {"bind": "/workspace"},
            str(concept): {"bind": "/data", "mode": "ro"},
        }
        done = engine.run("train", *SHORT, "--dataset", "/data", volumes=volumes)
        assert done.code == 0, done.output
        again = engine.run("train", *SHORT, "--dataset", "/data", volumes=volumes)
        assert again.code == 0, again.output
        assert "step 1/2" not in again.output
    finally:
        volume.remove(force=True)


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT"])
def test_a_signal_stops_it_with_its_state_saved(
    engine: Engine, concept: Path, signal: str, folder: Path
) -> None:
    folder.chmod(0o777)
    container = engine.start(
        *("train", *SHORT, "--max_train_steps", "100000", "--dataset", "/data"),
        volumes={
            str(concept): {"bind": "/data", "mode": "ro"},
            str(folder): {"bind": "/workspace/output"},
        },
    )
    try:
        engine.wait_for(container, " step 1/")
        processes = " ".join(map(str, container.top()["Processes"]))
        assert "train" in processes
        assert "compile_worker" not in processes
        container.kill(signal)
        ended = engine.finish(container)
    finally:
        container.remove(force=True)
    assert ended.code == 143, ended.output
    assert list(folder.glob("my_lora/state/*")), ended.output


def test_sshd_lets_the_holder_of_the_key_in_and_starts_only_when_asked(
    engine: Engine, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    public = key.with_suffix(".pub").read_text()
    login = (
        "install -m 600 /key /tmp/key && ssh -i /tmp/key -o StrictHostKeyChecking=no"
        " -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR root@127.0.0.1"
        " 'bash -lc \"pwd; type -P accelerate tenner\"'"
    )
    volumes = {str(key): {"bind": "/key", "mode": "ro"}}
    requested = {"SSHD": '"1"', "PUBLIC_KEY": public}
    done = engine.run("bash", "-c", login, environment=requested, volumes=volumes)
    assert done.code == 0, done.output
    assert "/workspace\n/opt/trainer/bin/accelerate\n/usr/local/bin/tenner" in done.output
    unasked = {"PUBLIC_KEY": public}
    refused = engine.run("bash", "-c", login, environment=unasked, volumes=volumes)
    assert refused.code != 0
    no_key = engine.run("version", environment={"SSHD": "1"})
    assert "PUBLIC_KEY holds no key" in no_key.output


def test_what_the_labels_say_is_so(engine: Engine) -> None:
    labels = engine.labels
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["tenner.minimum-driver"].count(".") == 2
    commit = engine.run("cat", "/opt/sd-scripts/.git/HEAD").output.strip()
    assert commit == labels["tenner.sd-scripts"]
    assert commit in engine.run("version").output


def test_nothing_is_baked_that_should_not_be(engine: Engine) -> None:
    script = (
        "ls /etc/ssh/ssh_host_* /root/.cache /root/.ssh /opt/build /var/lib/apt/lists/* 2>/dev/null"
    )
    assert engine.run("bash", "-c", script).output.strip() == ""
