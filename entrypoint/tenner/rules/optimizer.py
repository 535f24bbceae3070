"""Rules of the optimizer, its learning rate and its schedule."""

from collections.abc import Iterator

from tenner.engines.sd_scripts.arguments import takes_no_warmup
from tenner.errors import Problem
from tenner.rules.rule import SD_SCRIPTS, Check, Rule
from tenner.rules.view import View
from tenner.rules.written import written_problems
from tenner.slips import nearest_name


def _optimizer(view: View) -> Iterator[Problem]:
    name = view.optimizer
    if "." in name or name.lower() in _OWN_OPTIMIZERS or name in _TORCH_OPTIMIZERS:
        return
    if name.lower().startswith("dadapt"):
        text = f"optimizer_type = {name} needs the package dadaptation, which is not installed"
        yield Problem(text=text, fix='set optimizer_type = "Prodigy", which does the same')
        return
    known = (*_OWN_OPTIMIZERS.values(), *_TORCH_OPTIMIZERS)
    by_lower = {each.lower(): each for each in known}
    near = nearest_name(name.lower(), by_lower, least=60)
    fix = f"did you mean {by_lower[near]}?" if near else "AdamW8bit and AdamW are the usual ones"
    yield Problem(text=f"sd-scripts knows no optimizer {name}", fix=fix)


_OWN_OPTIMIZERS = {
    name.lower(): name
    for name in (
        "AdamW",
        "AdamW8bit",
        "PagedAdamW",
        "PagedAdamW8bit",
        "PagedAdamW32bit",
        "Lion",
        "Lion8bit",
        "PagedLion8bit",
        "SGDNesterov",
        "SGDNesterov8bit",
        "Prodigy",
        "Adafactor",
        "AdamWScheduleFree",
        "RAdamScheduleFree",
        "SGDScheduleFree",
    )
}
_TORCH_OPTIMIZERS = (
    *("ASGD", "Adadelta", "Adagrad", "Adam", "Adamax"),
    *("NAdam", "RAdam", "RMSprop", "Rprop", "SGD"),
)
"""Those of torch 2.4 that a plain training loop can drive; their case counts."""

RULES = (
    Check(find=lambda view: written_problems(view, "optimizer_args"), needs="settings"),
    Check(find=lambda view: written_problems(view, "lr_scheduler_args"), needs="settings"),
    Check(find=_optimizer, trainers=SD_SCRIPTS, needs="trainer"),
    Rule(
        when=lambda view: view.on("fused_backward_pass") and view.optimizer.lower() != "adafactor",
        text="fused_backward_pass works with Adafactor only",
        fix='set optimizer_type = "Adafactor", or remove fused_backward_pass',
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
    Rule(
        when=lambda view: (
            view.on("fused_backward_pass") and view.number("gradient_accumulation_steps") > 1
        ),
        text="fused_backward_pass does not accumulate gradients",
        fix="set gradient_accumulation_steps = 1, or remove fused_backward_pass",
        trainers=SD_SCRIPTS,
    ),
    Rule(
        when=lambda view: (
            view.is_set("lr_warmup_steps")
            and view.on("lr_warmup_steps")
            and takes_no_warmup(view.values)
        ),
        text="this lr_scheduler takes no warm-up steps",
        fix='set lr_warmup_steps = 0, or lr_scheduler = "constant_with_warmup"',
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
    Rule(
        when=lambda view: (
            view.get("lr_scheduler") == "cosine_with_min_lr"
            and view.get("lr_scheduler_min_lr_ratio") is None
            and not view.words("lr_scheduler_args")
        ),
        text="cosine_with_min_lr does not know how low to go",
        fix="set lr_scheduler_min_lr_ratio, such as 0.1",
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
)
