"""The workflows say what the files they use say: names, numbers, and what must be refused."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
IMAGE = yaml.safe_load((ROOT / ".github" / "workflows" / "image.yml").read_text(encoding="utf-8"))


def steps(job: str) -> list[dict[str, Any]]:
    return IMAGE["jobs"][job]["steps"]


def commands(job: str) -> str:
    return "\n".join(each.get("run", "") for each in steps(job))


def test_a_job_for_a_model_first_requires_the_space_that_it_takes() -> None:
    models = tomllib.loads((ROOT / "docker" / "models.toml").read_text(encoding="utf-8"))
    spaces = {
        each["model"]: each["room"]
        for each in IMAGE["jobs"]["models"]["strategy"]["matrix"]["include"]
    }
    assert set(spaces) == set(models)
    for name, facts in models.items():
        twice = 2 * facts["num_bytes"] / 1e9
        assert twice < spaces[name] < twice + 3, name


@pytest.mark.parametrize("job", ["test", "publish", "models"])
def test_space_is_freed_and_required_before_anything_is_built(job: str) -> None:
    text = commands(job)
    requested = text.index("docker/require_room.sh")
    built = re.search(r"buildx bake|fetch_model\.py", text)
    assert built is not None
    assert requested < built.start()
    assert "docker/make_room.sh" in text[:requested]


@pytest.mark.parametrize(("needed", "code"), [("1", 0), ("999999", 1)])
def test_too_little_space_ends_the_job(needed: str, code: int) -> None:
    done = subprocess.run(
        ["bash", ROOT / "docker" / "require_room.sh", needed, "this"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert re.search(r"this needs \d+ GB; \d+ GB are free", done.stdout)
    assert ("::error::" in done.stderr) == bool(code)


def test_no_model_goes_through_a_build() -> None:
    for job in ("test", "publish"):
        assert not re.search(r"bake[^\n]*(sd15|sdxl|full)", commands(job))
    assert IMAGE["jobs"]["publish"]["env"]["TARGET"] == "slim-${{ matrix.cuda }}"
    assert set(IMAGE["jobs"]["with-models"]["strategy"]["matrix"]["models"]) == {
        "sd15",
        "sdxl",
        "full",
    }


def test_critical_findings_that_have_a_fix_stop_the_image_before_its_tags() -> None:
    names = [each.get("uses", each.get("name", "")).split("@")[0] for each in steps("publish")]
    (trivy,) = (each for each in steps("publish") if "trivy-action" in each.get("uses", ""))
    assert trivy["with"]["exit-code"] == "1"
    assert trivy["with"]["severity"] == "CRITICAL"
    assert trivy["with"]["ignore-unfixed"] is True
    assert names.index("aquasecurity/trivy-action") < names.index("Sign it and give it its tags")
    assert names.index("Test that very image") < names.index("Sign it and give it its tags")


def test_the_labels_of_the_base_are_read_from_the_dockerfile() -> None:
    text = commands("publish")
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    found = {}
    for name in ("BASE_NAME", "BASE_DIGEST"):
        (line,) = re.findall(rf"^\s*{name}=\$\((sed .*)\)$", text, re.MULTILINE)
        done = subprocess.run(
            ["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=True
        )
        found[name] = done.stdout.strip()
        assert f'"${{{name}}}"' in dockerfile
    assert re.fullmatch(r"docker\.io/library/python:3\.11-slim-\w+", found["BASE_NAME"])
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", found["BASE_DIGEST"])


def test_every_action_is_pinned_and_reported_with_its_version() -> None:
    for path in WORKFLOWS:
        for line in path.read_text(encoding="utf-8").splitlines():
            if "uses:" in line:
                assert re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


def test_one_version_of_an_action_is_used_everywhere() -> None:
    found: dict[str, set[str]] = {}
    for path in WORKFLOWS:
        for name, commit in re.findall(r"uses: ([\w./-]+)@(\w+)", path.read_text(encoding="utf-8")):
            found.setdefault(name, set()).add(commit)
    assert {name: commits for name, commits in found.items() if len(commits) > 1} == {}
