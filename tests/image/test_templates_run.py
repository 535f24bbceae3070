"""The shipped templates, as far as a machine without a host's own software can follow them."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.image.conftest import SHORT, Engine

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SHORT_VARIABLES = {
    f"TENNER_{flag.removeprefix('--').upper()}": value
    for flag, value in zip(SHORT[:-1:2], SHORT[1:-1:2], strict=True)
} | {"TENNER_NO_SAMPLES": "true"}


SKYPILOTS_START = """
import json, sys, types
from sky.provision.runpod import utils
pod = {}
api = types.SimpleNamespace(create_pod=lambda **words: pod.update(words) or {"id": "pod"})
utils.runpod = types.SimpleNamespace(runpod=api)
utils.launch(
    cluster_name="lora", node_type="head", instance_type="cpu5c-2-4", region="US", zone=None,
    disk_size=20, image_name=sys.argv[1], ports=None, public_key=sys.argv[2], preemptible=None,
    bid_per_gpu=0.0, docker_login_config=None)
print(json.dumps(pod))
"""


def skypilots_pod(image: str, key: str) -> dict[str, str]:
    """What SkyPilot asks RunPod for, by its own code."""
    python = os.environ.get("SKY_PYTHON")
    if not python:
        pytest.fail("SKY_PYTHON names no Python with SkyPilot; `make image-test-only` makes one")
    done = subprocess.run(
        [python, "-c", SKYPILOTS_START, image, key],
        env={**os.environ, "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_skypilots_own_start_gets_in_on_runpod(engine: Engine, tmp_path: Path) -> None:
    """It is given as the container's command, and needs root: its key must let it in by SSH, where
    `tenner` is found as configs/skypilot calls it."""
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    pod = skypilots_pod(engine.image, key.with_suffix(".pub").read_text().strip())
    volumes = {str(key): {"bind": "/key", "mode": "ro"}}
    container = engine.start(*shlex.split(pod["docker_args"]), volumes=volumes)
    try:
        engine.wait_for(container, "Restarting OpenBSD Secure Shell server: sshd")
        login = (
            "install -m 600 /key /tmp/key && ssh -i /tmp/key -o StrictHostKeyChecking=no"
            " -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o ConnectionAttempts=20"
            " root@127.0.0.1 'bash -lc \"id -u; tenner version\"'"
        )
        code, output = container.exec_run(["bash", "-c", login])
        assert code == 0, output.decode()
        assert output.decode().startswith("0\ntenner "), output.decode()
        assert "sudo: command not found" not in container.logs().decode()
    finally:
        container.remove(force=True)


def test_vasts_script_trains_where_the_entrypoint_is_replaced(
    engine: Engine, concept: Path
) -> None:
    script = CONFIGS / "vast" / "onstart.sh"
    container = engine.start(
        *("-c", "bash /onstart.sh; exec tail -n +1 -F /workspace/tenner.log"),
        entrypoint=["bash"],
        environment={**SHORT_VARIABLES, "TENNER_DATASET": "/data", "HF_TOKEN": "hf_not_to_be_kept"},
        volumes={
            str(script): {"bind": "/onstart.sh", "mode": "ro"},
            str(concept): {"bind": "/data", "mode": "ro"},
        },
    )
    try:
        engine.wait_for(container, "tenner ended with exit code")
        log = container.logs().decode()
        assert log.rstrip().endswith("tenner ended with exit code 0"), log
        login = container.exec_run("cat /etc/environment").output.decode()
        assert "PATH=/opt/trainer/bin:" in login
        assert "TENNER_DATASET=/data" in login
        assert "hf_not" not in login
    finally:
        container.remove(force=True)


def test_composes_rights_are_enough(engine: Engine, folder: Path, concept: Path) -> None:
    service = yaml.safe_load((CONFIGS / "compose" / "compose.yaml").read_text())["services"][
        "tenner"
    ]
    (tmp,) = service["tmpfs"]
    binds = {str(folder): {"bind": "/workspace"}}
    assert engine.run("chown", "4321:4321", "/workspace", volumes=binds).code == 0
    done = engine.run(
        *(*service["command"], *SHORT, "--dataset", "/data"),
        cap_drop=service["cap_drop"],
        cap_add=service["cap_add"],
        read_only=service["read_only"],
        security_opt=service["security_opt"],
        shm_size=service["shm_size"].replace("gb", "g"),
        tmpfs={tmp.split(":")[0]: tmp.split(":")[1]},
        volumes={**binds, str(concept): {"bind": "/data", "mode": "ro"}},
    )
    assert done.code == 0, done.output
    assert (folder / "output" / "my_lora").stat().st_uid == 4321


def test_the_kubernetes_jobs_rights_are_enough(engine: Engine, folder: Path, concept: Path) -> None:
    job = yaml.safe_load((CONFIGS / "kubernetes" / "job.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    rights = pod["securityContext"]
    folder.chmod(0o777)  # what fsGroup does for the claim
    done = engine.run(
        *(*container["args"], *SHORT, "--dataset", "/data"),
        user=f"{rights['runAsUser']}:{rights['runAsGroup']}",
        cap_drop=container["securityContext"]["capabilities"]["drop"],
        read_only=container["securityContext"]["readOnlyRootFilesystem"],
        security_opt=["no-new-privileges:true"],
        tmpfs={"/tmp": "exec"},
        volumes={
            str(folder): {"bind": "/workspace"},
            str(concept): {"bind": "/data", "mode": "ro"},
        },
    )
    assert done.code == 0, done.output
