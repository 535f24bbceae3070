"""Every answer that nvidia-smi gives on real hosts, and what tenner makes of it."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenner.core.errors import ExitCode, MachineError
from tenner.hardware import Machine, inspect_machine, parse_gpus, parse_smi_xml, smi

from .fake_smi import card, install_smi

RTX_4090 = card("NVIDIA GeForce RTX 4090", 24564, "550.54.14", "8.9")
MIG_XML = """<?xml version="1.0" ?>
<nvidia_smi_log>
 <driver_version>535.161.08</driver_version>
 <gpu id="00000000:00:04.0">
  <product_name>NVIDIA A100-SXM4-80GB</product_name>
  <mig_mode><current_mig>Enabled</current_mig></mig_mode>
  <fb_memory_usage><total>Insufficient Permissions</total></fb_memory_usage>
  <mig_devices><mig_device>
   <index>0</index><gpu_instance_id>7</gpu_instance_id>
   <fb_memory_usage>
    <total>4864 MiB</total><used>12 MiB</used><free>4852 MiB</free>
   </fb_memory_usage>
  </mig_device></mig_devices>
 </gpu>
</nvidia_smi_log>
"""


def words_of(machine: Machine) -> str:
    return "\n".join(str(problem) for problem in machine.problems)


def refused(machine: Machine) -> str:
    with pytest.raises(MachineError) as caught:
        machine.require_gpu()
    assert caught.value.exit_code == ExitCode.MACHINE == 4
    assert all(problem.fix for problem in caught.value.problems)
    return str(caught.value)


def test_a_card_is_found_with_its_free_memory(tmp_path: Path) -> None:
    env = install_smi(tmp_path, [{**RTX_4090, "memory.free": 23000}])
    machine = inspect_machine(env)
    machine.require_gpu()
    assert (machine.gpu_name, machine.free_mib) == ("NVIDIA GeForce RTX 4090", 23000)
    assert machine.capability == (8, 9)


def test_a_slice_is_sized_by_itself_never_by_its_card(tmp_path: Path) -> None:
    whole = card("NVIDIA A100-SXM4-80GB", "[Insufficient Permissions]", "535.161.08", "8.0")
    machine = inspect_machine(install_smi(tmp_path, [whole], xml=MIG_XML))
    assert machine.total_mib == 4864
    assert (machine.free_mib or 0) <= 4864


def test_unknown_memory_is_reported_and_nothing_is_invented(tmp_path: Path) -> None:
    hidden = card("NVIDIA A100-SXM4-80GB", "[Insufficient Permissions]", "535.161.08", "8.0")
    machine = inspect_machine(install_smi(tmp_path, [hidden]))
    assert machine.free_mib is None
    assert "does not report how much memory" in words_of(machine)
    assert "set batch_size" in words_of(machine)


def test_an_old_driver_is_queried_again_and_what_is_needed_is_reported(tmp_path: Path) -> None:
    old = card("Tesla T4", 15360, "470.182.03")
    machine = inspect_machine(install_smi(tmp_path, [old], unknown_fields=["compute_cap"]))
    assert machine.capability == (7, 5)
    text = refused(machine)
    assert "470.182.03" in text
    assert "525.60.13" in text


def test_of_two_cards_one_is_used_and_reported_and_memory_is_never_summed(tmp_path: Path) -> None:
    cards = [
        card("NVIDIA TITAN V", 12288, "570.86.15", "7.0"),
        card("NVIDIA RTX 5880 Ada Generation", 49140, "570.86.15", "8.9"),
    ]
    machine = inspect_machine(install_smi(tmp_path, cards))
    assert (machine.gpu_name, machine.total_mib) == ("NVIDIA RTX 5880 Ada Generation", 49140)
    assert "2 GPUs are here" in words_of(machine)
    both = inspect_machine(install_smi(tmp_path, cards), num_gpus=2)
    assert both.total_mib == 12288


@pytest.mark.parametrize(
    ("visible", "name", "problem"),
    [
        ("1", "Tesla T4", ""),
        ("7", "", "does not exist"),
        ("", "", "hides every GPU"),
        ("-1", "", "hides every GPU"),
    ],
)
def test_the_visible_card_is_the_one_that_is_sized(
    tmp_path: Path, visible: str, name: str, problem: str
) -> None:
    cards = [RTX_4090, card("Tesla T4", 15360, "550.54.14", "7.5")]
    env = {**install_smi(tmp_path, cards), "CUDA_VISIBLE_DEVICES": visible}
    machine = inspect_machine(env)
    assert machine.gpu_name == name
    if problem:
        assert problem in refused(machine)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (None, 0),
        ("No devices were found", 6),
        ("", 0),
        ("Failed to initialize NVML: Unknown Error", 255),
    ],
)
def test_a_laptop_without_a_card_is_not_advised_on_containers(
    tmp_path: Path, message: str | None, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smi, "_in_container", lambda: False)
    none = {"PATH": str(tmp_path)}
    env = none if message is None else install_smi(tmp_path, message=message, code=code)
    text = refused(inspect_machine(env))
    assert "GPU" in text
    assert not re.search("container|docker", text)


def test_without_nvidia_smi_the_fix_is_gpus_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smi, "_in_container", lambda: True)
    assert "--gpus all" in refused(inspect_machine({"PATH": str(tmp_path)}))


@pytest.mark.parametrize(
    ("message", "code", "fix"),
    [
        ("No devices were found", 6, ""),
        ("No devices were found", 0, ""),
        ("", 0, ""),
        ("Failed to initialize NVML: Driver/library version mismatch", 18, "host's fault"),
        ("Failed to initialize NVML: Unknown Error", 255, "restart the container"),
    ],
)
def test_a_host_that_gives_no_card_is_reported_by_its_output(
    tmp_path: Path, message: str, code: int, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smi, "_in_container", lambda: True)
    machine = inspect_machine(install_smi(tmp_path, message=message, code=code))
    assert machine.gpus == ()
    text = refused(machine)
    assert fix in text
    assert "--gpus all" not in text.split("fix:")[0]


def test_a_card_without_kernels_is_refused_with_the_image_that_has_them(tmp_path: Path) -> None:
    new = card("NVIDIA GeForce RTX 5090", 32607, "570.124.06", "12.0")
    assert "cu128" in refused(inspect_machine(install_smi(tmp_path, [new])))


def test_drivers_are_compared_as_numbers(tmp_path: Path) -> None:
    just_too_old = card("NVIDIA GeForce RTX 3090", 24576, "525.60.11", "8.6")
    assert "525.60.11" in refused(inspect_machine(install_smi(tmp_path, [just_too_old])))
    new_enough = card("NVIDIA GeForce RTX 3090", 24576, "525.147.05", "8.6")
    inspect_machine(install_smi(tmp_path, [new_enough])).require_gpu()


def test_memory_in_other_hands_is_reported(tmp_path: Path) -> None:
    busy = {**RTX_4090, "memory.free": 700}
    machine = inspect_machine(install_smi(tmp_path, [busy]))
    assert machine.free_mib == 700
    assert "700 MiB" in words_of(machine)


@given(st.text(max_size=300))
def test_no_text_whatever_crashes_the_parsers_or_invents_a_card(text: str) -> None:
    for gpu in parse_gpus(text, ("name", "memory.total", "driver_version", "compute_cap")):
        assert gpu.driver in text
        assert gpu.name in text
    assert parse_smi_xml(text) == ()
