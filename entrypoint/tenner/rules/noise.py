"""Rules of what the model predicts, the noise and the loss."""

from tenner.core.messages import msg
from tenner.rules.rule import Rule
from tenner.rules.view import View


def _needs_v(name: str, why: str = "") -> Rule:
    return Rule(
        when=lambda view: view.on(name) and view.predicts_v is False,
        text=msg("{name} needs v_parameterization{why}", name=name, why=why),
        fix=msg("set v_parameterization, or remove {name}", name=name),
    )


def _needs(name: str, other: str) -> Rule:
    return Rule(
        when=lambda view: view.on(name) and not view.on(other),
        text=msg("{name} needs {other}", name=name, other=other),
        fix=msg("set {other}, or remove {name}", other=other, name=name),
    )


def _timesteps_empty(view: View) -> bool:
    most = view.get("max_timestep")
    return most is not None and view.number("min_timestep") >= view.number("max_timestep")


RULES = (
    _needs("adaptive_noise_scale", "noise_offset"),
    _needs_v("scale_v_pred_loss_like_noise_pred"),
    _needs_v("zero_terminal_snr", msg(": noise cannot be predicted from noise")),
    Rule(
        when=lambda view: view.on("v_pred_like_loss") and bool(view.predicts_v),
        text=msg("v_pred_like_loss is for bases that predict noise, this one predicts v"),
        fix=msg("remove v_pred_like_loss"),
    ),
    Rule(
        when=_timesteps_empty,
        text=msg(
            "min_timestep is not below max_timestep, so one timestep would be all that is trained"
        ),
        fix=msg("set min_timestep below max_timestep (0 to 1000)"),
        needs="settings",
    ),
    Rule(
        when=lambda view: view.family == "sdxl" and view.on("v2"),
        text=msg("v2 is for Stable Diffusion 2.x, and the base is SDXL"),
        fix=msg("remove v2"),
        needs="trainer",
    ),
)
