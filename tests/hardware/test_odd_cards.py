"""Cards of which the driver reports little, and machines with several cards."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_smi import card, install_smi

from tenner.core.errors import SettingsError
from tenner.hardware.host import Host
from tenner.hardware.inspection import machine_of
from tenner.hardware.smi import GpuQuery, query_gpus
from tenner.planning.shaping import choose_precision

HOST = Host(cpus=20, ram_mib=122_000, free_ram_mib=115_000, shm_mib=1000)


def seen(tmp_path: Path, *cards: dict[str, object]) -> GpuQuery:
    return query_gpus(install_smi(tmp_path, cards))


def test_a_driver_that_does_not_tell_its_version_drops_no_card(tmp_path: Path) -> None:
    query = seen(tmp_path, card("NVIDIA GeForce RTX 4090", 24564, "[N/A]", "8.9"))
    machine = machine_of(query, {}, HOST)
    assert machine.gpu_name == "NVIDIA GeForce RTX 4090"
    assert not [each for each in machine.problems if each.level == "error"]


@pytest.mark.parametrize("name", ["NVIDIA GB10", "NVIDIA Thor", "Orin (nvgpu)"])
def test_a_chip_that_shares_the_machines_memory_has_what_is_available(
    tmp_path: Path, name: str
) -> None:
    machine = machine_of(seen(tmp_path, card(name, "[N/A]", "580.95.05", "12.1")), {}, HOST)
    assert (machine.total_mib, machine.free_mib) == (122_000, 115_000)


def test_another_card_that_hides_its_memory_has_none(tmp_path: Path) -> None:
    machine = machine_of(seen(tmp_path, card("GRID T4-8Q", "[N/A]", "550.54.14")), {}, HOST)
    assert machine.total_mib is None


def test_the_faster_card_is_taken_and_not_the_one_with_12_mib_more(tmp_path: Path) -> None:
    slow = card("NVIDIA GeForce RTX 3090", 24576, "550.54.14", "8.6")
    fast = card("NVIDIA GeForce RTX 4090", 24564, "550.54.14", "8.9")
    for order in ((slow, fast), (fast, slow)):
        machine = machine_of(seen(tmp_path, *order), {}, HOST)
        assert machine.gpu_name == "NVIDIA GeForce RTX 4090"


def test_a_fast_card_that_is_taken_by_others_is_left(tmp_path: Path) -> None:
    fast = card("NVIDIA GeForce RTX 4090", 24564, "550.54.14", "8.9", free=3000)
    slow = card("NVIDIA GeForce RTX 3090", 24576, "550.54.14", "8.6")
    assert machine_of(seen(tmp_path, fast, slow), {}, HOST).gpu_name == "NVIDIA GeForce RTX 3090"


def test_an_unknown_capability_is_not_no_bf16() -> None:
    assert choose_precision("bf16", capability=None, gpu_name="NVIDIA X1")[0] == "bf16"
    value, reason = choose_precision(None, capability=None, gpu_name="NVIDIA X1")
    assert value == "fp16"
    assert "no bf16" not in reason
    with pytest.raises(SettingsError):
        choose_precision("bf16", capability=(7, 5), gpu_name="NVIDIA T4")


def test_nvidia_smi_is_run_a_second_time(tmp_path: Path) -> None:
    """The first call of a sleeping machine may not end in time; the second one finds it awake."""
    env = install_smi(tmp_path, [card("NVIDIA L4", 23034, "550.54.14", "8.9")])
    real = (tmp_path / "nvidia-smi").rename(tmp_path / "real-smi")
    script = f'#!/bin/sh\nif mkdir "{tmp_path}/queried" 2>/dev/null; then exec sleep 600; fi\n'
    (tmp_path / "nvidia-smi").write_text(f'{script}exec "{real}" "$@"\n')
    (tmp_path / "nvidia-smi").chmod(0o755)
    env = {"PATH": f"{env['PATH']}:/bin:/usr/bin"}
    query = query_gpus(env, time_limit_s=5)
    assert [each.name for each in query.gpus] == ["NVIDIA L4"]
