"""A run that starts from a LyCORIS file: its network is made as the file's was, or refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tenner.core.errors import SettingsError
from tenner.lora_files import read_lora_file
from tenner.lora_files.programs import read_by
from tenner.pipeline.start_files import with_start_files
from tenner.planning.family_defaults import with_family_defaults
from tenner.settings import Request, Settings
from tests.cli.test_command_line import photos, tenner
from tests.run.program import sparse_base

MODULE = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


def loha(path: Path, metadata: dict[str, str] | None) -> Path:
    shapes = {
        "hada_w1_a": (320, 6),
        "hada_w1_b": (6, 768),
        "hada_w2_a": (320, 6),
        "hada_w2_b": (6, 768),
    }
    tensors = {f"{MODULE}.{name}": np.ones(shape, np.float32) for name, shape in shapes.items()}
    save_file({**tensors, f"{MODULE}.alpha": np.array(3.0, np.float32)}, path, metadata)
    return path


MADE = {
    "ss_network_module": "lycoris.kohya",
    "ss_network_dim": "6",
    "ss_network_alpha": "3.0",
    "ss_network_args": json.dumps({"algo": "loha", "conv_dim": "2", "dropout": None}),
}


def test_an_ia3_is_continued_without_a_rank(tmp_path: Path) -> None:
    """sd-scripts writes the rank of its settings, which the network does not have."""
    file = tmp_path / "before.safetensors"
    arguments = json.dumps({"algo": "ia3", "preset": "ia3", "dropout": None})
    tensors = {f"{MODULE}.weight": np.ones(320), f"{MODULE}.on_input": np.array(0.0)}
    save_file(
        {name: value.astype(np.float16) for name, value in tensors.items()},
        file,
        {**MADE, "ss_network_args": arguments, "ss_base_model_version": "sd_v1"},
    )
    request = Request(
        settings=Settings(network_weights=str(file), network_dim=8), set_at={"network_dim": "flag"}
    )
    start = with_start_files(request, None, "sd-scripts")
    found = with_family_defaults(start, "sd1", (512, 512)).settings
    assert (found.network_module, found.network_args) == (
        "lycoris.kohya",
        ("algo=ia3", "preset=ia3"),
    )
    assert (found.network_dim, found.learning_rate) == (8, 5e-3)
    answers = {each.program: each.why_not for each in read_by(read_lora_file(file))}
    assert [name for name, why_not in answers.items() if not why_not] == [
        "A1111",
        "tenner (network_weights)",
    ]


def args(tmp_path: Path, file: Path) -> tuple[str, ...]:
    base = sparse_base(tmp_path / "base.safetensors")
    given = ("--base-model", str(base), "--gpu", "RTX 4090", "--network_weights", str(file))
    return ("plan", str(photos(tmp_path / "photos")), *given)


def test_kind_rank_and_arguments_are_the_files(tmp_path: Path) -> None:
    file = loha(tmp_path / "before.safetensors", MADE)
    request = Request(settings=Settings(network_weights=str(file)))
    found = with_start_files(request, None, "sd-scripts").settings
    assert found.network_module == "lycoris.kohya"
    assert found.network_args == ("algo=loha",)
    assert (found.network_dim, found.network_alpha, found.conv_dim) == (6, 3.0, 2)
    with pytest.raises(SettingsError, match="which the built-in trainer cannot train"):
        with_start_files(request, None, "native")


def test_a_preset_of_ones_own_is_named_anew_for_a_file_that_was_made_with_it(
    tmp_path: Path,
) -> None:
    """Metadata have the name of its file, and no folder of the machine that it was on."""
    preset = tmp_path / "blocks.toml"
    preset.write_text('unet_target_module = ["Block"]\n')
    network = json.dumps({"algo": "loha", "preset": "…/blocks.toml"})
    file = loha(tmp_path / "before.safetensors", {**MADE, "ss_network_args": network})

    def started(*arguments: str) -> Settings:
        settings = Settings(network_weights=str(file), network_args=arguments)
        return with_start_files(Request(settings=settings), None, "sd-scripts").settings

    with pytest.raises(SettingsError, match=r"blocks\.toml cannot be read") as caught:
        started()
    assert "preset=FILE" in caught.value.problems[0].fix
    assert started(f"preset={preset}").network_args == (f"preset={preset}", "algo=loha")
    other = preset.with_name("other.toml")
    other.write_text(preset.read_text())
    with pytest.raises(SettingsError, match=r"network_weights has …/blocks\.toml"):
        started(f"preset={other}")
    preset.write_text("no TOML")
    with pytest.raises(SettingsError, match="cannot be read"):
        started(f"preset={preset}")


def test_the_rules_hold_for_a_network_that_a_file_brings(tmp_path: Path) -> None:
    file = loha(tmp_path / "before.safetensors", MADE)
    more = ("--engine", "sd-scripts", "--fp8_base", "true", "--mixed_precision", "bf16")
    done = tenner(tmp_path, *args(tmp_path, file), *more)
    assert done.returncode == 2, done.stdout
    assert "LyCORIS cannot add to such weights" in done.stderr
    assert '"bypass_mode=True"' in done.stderr


@pytest.mark.parametrize(
    ("metadata", "more", "texts"),
    [
        (None, ("--engine", "sd-scripts"), ("do not state how it was made",)),
        (
            MADE,
            (
                *("--engine", "sd-scripts", "--network_args", "algo=lokr", "--network_dim", "8"),
                *("--network_module", "networks.oft"),
            ),
            (
                "algo = lokr, but network_weights has loha",
                "network_dim = 8",
                "network_weights is of lycoris.kohya",
            ),
        ),
    ],
)
def test_what_cannot_be_continued_is_refused_by_plan_all_at_once(
    tmp_path: Path, metadata: dict[str, str] | None, more: tuple[str, ...], texts: tuple[str, ...]
) -> None:
    file = loha(tmp_path / "before.safetensors", metadata)
    done = tenner(tmp_path, *args(tmp_path, file), *more)
    assert done.returncode == 2, done.stderr
    for text in texts:
        assert text in done.stderr
    assert "fix:" in done.stderr


@pytest.mark.parametrize("metadata", [None, MADE])
def test_inspect_shows_whether_a_training_can_continue_from_it(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    file = read_lora_file(loha(tmp_path / "before.safetensors", metadata))
    answers = {each.program: each.why_not for each in read_by(file)}
    assert bool(answers["tenner (network_weights)"]) == (metadata is None)
    assert answers["diffusers"] == "it has no LoHa"
    assert answers["ComfyUI"] == ""
