"""Rules of images: sizes and buckets, what is cached, masks, regularisation."""

from collections.abc import Iterator

from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.families import FAMILIES
from tenner.kohya.buckets import widest_bucket
from tenner.rules.rule import SD_SCRIPTS, Check, Rule
from tenner.rules.view import View


def _cached_latents_change(name: str) -> Rule:
    return Rule(
        when=lambda view: view.any_on("cache_latents", "cache_latents_to_disk") and view.on(name),
        text=msg("cache_latents encodes images once, {name} changes them at each step", name=name),
        fix=msg("remove cache_latents or {name}", name=name),
        trainers=SD_SCRIPTS,
        needs="trainer",
    )


def _sizes(view: View) -> Iterator[Problem]:
    """Buckets that sd-scripts would refuse after it has read the images."""
    size = view.size
    if size is None or not view.on("enable_bucket"):
        return
    least, most = view.number("min_bucket_reso"), view.number("max_bucket_reso")
    shown = f"{size[0]}x{size[1]}"
    if least > min(size):
        text = msg(
            "min_bucket_reso = {least} is above the resolution {shown}",
            least=f"{least:.0f}",
            shown=shown,
        )
        yield Problem(text=text, fix=msg("set min_bucket_reso to {size} or less", size=min(size)))
    if most < max(size):
        text = msg(
            "max_bucket_reso = {most} is below the resolution {shown}",
            most=f"{most:.0f}",
            shown=shown,
        )
        yield Problem(text=text, fix=msg("set max_bucket_reso to {size} or more", size=max(size)))
    steps = int(view.number("bucket_reso_steps"))
    expected = FAMILIES[view.family].defaults.finest_step if view.family else 64
    if steps < 1 or steps % expected:
        text = msg(
            "bucket_reso_steps = {steps} is not a multiple of {expected}",
            steps=steps,
            expected=expected,
        )
        yield Problem(text=text, fix=msg("set bucket_reso_steps = {expected}", expected=expected))


def _largest_bucket(view: View) -> int:
    """The longest side of a bucket, as it is decided where max_bucket_reso is open."""
    value = view.values.get("max_bucket_reso")
    return int(str(value)) if value else max(1024, widest_bucket(view.size or (1024, 1024)))


RULES = (
    Rule(
        when=lambda view: (
            view.on("enable_bucket") and view.number("min_bucket_reso") > _largest_bucket(view)
        ),
        text=lambda view: msg(
            "min_bucket_reso {min_bucket_reso} is above max_bucket_reso {largest_bucket}",
            min_bucket_reso=view.text("min_bucket_reso"),
            largest_bucket=_largest_bucket(view),
        ),
        fix=msg("swap them"),
        needs="settings",
    ),
    Check(find=_sizes, trainers=SD_SCRIPTS),
    _cached_latents_change("color_aug"),
    _cached_latents_change("random_crop"),
    Rule(
        when=lambda view: view.on("masked_loss") and not view.on("alpha_mask"),
        text=msg("masked_loss finds no masks"),
        fix=msg("set alpha_mask = true and give images with transparency, or remove masked_loss"),
        needs="settings",
    ),
    Rule(
        when=lambda view: view.number("prior_loss_weight") != 1 and not view.has_regularisation,
        text=msg("prior_loss_weight has no effect without reg_data_dir"),
        fix=msg("set reg_data_dir, or remove prior_loss_weight"),
        level="warning",
        needs="trainer",
    ),
    Rule(
        when=lambda view: view.number("validation_split") != 0,
        text=msg(
            "validation_split makes sd-scripts' epochs shorter than they are planned: it"
            " holds images out of each folder by itself"
        ),
        fix=msg("remove validation_split, or train with the built-in trainer (engine = 'native')"),
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
)
