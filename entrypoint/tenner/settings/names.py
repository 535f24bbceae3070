"""Names of keys: of a setting, another name of it, or an option of sd-scripts."""

from functools import cache

from tenner.core.messages import msg
from tenner.core.suggest import nearest_name
from tenner.settings.model import ALIASES, Settings

PREFIX = "TENNER_"

PROGRAM_VARIABLES = {
    "TENNER_CONFIG": "the settings file",
    "TENNER_PRESET": "the preset",
    "TENNER_TRAINER_PYTHON": "the Python that holds the trainer",
    "TENNER_CACHE_DIR": "the folder of downloads",
    "TENNER_MODELS_DIR": "where baked base models are",
    "TENNER_SERVE_TOKEN": "the token of the served page",
    "TENNER_SERVE_TOKEN_FILE": "a file that holds it",
    "TENNER_HOST_API": "another address of the host's API",
    "TENNER_WEBHOOK": "the address that a run reports to",
    "TENNER_WEBHOOK_FILE": "a file with that address",
    "TENNER_CHILD_ENV": "further variables that the trainer may see",
    "TENNER_LOG": "how much is printed: quiet, normal, debug",
}
"""Variables that configure the program rather than a run; they are no settings."""

OTHER_NAMES = {
    "epochs": "max_train_epochs",
    "num_epochs": "max_train_epochs",
    "steps": "max_train_steps",
    "max_steps": "max_train_steps",
    "lr": "learning_rate",
    "rank": "network_dim",
    "dim": "network_dim",
    "alpha": "network_alpha",
    "model": "base_model",
    "data": "dataset",
    "output": "output_dir",
    "name": "output_name",
    "optimizer": "optimizer_type",
    "scheduler": "lr_scheduler",
    "precision": "mixed_precision",
    "instance_prompt": "trigger",
    "trigger_word": "trigger",
    "budget": "max_cost_usd",
    "price": msg("price_per_hour"),
    "workers": "max_data_loader_n_workers",
    "destination": "destinations",
    "hub_model_id": "destinations",
    "huggingface_repo_id": "destinations",
}
"""Names that other trainers use, for did-you-mean only."""


def canonical(name: str) -> str:
    """The key that `name` is another name of; hyphens count as underscores."""
    plain = name.replace("-", "_")
    return ALIASES.get(plain, plain)


@cache
def setting_names() -> tuple[str, ...]:
    """All keys that tenner itself names."""
    return tuple(name for name in Settings.model_fields if name != "engine_options")


def nearest(name: str, known: tuple[str, ...]) -> str | None:
    """The known name that `name` most likely means, or None where nothing is near."""
    alias = OTHER_NAMES.get(name.lower())
    if alias in known:
        return alias
    return nearest_name(name.lower(), known)
