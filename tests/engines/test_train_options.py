"""The decided options of a run: their order on disk and on the command line, and their changes."""

from dataclasses import fields

from tenner.engines.sd_scripts.arguments import arguments, translate
from tenner.engines.train_options import TrainOptions
from tests.train_options import train_options


def test_what_the_user_gave_comes_before_what_was_decided_and_what_was_added_last() -> None:
    options = train_options(min_timestep=5, vae="v").with_changed({"cache_latents_to_disk": True})
    names = list(options.by_name())
    assert names[:3] == ["v2", "vae", "clip_skip"]
    assert names.index("training_comment") + 1 == names.index("min_timestep")
    assert names.index("min_timestep") + 1 == names.index("v_parameterization")
    assert names[-2:] == ["sample_prompts", "cache_latents_to_disk"]
    assert len(names) == len(fields(TrainOptions)) - 2 + 2
    words = arguments(translate(options.by_name(), family="sd1"))
    order = ["--seed=42", "--min_timestep=5", "--optimizer_type=AdamW", "--cache_latents_to_disk"]
    assert [word for word in words if word in order] == order


def test_a_change_keeps_each_option_where_it_is() -> None:
    options = train_options(train_batch_size=4, cache_latents_to_disk=False)
    changed = options.with_changed(
        {"train_batch_size": 2, "cache_latents_to_disk": True, "cache_text_encoder_outputs": True}
    )
    assert changed.train_batch_size == 2
    assert changed.engine_options == {"cache_latents_to_disk": True}
    assert changed.added == {"cache_text_encoder_outputs": True}
    assert changed.only_sd_scripts("cache_latents_to_disk") is True
    assert changed.only_sd_scripts("cache_text_encoder_outputs") is True
    assert changed.only_sd_scripts("color_aug") is None
    assert list(changed.by_name())[:-1] == list(options.by_name())
