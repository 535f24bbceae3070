"""The file for Docker Compose, as the real `docker compose` reads it in a user's own folder."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

COMPOSE = Path(__file__).resolve().parents[2] / "configs" / "compose" / "compose.yaml"


def has_compose() -> bool:
    """Whether Compose is here, 2.24 or newer, which first took `env_file` with `required`."""
    if shutil.which("docker") is None:
        return False
    done = subprocess.run(
        ["docker", "compose", "version", "--short"], capture_output=True, text=True, check=False
    )
    version = done.stdout.strip().lstrip("v").split(".")
    return done.returncode == 0 and tuple(map(int, version[:2])) >= (2, 24)


needs_compose = pytest.mark.skipif(not has_compose(), reason="no `docker compose` is installed")


def configured(folder: Path, **environ: str) -> dict[str, Any]:
    """The service, as Compose sees it when it is started from a shell in `folder`."""
    surroundings = {
        k: v for k, v in os.environ.items() if k not in ("PROJECT", "MODELS", "TENNER_IMAGE")
    }
    done = subprocess.run(
        ["sh", "-c", 'cd "$0" && docker compose -f "$1" config --format json', folder, COMPOSE],
        env={**surroundings, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["services"]["tenner"]


def sources(service: dict[str, Any]) -> dict[str, str]:
    return {each["target"]: each["source"] for each in service["volumes"]}


@needs_compose
def test_folders_and_keys_are_those_where_the_user_is(tmp_path: Path) -> None:
    project = tmp_path / "my photos"
    project.mkdir()
    (project / ".env").write_text('TENNER_TRIGGER="sks dog"\n')
    service = configured(project)
    assert sources(service) == {"/workspace": str(project), "/models": str(project / "models")}
    assert service["environment"] == {"TENNER_TRIGGER": "sks dog"}
    assert str(COMPOSE.parent) not in json.dumps(service)


@needs_compose
def test_other_folders_can_be_named(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / ".env").write_text("TENNER_OUTPUT_NAME=cat\n")
    named = configured(tmp_path, PROJECT=str(other), MODELS="/srv/models")
    assert sources(named) == {"/workspace": str(other), "/models": "/srv/models"}
    assert named["environment"] == {"TENNER_OUTPUT_NAME": "cat"}


@needs_compose
def test_a_project_that_is_not_there_is_no_new_folder(tmp_path: Path) -> None:
    service = configured(tmp_path, PROJECT=str(tmp_path / "none"))
    (workspace,) = (each for each in service["volumes"] if each["target"] == "/workspace")
    assert not workspace["bind"].get("create_host_path", False)
