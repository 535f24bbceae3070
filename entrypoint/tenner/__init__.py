"""tenner trains a Stable Diffusion LoRA on a rented GPU for under ten dollars.

As a library: `from tenner import train`. Names are loaded where they are first used, so that
`import tenner` costs nothing; their types stand in `__init__.pyi`.
"""

__version__ = "0.1.0"

_LOADED_FROM = {
    "train": "tenner.library.training",
    "Result": "tenner.library.training",
    "check": "tenner.library.checking",
    "CheckResult": "tenner.dataset.check",
    "plan": "tenner.library.planning",
    "PlanResult": "tenner.library.planning",
    "compare": "tenner.library.planning",
    "Comparison": "tenner.pipeline.comparing",
    "inspect": "tenner.library.inspecting",
    "Inspection": "tenner.library.inspecting",
    "Settings": "tenner.settings.model",
    "Request": "tenner.settings.resolve",
    "Event": "tenner.core.events",
    "events": "tenner.core.events",
    "Problem": "tenner.core.errors",
    "ExitCode": "tenner.core.errors",
    "TennerError": "tenner.core.errors",
    "SettingsError": "tenner.core.errors",
    "DatasetError": "tenner.core.errors",
    "MachineError": "tenner.core.errors",
    "TrainingError": "tenner.core.errors",
    "DeliveryError": "tenner.core.errors",
    "BudgetReached": "tenner.core.errors",
    "InternalError": "tenner.core.errors",
    "Stopped": "tenner.core.errors",
}
"""The module of each name of the library (PEP 562)."""


def __getattr__(name: str) -> object:
    if name not in _LOADED_FROM:
        raise AttributeError(f"module 'tenner' has no attribute {name!r}")
    from importlib import import_module

    module = import_module(_LOADED_FROM[name])
    found: object = module if name == "events" else getattr(module, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LOADED_FROM})
