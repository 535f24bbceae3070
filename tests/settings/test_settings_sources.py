"""What users write, and what tenner makes of it: one strict model behind every source."""

from pathlib import Path

import pytest

from tenner.core.errors import ExitCode, SettingsError
from tenner.settings import Request, load_request
from tests.guide import GUIDE


def load(
    tmp_path: Path,
    toml: str | bytes = "",
    env: dict[str, str] | None = None,
    flags: dict[str, str] | None = None,
) -> Request:
    path = tmp_path / "job.toml"
    path.write_bytes(toml.encode() if isinstance(toml, str) else toml)
    return load_request(flags or {}, env or {}, config=path)


def refused(tmp_path: Path, toml: str | bytes = "", env: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, toml, env)
    assert caught.value.exit_code == ExitCode.SETTINGS == 2
    assert all(problem.fix for problem in caught.value.problems), "each problem has its fix"
    return str(caught.value)


def test_the_guides_file_runs_unchanged(tmp_path: Path) -> None:
    settings = load(tmp_path, GUIDE).settings
    assert settings.base_model == "./models/sd/v1-5-pruned.safetensors"
    assert settings.dataset == "./training_data"
    assert (settings.resolution, settings.batch_size) == ((512, 512), 2)
    assert (settings.network_dim, settings.network_alpha) == (32, 16)
    assert settings.text_encoder_lr == (5e-5,)
    assert settings.lr_warmup_steps == 100


def test_the_guides_values_are_the_defaults(tmp_path: Path) -> None:
    requested, default = load(tmp_path, GUIDE).settings, load(tmp_path).settings
    for key in ("learning_rate", "lr_scheduler", "network_dim", "network_alpha", "optimizer_type"):
        assert getattr(requested, key) == getattr(default, key)


@pytest.mark.parametrize("name", ["batch_size", "train_batch_size"])
def test_batch_size_and_train_batch_size_are_one_key(tmp_path: Path, name: str) -> None:
    assert load(tmp_path, f"{name} = 3").settings.batch_size == 3


def test_env_beats_the_file_and_the_source_is_remembered(tmp_path: Path) -> None:
    request = load(tmp_path, "seed = 1\ntrain_batch_size = 3", {"TENNER_BATCH_SIZE": "5"})
    assert request.settings.batch_size == 5
    assert request.source("batch_size") == "TENNER_BATCH_SIZE"
    assert request.source("seed") == "job.toml line 1"
    assert request.source("network_dim") == "default"


def test_flags_beat_everything(tmp_path: Path) -> None:
    request = load(tmp_path, "seed = 1", {"TENNER_SEED": "2"}, {"seed": "3"})
    assert (request.settings.seed, request.source("seed")) == (3, "--seed")


def test_two_names_of_one_key_in_one_file_must_agree(tmp_path: Path) -> None:
    assert "batch_size is given twice" in refused(tmp_path, "batch_size = 2\ntrain_batch_size = 3")
    assert load(tmp_path, "batch_size = 2\ntrain_batch_size = 2").settings.batch_size == 2


def test_an_unknown_key_is_reported_with_the_one_meant(tmp_path: Path) -> None:
    text = refused(tmp_path, "[training]\nepochs = 10")
    assert "unknown key 'epochs' (job.toml line 2), did you mean 'max_train_epochs'?" in text


def test_a_misspelt_variable_is_an_error_with_the_one_meant(tmp_path: Path) -> None:
    text = refused(tmp_path, env={"TENNER_LEARNIG_RATE": "1e-4"})
    assert "TENNER_LEARNIG_RATE, did you mean TENNER_LEARNING_RATE?" in text


def test_a_named_file_that_is_missing_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"no settings file /nowhere/x\.toml"):
        load_request({}, {"TENNER_CONFIG": "/nowhere/x.toml"})


def test_empty_variables_count_as_not_set(tmp_path: Path) -> None:
    assert load(tmp_path, env={"TENNER_SEED": ""}).settings.seed == 42


def test_quotes_left_by_an_env_file_are_removed(tmp_path: Path) -> None:
    request = load(tmp_path, env={"TENNER_TRIGGER": '"sks dog"', "TENNER_SEED": "'7'"})
    assert (request.settings.trigger, request.settings.seed) == ("sks dog", 7)


def test_all_problems_of_all_sources_are_reported_at_once(tmp_path: Path) -> None:
    toml = 'epochs = 10\nshuffle_caption = "maybe"\nmixed_precision = "fp-16"\nseed = -1'
    text = refused(tmp_path, toml, {"TENNER_LEARNING_RATE": "0,0001", "TENNER_LEARNIG_RATE": "1"})
    for part in (
        "unknown key 'epochs'",
        'shuffle_caption = "maybe" (job.toml line 2): expected true or false',
        'did you mean "fp16"?',
        "seed = -1 (job.toml line 4): expected at least 0",
        'learning_rate = "0,0001" (TENNER_LEARNING_RATE): decimals are written with a point',
        "TENNER_LEARNIG_RATE",
    ):
        assert part in text


def test_a_conflict_is_reported_beside_a_wrong_value(tmp_path: Path) -> None:
    text = refused(tmp_path, "seed = -1\nmax_train_epochs = 1\nmax_train_steps = 5")
    assert "seed = -1" in text
    assert "max_train_epochs and max_train_steps are both set" in text


@pytest.mark.parametrize(
    ("toml", "key", "value"),
    [
        ('network_dim = "4"', "network_dim", 4),
        ('flip_aug = "false"', "flip_aug", False),
        ('flip_aug = "True"', "flip_aug", True),
        ("resolution = 768", "resolution", (768, 768)),
        ('resolution = "512,768"', "resolution", (512, 768)),
        ('resolution = "512x768"', "resolution", (512, 768)),
        ("resolution = [512, 768]", "resolution", (512, 768)),
        ("lr_warmup_steps = 0.1", "lr_warmup_steps", 0.1),
        ('lr_warmup_steps = "50"', "lr_warmup_steps", 50),
        ('batch_size = "MAX"', "batch_size", "max"),
        ('text_encoder_lr = "1e-5 2e-5"', "text_encoder_lr", (1e-5, 2e-5)),
        ('destinations = "s3://b/p, hf://me/x"', "destinations", ("s3://b/p", "hf://me/x")),
        ('sample_prompts = "a, b\\nc"', "sample_prompts", ("a, b", "c")),
        ('optimizer_args = "eps=1 weight_decay=2"', "optimizer_args", ("eps=1", "weight_decay=2")),
        ("xformers = true", "attention", "xformers"),
        ("xformers = false", "attention", "auto"),
    ],
)
def test_usual_spellings_are_understood(tmp_path: Path, toml: str, key: str, value: object) -> None:
    assert getattr(load(tmp_path, toml).settings, key) == value


@pytest.mark.parametrize(
    ("toml", "hint"),
    [
        ('dataset = "C:\\Users\\me"', "write paths with /"),
        ("flip_aug = True", "write true"),
        ("mixed_precision = fp16", 'text goes between quotes: "fp16"'),
        ("seed = 1\nseed = 2", "remove one of them"),
        ('trigger = "sks\nseed = 2', "closing quote is missing"),
        ("learning_rate = 0,0001", "write decimals with a point: 0.0001"),
    ],
)
def test_broken_toml_is_reported_with_line_text_and_hint(
    tmp_path: Path, toml: str, hint: str
) -> None:
    text = refused(tmp_path, toml)
    assert "job.toml, line " in text
    assert hint in text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_obstacle(tmp_path: Path, encoding: str) -> None:
    assert load(tmp_path, 'trigger = "سارة"'.encode(encoding)).settings.trigger == "سارة"


@pytest.mark.skipif("os.name == 'nt'", reason="there it is a path")
@pytest.mark.parametrize("path", ["C:\\Users\\me\\pics", "D:/train/new"])
def test_a_windows_path_is_reported_to_be_on_the_pc(tmp_path: Path, path: str) -> None:
    text = refused(tmp_path, f"dataset = '{path}'")
    assert "this is on your PC" in text
    assert "mount it" in text


def test_any_option_of_sd_scripts_is_checked_by_its_own_facts(tmp_path: Path) -> None:
    request = load(tmp_path, "min_timestep = 10\nscale_weight_norms = 1.0")
    assert request.settings.engine_options == {"min_timestep": 10, "scale_weight_norms": 1.0}
    text = refused(tmp_path, 'min_timestep = "ten"\nhuggingface_token = "hf_x"')
    assert "min_timestep" in text
    assert "huggingface_token" in text


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        (
            "cache_text_encoder_outputs = 1\nshuffle_caption = 1\nnetwork_train_unet_only = 1",
            "shuffle_caption",
        ),
        ("cache_text_encoder_outputs = true", "needs text encoders that do not change"),
        (
            "network_train_unet_only = true\nnetwork_train_text_encoder_only = true",
            "leave nothing",
        ),
        ("min_bucket_reso = 2112", "above max_bucket_reso"),
        ('output_name = "a/b"', "not a file name"),
    ],
)
def test_settings_that_cannot_stand_together_are_found_at_once(
    tmp_path: Path, toml: str, says: str
) -> None:
    assert says in refused(tmp_path, toml)


def test_sections_are_for_the_reader_only(tmp_path: Path) -> None:
    assert load(tmp_path, "[anything]\nseed = 3").settings.seed == 3
    text = refused(tmp_path, "[a]\nseed = 3\n[b]\nseed = 4")
    assert "seed is set in [a] and in [b]" in text


def test_a_dataset_configuration_of_sd_scripts_is_understood(tmp_path: Path) -> None:
    toml = """
[general]
shuffle_caption = true

[[datasets]]
resolution = 512
batch_size = 4

[[datasets.subsets]]
image_dir = "cats"
num_repeats = 3
class_tokens = "sks cat"
"""
    request = load(tmp_path, toml)
    assert (request.settings.batch_size, request.settings.shuffle_caption) == (4, True)
    (subset,) = request.subsets
    assert (subset.image_dir, subset.num_repeats, subset.class_tokens) == ("cats", 3, "sks cat")
    for wrong in ("0", "10001", "true", "2.5"):
        text = refused(tmp_path, toml.replace("num_repeats = 3", f"num_repeats = {wrong}"))
        assert "of cats: expected a whole number from 1 to 10000" in text


def test_steps_of_a_stronger_source_replace_epochs(tmp_path: Path) -> None:
    settings = load(tmp_path, GUIDE, {"TENNER_MAX_TRAIN_STEPS": "500"}).settings
    assert (settings.max_train_steps, settings.max_train_epochs) == (500, None)
    text = refused(tmp_path, "max_train_epochs = 2\nmax_train_steps = 50")
    assert "are both set" in text


def test_the_built_in_trainer_s_earlier_name_is_accepted(tmp_path: Path) -> None:
    assert load(tmp_path, 'engine = "native"').settings.engine == "native"
    assert load(tmp_path, 'engine = "diffusers"').settings.engine == "native"
    assert load(tmp_path, flags={"engine": "diffusers"}).settings.engine == "native"
    text = refused(tmp_path, 'engine = "kohya"')
    assert "expected one of auto, sd-scripts, native" in text
    assert "diffusers" not in text


def test_a_choice_of_numbers_is_taken_from_text_too(tmp_path: Path) -> None:
    assert load(tmp_path, "max_token_length = 150").settings.max_token_length == 150
    assert load(tmp_path, env={"TENNER_MAX_TOKEN_LENGTH": "225"}).settings.max_token_length == 225
    assert load(tmp_path, flags={"max_token_length": "225"}).settings.max_token_length == 225
    assert "expected one of 75, 150, 225" in refused(tmp_path, "max_token_length = 77")


def test_a_value_that_a_stronger_source_replaces_is_not_judged(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, "max_train_steps = 0", flags={"max_train_epochs": "many"})
    (problem,) = caught.value.problems
    assert problem.text == 'max_train_epochs = "many" (--max_train_epochs): expected a whole number'


def test_only_the_given_environment_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENNER_SEED", "9")
    monkeypatch.setenv("SEED", "8")
    assert load(tmp_path).settings.seed == 42
    assert load(tmp_path, env={"SEED": "8", "tenner_seed": "7"}).settings.seed == 42
    assert load(tmp_path, env={"TENNER_SEED": "6"}).settings.seed == 6
