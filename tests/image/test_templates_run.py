"""The shipped templates, as far as a machine without a host's own software can follow them."""

import time
from pathlib import Path

import yaml

from tests.image.conftest import SHORT, Engine

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SHORT_VARIABLES = {
    f"TENNER_{flag.removeprefix('--').upper()}": value
    for flag, value in zip(SHORT[:-1:2], SHORT[1:-1:2], strict=True)
} | {"TENNER_NO_SAMPLES": "true"}


def test_vasts_script_trains_where_the_entrypoint_is_replaced(
    engine: Engine, concept: Path
) -> None:
    script = CONFIGS / "vast" / "onstart.sh"
    container = engine.start(
        *("-c", "bash /onstart.sh; sleep 240"),
        entrypoint=["bash"],
        environment={**SHORT_VARIABLES, "TENNER_DATASET": "/data", "HF_TOKEN": "hf_not_to_be_kept"},
        volumes={
            str(script): {"bind": "/onstart.sh", "mode": "ro"},
            str(concept): {"bind": "/data", "mode": "ro"},
        },
    )
    try:
        log = ""
        deadline = time.monotonic() + 180
        while "ended with exit code" not in log:
            assert time.monotonic() < deadline, log
            time.sleep(1)
            log = container.exec_run("cat /workspace/tenner.log").output.decode()
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
    engine.run("chown", "4321:4321", "/workspace", volumes=binds, entrypoint=[])
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
    assert done.code == 0, done.said
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
    assert done.code == 0, done.said
