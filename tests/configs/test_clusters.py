"""The files for SkyPilot and Kubernetes, held to these programs' own loader and schemas."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tenner.settings import load_request

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TASKS = sorted((CONFIGS / "skypilot").glob("*.yaml"))
KUBERNETES = "1.33"
LOADER = """
import json, sys, sky, yaml
for path in sys.argv[1:]:
    config = yaml.safe_load(open(path))
    keys = [(name, "loopback") for name in config["secrets"]]
    task = sky.Task.from_yaml_config(config, secrets_overrides=keys)
    found = [[str(each.cloud), each.use_spot] for each in task.resources]
    print(json.dumps({"name": task.name, "run": task.run, "resources": found}))
"""


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def as_skypilot_reads_them(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Each task as SkyPilot's own loader gives it, in the environment of `make test-long`."""
    python = os.environ.get("SKY_PYTHON")
    if not python:
        pytest.skip("SKY_PYTHON names no Python with SkyPilot; `make test-long` makes one")
    done = subprocess.run(
        [python, "-c", LOADER, *map(str, TASKS)],
        env={**os.environ, "HOME": str(tmp_path_factory.mktemp("home"))}
        | {"SKYPILOT_DISABLE_USAGE_COLLECTION": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {each["name"]: each for each in lines}


@pytest.mark.long
def test_skypilot_takes_the_tasks_for_every_host(as_skypilot_reads_them: dict[str, Any]) -> None:
    assert set(as_skypilot_reads_them) == {"tenner-train", "tenner-batch"}
    for task in as_skypilot_reads_them.values():
        hosts = {cloud for cloud, _ in task["resources"]}
        assert hosts == {"RunPod", "Vast", "Lambda", "Kubernetes"}
    batch = as_skypilot_reads_them["tenner-batch"]
    assert {cloud for cloud, spot in batch["resources"] if spot} == {"RunPod", "Vast"}
    assert "tenner batch jobs" in batch["run"]


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_a_task_names_settings_that_exist_and_holds_no_key(path: Path) -> None:
    task = load(path)
    load_request({}, {key: value or "1" for key, value in task["envs"].items()})
    assert all(value is None for value in task["secrets"].values())
    assert re.fullmatch(r"docker:ghcr\.io/OWNER/tenner:\w+-cu\d+", task["resources"]["image_id"])


def test_a_batch_is_tried_again_only_where_it_helps() -> None:
    recovery = load(CONFIGS / "skypilot" / "batch.yaml")["resources"]["job_recovery"]
    assert not {0, 2, 3, 4, 7} & set(recovery["recover_on_exit_codes"])


def pod_templates(document: Any) -> list[Any]:
    cluster = document["spec"]["rayClusterSpec"]
    groups = (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    return [group["template"] for group in groups]


def test_the_kubernetes_files_are_what_kubernetes_takes() -> None:
    job = load(CONFIGS / "kubernetes" / "job.yaml")
    kubernetes_validate.validate(job, desired_version=KUBERNETES, strict=True)
    templates = pod_templates(load(CONFIGS / "kubernetes" / "ray.yaml"))
    assert len(templates) == 2
    for template in templates:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}
        kubernetes_validate.validate(pod, desired_version=KUBERNETES, strict=True)


def test_kuberay_takes_the_ray_job_and_nothing_misspelt() -> None:
    schema = json.loads((Path(__file__).parent / "kuberay_rayjob.json").read_text("utf-8"))
    job = load(CONFIGS / "kubernetes" / "ray.yaml")
    jsonschema.validate(job, schema)
    job["spec"]["shutdownAfterJobFinish"] = True
    with pytest.raises(jsonschema.ValidationError, match="shutdownAfterJobFinish"):
        jsonschema.validate(job, schema)


def test_rays_pods_may_do_little_and_only_the_head_holds_keys() -> None:
    document = load(CONFIGS / "kubernetes" / "ray.yaml")
    head, worker = pod_templates(document)
    for template in (head, worker):
        (container,) = template["spec"]["containers"]
        assert template["spec"]["securityContext"]["runAsNonRoot"]
        assert not template["spec"]["automountServiceAccountToken"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        mounts = {each["name"] for each in container["volumeMounts"]}
        assert mounts == {each["name"] for each in template["spec"]["volumes"]}
    assert "envFrom" not in worker["spec"]["containers"][0]
    assert worker["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert document["spec"]["entrypoint"].startswith("tenner batch ")
