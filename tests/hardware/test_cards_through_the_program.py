"""Every answer of nvidia-smi on real hosts, given to the real program.

`tenner plan` must size the card that will train, or end with exit code 4 and a fix within seconds;
the cases' numbers are those of public bug reports.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.hardware.fake_smi import card, install_smi
from tests.hardware.fake_torch import install_torch
from tests.hardware.program import photos, sparse_base, tenner
from tests.hardware.test_machine import MIG_XML

RTX_4090 = card("NVIDIA GeForce RTX 4090", 24564, "550.54.14", "8.9")
TITAN_V = card("NVIDIA TITAN V", 12288, "570.86.15", "7.0")
RTX_5880 = card("NVIDIA RTX 5880 Ada Generation", 49140, "570.86.15", "8.9")
T4 = card("Tesla T4", 15360, "535.161.08", "7.5")


class Host:
    """A folder with a dataset, SD 1.5 and an nvidia-smi."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {"TENNER_MODELS_DIR": str(sparse_base(folder / "models"))}
        photos(folder / "photos", 4)

    def smi(self, *cards: dict[str, object], **options: Any) -> None:
        self.env |= install_smi(self.folder, cards, **options)

    def plan(self, *args: str, **env: str) -> tuple[dict[str, Any], str]:
        """The plan, and what was reported of it."""
        args = ("plan", "photos", "--engine", "native", *args)
        done = tenner(*args, "--json", cwd=self.folder, env=self.env | env)
        assert done.returncode == 0, done.stderr
        plan = json.loads(done.stdout)
        text = [each["reason"] for each in plan["choices"]]
        text += [f"{each['text']} {each['fix']}" for each in plan["notices"]]
        return plan, "\n".join(text)

    def refusal(self, *args: str, code: int = 4, command: str = "plan", **env: str) -> str:
        args = (command, "photos", "--engine", "native", *args)
        done = tenner(*args, cwd=self.folder, env={"PATH": str(self.folder)} | self.env | env)
        assert done.returncode == code, done.stderr
        is_expected = (self.folder / "nvidia-smi").exists() or command != "plan"
        assert (done.stdout == "") == is_expected, "a laptop's plan is for cards to rent"
        assert "fix: " in done.stderr
        return done.stderr


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_g1_a_slice_is_sized_by_itself_and_hidden_memory_gets_the_least(host: Host) -> None:
    whole = card("NVIDIA A100-SXM4-80GB", "[Insufficient Permissions]", "535.161.08", "8.0")
    host.smi(whole, xml=MIG_XML)
    plan, output = host.plan()
    assert 3 < plan["needed_gb"] <= 5.1 * 0.92
    assert "of 5.1 GB" in output
    assert "has 5.1 GB free" in host.refusal("--network_dim", "512")
    host.smi(whole)
    plan, output = host.plan()
    options = plan["options"]
    assert (options["train_batch_size"], options["gradient_checkpointing"]) == (1, True)
    assert "does not report how much memory it has" in output
    assert "set batch_size and gradient_checkpointing yourself" in output


def test_g2_an_old_driver_is_queried_again_and_what_is_needed_is_reported(host: Host) -> None:
    host.smi(card("Tesla T4", 15360, "470.182.03"), unknown_fields=["compute_cap"])
    reported = host.refusal()
    assert "the NVIDIA driver is 470.182.03; CUDA 12.1 needs 525.60.13 or newer" in reported


def test_g3_of_two_cards_one_is_used_and_reported(host: Host) -> None:
    host.smi(TITAN_V, RTX_5880)
    plan, output = host.plan()
    assert plan["gpu"] == "NVIDIA RTX 5880 Ada Generation"
    assert plan["num_processes"] == 1
    assert "2 GPUs are here; this run uses GPU 1 NVIDIA RTX 5880 Ada Generation" in output
    both, _ = host.plan("--num_processes", "2")
    assert both["options"]["train_batch_size"] <= plan["options"]["train_batch_size"]
    assert both["options"]["mixed_precision"] == "fp16"  # the TITAN V has no bf16


def test_g4_the_visible_card_is_the_one_that_is_sized(host: Host) -> None:
    uuid = "GPU-0fe9a3c1-1111-2222-3333-444444444444"
    host.smi(RTX_4090, {**T4, "driver_version": "550.54.14", "uuid": uuid})
    for visible in ("1", uuid, "GPU-0fe9"):
        assert host.plan(CUDA_VISIBLE_DEVICES=visible)[0]["gpu"] == "Tesla T4"
    for visible, text in (
        ("7", "which does not exist"),
        ("", "hides every"),
        ("-1", "hides every"),
    ):
        assert text in host.refusal(CUDA_VISIBLE_DEVICES=visible)


def test_g5_no_card_is_reported_by_its_cause_and_never_becomes_a_cpu_run(host: Host) -> None:
    assert "no GPU here" in host.refusal()
    host.smi(RTX_4090)
    (host.folder / "nvidia-smi").chmod(0o644)
    assert "cannot be run" in host.refusal()
    for message, code in (("No devices were found", 6), ("No devices were found", 0), ("", 0)):
        host.smi(message=message, code=code)
        assert "nvidia-smi runs, but" in host.refusal(command="train")


def test_g6_a_fault_of_the_host_is_reported_and_never_read_as_a_name(host: Host) -> None:
    host.smi(message="Failed to initialize NVML: Driver/library version mismatch", code=18)
    assert "this is the host's fault" in host.refusal()
    host.smi(message="Failed to initialize NVML: Unknown Error", code=255)
    assert "the host has lost its GPU" in host.refusal()


def test_g7_cards_are_sized_by_what_is_free(host: Host) -> None:
    host.smi(card("NVIDIA A10G", 23028, "535.161.08", "8.6"))
    assert "of 24.1 GB" in host.plan()[1]
    host.smi(card("NVIDIA GeForce RTX 4090 Laptop GPU", 16376, "550.54.14", "8.9"))
    laptop, output = host.plan()
    assert "of 17.2 GB" in output
    assert "the guide's for" not in output
    assert laptop["expected"] is None  # its speed depends on the maker's power limit
    host.smi({**RTX_4090, "memory.free": 700})
    reported = host.refusal()
    assert " GB free" in reported


def test_g8_a_card_without_kernels_is_refused_before_any_download(host: Host) -> None:
    host.smi(card("NVIDIA GeForce RTX 5090", 32607, "570.124.06", "12.0"))
    reported = host.refusal("--base_model", "sdxl", command="train")  # which is not here
    assert "use the image with cu128 in its tag" in reported


def test_g9_drivers_are_compared_as_numbers(host: Host) -> None:
    host.smi(card("NVIDIA GeForce RTX 3090", 24576, "525.60.11", "8.6"))
    assert "the NVIDIA driver is 525.60.11; CUDA 12.1 needs 525.60.13" in host.refusal()
    host.smi(card("NVIDIA GeForce RTX 3090", 24576, "525.105.17", "8.6"))
    assert host.plan()[0]["options"]["train_batch_size"] == 2


def test_g10_a_card_without_bf16_takes_fp16_and_refuses_bf16(host: Host) -> None:
    host.smi(T4)
    assert host.plan()[0]["options"]["mixed_precision"] == "fp16"
    reported = host.refusal("--mixed_precision", "bf16", code=2)
    assert "mixed_precision = 'bf16', but Tesla T4 has no bf16" in reported


def checks(host: Host, *args: str, **env: str) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Exit code of `tenner doctor`, its answer, and its checks by name."""
    done = tenner("doctor", "--json", *args, cwd=host.folder, env=host.env | env)
    reported = json.loads(done.stdout)
    return done.returncode, reported, {each["name"]: each for each in reported["checks"]}


def test_g11_the_doctor_finds_a_good_machine_good_and_names_broken_libraries(host: Host) -> None:
    host.smi(RTX_4090)
    host.env |= install_torch(host.folder / "modules")
    code, reported, found = checks(host)
    assert (code, reported["can_train"]) == (0, True)
    assert "24564 of 24564 MiB free, capability 8.9" in found["card"]["found"]
    assert found["driver"]["found"].startswith("550.54.14")
    assert found["trainer"]["found"] == (
        "torch 2.4.1, CUDA 12.1: computes on NVIDIA GeForce RTX 4090"
    )
    assert found["bitsandbytes"]["mark"] == "ok"
    assert found["base models"]["found"].endswith("sd15")
    assert {"CPU", "RAM", "/dev/shm", "output", "sd-scripts"} <= found.keys()
    host.env |= install_torch(host.folder / "modules", bitsandbytes="raise OSError('no libcuda')")
    code, _, found = checks(host)
    assert code == 0
    assert (found["bitsandbytes"]["mark"], "no libcuda" in found["bitsandbytes"]["found"]) == (
        "warning",
        True,
    )


@pytest.mark.parametrize(
    ("cards", "torch", "name", "message"),
    [
        ([], {}, "card", "no GPU"),
        ([card("NVIDIA GeForce RTX 5090", 32607, "570.124.06", "12.0")], {}, "card", "12.0"),
        ([card("NVIDIA GeForce RTX 3090", 24576, "525.60.11", "8.6")], {}, "card", "525.60.13"),
        ([RTX_4090], {"fault": "CUDA error: unknown error"}, "trainer", "cannot compute"),
        ([RTX_4090], {"cuda": None}, "trainer", "built without CUDA"),
    ],
)
def test_the_doctor_ends_with_4_where_the_machine_cannot_train(
    host: Host, cards: list[dict[str, object]], torch: dict[str, Any], name: str, message: str
) -> None:
    if cards:
        host.smi(*cards)
    host.env |= {"PATH": str(host.folder)} | install_torch(host.folder / "modules", **torch)
    code, reported, _ = checks(host)
    assert (code, reported["can_train"]) == (4, False)
    wrong = [each for each in reported["checks"] if each["mark"] == "error"]
    assert [each["name"] for each in wrong] == [name]
    assert message in wrong[0]["found"]
    assert wrong[0]["fix"]


def test_the_doctor_speaks_to_people_too(host: Host) -> None:
    host.smi(RTX_4090)
    env = host.env | install_torch(host.folder / "modules")
    done = tenner("doctor", "--output_dir", "/proc/nowhere", cwd=host.folder, env=env)
    assert done.returncode == 4
    assert "not writable" in done.stdout
    assert "this machine cannot train" in done.stdout
    assert done.stderr.startswith("looking at the card and its driver\n")
    assert "Traceback" not in done.stderr
