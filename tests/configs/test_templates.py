"""Every shipped template and preset says what the program knows, and what the hosts take."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tenner.hardware.cuda import IMAGE_TAGS
from tenner.kohya.options import pinned_commit
from tenner.settings import Settings, load_request

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
PRESETS = sorted((CONFIGS / "presets").glob("*-*.toml"))
GOALS = ("face", "style", "product", "character")
IMAGE = re.compile(r"ghcr\.io/OWNER/tenner:(slim|sd15|sdxl|full)-(cu\d+)")

# Fields of the hosts' own interfaces, with their types: RunPod's `POST /v1/templates`, its newer
# `POST /v2/templates` and Vast.ai's `POST /api/v0/template/`, as its
# own client (vast-cli, `create template`) fills it.
RUNPOD_V2_FIELDS: dict[str, type] = {
    "name": str,
    "image": str,
    "args": str,
    "disk": int,
    "ports": list,
    "env": dict,
    "registry": str,
    "mounts": dict,
    "serverless": bool,
    "public": bool,
    "category": str,
}
RUNPOD_FIELDS = {
    *("category", "containerDiskInGb", "containerRegistryAuthId", "dockerEntrypoint"),
    *("dockerStartCmd", "env", "imageName", "isPublic", "isServerless", "name", "ports"),
    *("readme", "volumeInGb", "volumeMountPath"),
}
VAST_FIELDS = {
    *("name", "image", "tag", "desc", "readme", "env", "onstart", "runtype", "args_str"),
    *("ssh_direct", "use_ssh", "jup_direct", "jupyter_dir", "use_jupyter_lab"),
    *("recommended_disk_space", "extra_filters", "href", "repo"),
    *("docker_login_repo", "private", "readme_visible"),
}


def load(path: str) -> Any:
    text = (CONFIGS / path).read_text(encoding="utf-8")
    return json.loads(text) if path.endswith(".json") else yaml.safe_load(text)


def settings_of(environ: dict[str, str]) -> Settings:
    """Raises where a variable or its value is not one that the program knows."""
    return load_request({}, environ, read_default_config=False).settings


def test_there_is_a_preset_for_each_goal_and_base() -> None:
    names = {path.stem for path in PRESETS}
    assert names == {f"{goal}-{base}" for goal in GOALS for base in ("sd15", "sdxl")}


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_a_settings_file_and_names_its_purpose(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for word in ("For whom", "Images", "Hours", "Dollars"):
        assert re.search(rf"^# {word}: .", text, re.MULTILINE), word
    as_file = load_request({}, {}, config=path, read_default_config=False)
    as_preset = load_request({}, {}, preset=path.stem, read_default_config=False)
    assert as_file.settings == as_preset.settings
    assert as_file.notices == ()
    assert as_file.settings.base_model == path.stem.split("-")[1]
    message = {key for section in tomllib.loads(text).values() for key in section}
    assert message <= set(as_file.set_at), "a key that was not read"


def test_runpods_template() -> None:
    template = load("runpod/template.json")
    assert set(template) <= RUNPOD_FIELDS
    assert IMAGE.fullmatch(template["imageName"])
    assert template["volumeMountPath"] == "/workspace"
    settings_of(template["env"])
    secret = {key: value for key, value in template["env"].items() if "KEY" in key}
    assert all(value == f"{{{{ RUNPOD_SECRET_{key} }}}}" for key, value in secret.items())


def test_the_templates_open_the_live_pages_port() -> None:
    port = Settings().serve_port
    runpod, vast = load("runpod/template.json"), load("vast/template.json")
    assert f"{port}/http" in runpod["ports"]
    assert f"-p {port}:{port}" in vast["env"]
    for environ in (runpod["env"], dict(re.findall(r"-e (\w+)=(\S+)", vast["env"]))):
        found = settings_of(environ)
        assert found.serve
        assert found.serve_host == "0.0.0.0"
        assert "TENNER_SERVE_TOKEN" not in environ, "made anew at each start"


def test_runpods_newer_template_has_the_same_content() -> None:
    old, new = load("runpod/template.json"), load("runpod/template-v2.json")
    assert {name: RUNPOD_V2_FIELDS[name] for name in new} == {k: type(v) for k, v in new.items()}
    assert {"name", "image"} <= set(new), "what it requires"
    same = {"image": "imageName", "disk": "containerDiskInGb", "public": "isPublic"}
    same |= {"serverless": "isServerless"} | {key: key for key in ("name", "ports", "env")}
    assert {key: new[key] for key in same} == {key: old[other] for key, other in same.items()}
    assert new["args"] == "", "the image's own command"
    assert new["disk"] >= 1


def test_vasts_template_carries_the_script_and_no_key() -> None:
    template = load("vast/template.json")
    assert set(template) <= VAST_FIELDS
    assert IMAGE.fullmatch(f"{template['image']}:{template['tag']}")
    assert template["onstart"] == (CONFIGS / "vast" / "onstart.sh").read_text(encoding="utf-8")
    environ = dict(re.findall(r"-e (\w+)=(\S+)", template["env"]))
    settings_of(environ)
    assert not [name for name in environ if "KEY" in name or "TOKEN" in name]
    assert template["private"] is True, "it names a bucket"


def test_the_kubernetes_job_may_do_little_and_tries_again_only_where_it_helps() -> None:
    job = load("kubernetes/job.yaml")
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert IMAGE.fullmatch(container["image"])
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    (rule,) = [each for each in job["spec"]["podFailurePolicy"]["rules"] if "onExitCodes" in each]
    assert rule["onExitCodes"]["values"] == [2, 3, 4, 7]
    mounts = {each["name"] for each in container["volumeMounts"]}
    assert mounts == {each["name"] for each in pod["volumes"]}


def test_the_tags_that_messages_name_are_built() -> None:
    bake = (ROOT / "docker-bake.hcl").read_text(encoding="utf-8")
    for tag in IMAGE_TAGS.values():
        assert f'"{tag}"' in bake
        assert (ROOT / "docker" / "locks" / f"trainer-{tag}.txt").is_file()


def test_the_image_holds_the_commit_whose_options_are_known() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f"ARG SD_SCRIPTS_COMMIT={pinned_commit()}" in dockerfile


def test_baked_models_are_the_ones_that_are_known() -> None:
    from tenner.settings.known_bases import KNOWN_BASES

    models = tomllib.loads((ROOT / "docker" / "models.toml").read_text(encoding="utf-8"))
    known = {base.name: base for base in KNOWN_BASES}
    for name, facts in models.items():
        base = known[name]
        assert (facts["id"], facts["licence"]) == (base.hub_id, base.licence)
        assert facts["file"] in base.files
        assert re.fullmatch("[0-9a-f]{64}", facts["sha256"])
        assert re.fullmatch("[0-9a-f]{40}", facts["revision"])
