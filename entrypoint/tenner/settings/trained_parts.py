"""Which parts of a base are trained: a learning rate of 0 leaves a part out, as its switch does.

A part at rate 0 would be written as modules that do nothing, would take the memory of one that is
trained, and its captions would be encoded anew at every step.
"""

from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.settings.model import Settings


def trained_parts(settings: Settings) -> tuple[Settings, tuple[Problem, ...]]:
    """The settings with the switches that their learning rates mean, and a note of each part that
    is left out.

    Two rates for SDXL's two text encoders, of which one is 0, are left as they are. Where nothing
    would be trained, that is the problem.
    """
    unet = settings.learning_rate if settings.unet_lr is None else settings.unet_lr
    text = any(settings.text_encoder_lr or (settings.learning_rate,))
    trains_unet = unet > 0 and not settings.network_train_text_encoder_only
    trains_text = text and not settings.network_train_unet_only
    if not trains_unet and not trains_text:
        return settings, _nothing(settings)
    if not text and not settings.network_train_unet_only:
        why = msg(
            "text_encoder_lr = 0: the text encoder is not trained and has no modules in the file"
        )
        note = Problem(text=msg("{why}, as with network_train_unet_only", why=why), level="note")
        return settings.model_copy(update={"network_train_unet_only": True}), (note,)
    if unet == 0 and not settings.network_train_text_encoder_only:
        why = msg(
            "the U-Net's learning rate is 0: it is not trained and has no modules in the file"
        )
        note = Problem(
            text=msg("{why}, as with network_train_text_encoder_only", why=why), level="note"
        )
        return settings.model_copy(update={"network_train_text_encoder_only": True}), (note,)
    return settings, ()


def _nothing(settings: Settings) -> tuple[Problem, ...]:
    """All rates are 0, or the one that is not is of a part that a switch leaves out."""
    if settings.network_train_unet_only and settings.network_train_text_encoder_only:
        return ()  # both switches at once are reported by `rules`
    text = msg(
        "nothing would be trained: the learning rates of all parts are 0 or left out by a switch"
    )
    fix = msg(
        "set learning_rate, unet_lr or text_encoder_lr above 0, or remove network_train_…_only"
    )
    return (Problem(text=text, fix=fix),)
