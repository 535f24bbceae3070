"""Rules of samples."""

from tenner.core.messages import msg
from tenner.rules.rule import SD_SCRIPTS, Rule
from tenner.rules.view import View


def _missed(view: View) -> list[int]:
    """Epochs of `sample_at_epochs` after which no checkpoint is saved."""
    every = int(view.number("save_every_n_epochs"))
    return [int(epoch) for epoch in view.numbers("sample_at_epochs") if every and epoch % every]


RULES = (
    Rule(
        when=lambda view: (
            view.any_on("sample_every_n_epochs", "sample_every_n_steps", "sample_at_first")
            and not view.on("sample_prompts")
        ),
        text=msg("samples during training need sample_prompts; sd-scripts dies without them"),
        fix=msg("set sample_prompts, or set sample_at_epochs and leave the prompts to tenner"),
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
    Rule(
        when=lambda view: view.on("sample_at_epochs", "no_samples"),
        text=msg("sample_at_epochs requests samples and no_samples none"),
        fix=msg("remove one of them"),
        needs="settings",
    ),
    Rule(
        when=lambda view: min(view.numbers("sample_at_epochs"), default=1) < 1,
        text=lambda view: msg(
            "sample_at_epochs = {numbers}: epochs count from 1",
            numbers=f"{min(view.numbers('sample_at_epochs')):.0f}",
        ),
        fix=msg("remove it"),
        needs="settings",
    ),
    Rule(
        when=lambda view: view.on("sample_at_epochs", "save_every_n_steps"),
        text=msg(
            "sample_at_epochs draws from checkpoints of epochs, save_every_n_steps saves none"
        ),
        fix=msg("set save_every_n_epochs instead"),
        needs="settings",
    ),
    Rule(
        when=lambda view: bool(_missed(view)),
        text=lambda view: msg(
            "sample_at_epochs = {map}: no checkpoint is saved there (save_every_n_epochs"
            " = {save_every_n_epochs})",
            map=", ".join(map(str, _missed(view))),
            save_every_n_epochs=view.text("save_every_n_epochs"),
        ),
        fix=msg("choose multiples of it, or leave save_every_n_epochs unset"),
        needs="settings",
    ),
)
