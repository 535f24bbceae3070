"""A base that is known by its name alone is judged as strictly as one that is here."""

import json
from pathlib import Path

import pytest

from tenner.core.family import Family
from tenner.families import FAMILIES
from tenner.runs.card import licence_note
from tests.cli.test_command_line import photos, tenner
from tests.families.test_families import safetensors

LORA = {
    "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": [16, 3072],
    "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": [9216, 16],
}
T5_IN_8_BITS = "hf://comfyanonymous/flux_text_encoders/t5xxl_fp8_e4m3fn.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photos(tmp_path / "photos")
    return tmp_path


def plan(folder: Path, base: str, gpu: str, *words: str) -> tuple[int, str, str]:
    args = ("plan", "photos", "--base-model", base, "--gpu", gpu, *words)
    done = tenner(folder, *args, HF_ENDPOINT="http://127.0.0.1:9")
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", ["plan", "check"])
def test_a_lora_of_another_family_is_refused(folder: Path, command: str) -> None:
    lora = safetensors(folder / "flux.safetensors", LORA)
    gpu = ("--gpu", "A40") if command == "plan" else ()
    args = (command, "photos", "--base-model", "sdxl", *gpu, "--network_weights", str(lora))
    done = tenner(folder, *args, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode != 0
    assert "is a LoRA of FLUX.1 dev (by its names), and sdxl is Stable Diffusion XL" in (
        done.stdout + done.stderr
    )


def test_files_to_fetch_the_gate_and_the_licence_are_named_before_a_card_is_rented(
    folder: Path,
) -> None:
    code, _, told = plan(folder, "flux-dev", "A40")
    assert code == 0
    assert "t5xxl_fp16.safetensors of comfyanonymous/flux_text_encoders is fetched, 9.8 GB" in told
    assert "is gated, and the Hub did not answer whether you may fetch it" in told
    assert "open https://huggingface.co/black-forest-labs/FLUX.1-dev" in told
    assert "is not for commercial use" in told
    _, _, noobai = plan(folder, "noobai-vpred", "A40")
    assert "warning: Laxhar/noobai-XL-Vpred-1.0 is not for commercial use" in noobai


def test_a_card_that_is_too_small_is_refused_with_one_that_is_not_and_its_price(
    folder: Path,
) -> None:
    code, _, told = plan(folder, "flux-dev", "RTX 4060")
    assert code == 4
    assert "RTX 4060 has 8.0 GB free" in told
    assert "the smallest is RTX 3060 with 12 GB, from $" in told
    _, alone, _ = plan(folder, "flux-dev", "RTX 4060", "--json")
    assert [each["fits"] for each in json.loads(alone)["offers"]] == [False]
    code, table, _ = plan(folder, "flux-dev", "RTX 4060,A40", "--json")
    assert code == 0
    offers = {each["card"]: each for each in json.loads(table)["offers"]}
    assert "the smallest is RTX 3060" in offers["RTX 4060"]["fix"]
    assert offers["A40"]["fix"] == ""


def test_the_fix_of_a_card_that_is_too_small_is_one(folder: Path) -> None:
    code, table, _ = plan(folder, "flux-dev", "RTX 4060", "--t5xxl", T5_IN_8_BITS)
    assert code == 0
    assert "8 bits, swap " in table
    code, table, _ = plan(folder, "flux-dev", "RTX 4060", "--t5xxl", T5_IN_8_BITS, "--json")
    offer = json.loads(table)["offers"][0]
    assert (offer["base_in_8_bits"], offer["gradient_checkpointing"]) == (True, True)
    assert offer["blocks_to_swap"] >= 20


def test_whether_it_costs_ten_dollars_is_told(folder: Path) -> None:
    cards = "A40,RTX 4090"
    _, table, _ = plan(folder, "flux-dev", cards)
    assert "Under ten dollars on each card that has a price." in table
    _, table, _ = plan(folder, "flux-dev", "A40", "--max_train_epochs", "1000")
    assert "Ten dollars or more: A40 (RunPod secure), A40 (Vast.ai)." in table
    _, table, _ = plan(folder, "flux-dev", "A40", "--max_train_epochs", "1000", "--json")
    assert {each["under_ten_dollars"] for each in json.loads(table)["offers"]} == {False}
    _, table, _ = plan(folder, "flux-dev", "RTX 4070")
    assert "No price is known" in table


def test_a_prediction_that_contradicts_the_name_is_warned_of(folder: Path) -> None:
    code, _, told = plan(folder, "noobai-vpred", "A40", "--v_parameterization", "false")
    assert code == 0
    assert "it predicts v; trained as one that predicts noise, as set" in told


@pytest.mark.parametrize(
    ("base_model", "family", "note"),
    [
        ("noobai-vpred", "sdxl", "Laxhar/noobai-XL-Vpred-1.0 is not for commercial use"),
        ("flux-dev", "flux", "FLUX.1 [dev] is not for commercial use"),
        ("sdxl", "sdxl", ""),
        ("mine.safetensors", "sdxl", ""),
    ],
)
def test_the_model_card_has_what_the_licence_does_not_allow(
    base_model: str, family: Family, note: str
) -> None:
    assert licence_note(base_model, FAMILIES[family]).startswith(note)
    assert bool(licence_note(base_model, FAMILIES[family])) == bool(note)
