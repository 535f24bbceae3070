"""What a rule sees: the values of all options, who set them, and what is known of the run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tenner.core.family import Family
from tenner.kohya.options import options

Trainer = Literal["sd-scripts", "native"]
Needs = Literal["settings", "trainer", "plan"]
"""How much must be known: what the user wrote; also the trainer and the family; also the plan."""


@dataclass(frozen=True, kw_only=True)
class View:
    """Options by name, as settings and sd-scripts call them. None is an option left open.

    `values` are the user's where `knows` is `settings` or `trainer`, and decided ones where it is
    `plan`. `sources` names where each was set; an option without one has its default. The family
    may be known by the base's name before the base is read; `base_predicts_v` is None where it is
    not.
    """

    values: Mapping[str, object]
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    """Those of `values` that only sd-scripts names: no settings of tenner."""
    sources: Mapping[str, str] = field(default_factory=dict[str, str])
    knows: Needs = "settings"
    trainer: Trainer | None = None
    family: Family | None = None
    base_predicts_v: bool | None = None
    has_regularisation_folders: bool = False
    missing_packages: tuple[str, ...] = ()
    """Of those that the optimizer needs, what the trainer's Python does not have."""

    def get(self, name: str) -> object:
        """The value of an option; sd-scripts' default where it is open."""
        value = self.values.get(name)
        if value is None and name in options():
            return options()[name].default
        return value

    def on(self, *names: str) -> bool:
        """Whether all of these are set to something: not false, 0 or empty."""
        return all(bool(self.get(name)) for name in names)

    def any_on(self, *names: str) -> bool:
        """Whether one of these is set to something."""
        return any(bool(self.get(name)) for name in names)

    def is_set(self, name: str) -> bool:
        """Whether the user set it: by flag, variable, file or preset."""
        return name in self.sources

    def source(self, name: str) -> str:
        """Who set it."""
        return self.sources.get(name, "default")

    def number(self, name: str) -> float:
        """The value as a number, 0 where it is open."""
        return float(str(self.get(name) or 0))

    def numbers(self, name: str) -> tuple[float, ...]:
        """The values of an option that takes several numbers."""
        value = self.get(name)
        parts: Sequence[object] = list(value) if isinstance(value, list | tuple) else [value]  # pyright: ignore[reportUnknownArgumentType]
        return tuple(float(str(part)) for part in parts if part is not None)

    def text(self, name: str) -> str:
        """The value as text, empty where it is open."""
        value = self.get(name)
        return "" if value is None else str(value)

    def words(self, name: str) -> tuple[str, ...]:
        """The values of an option that takes several words."""
        value = self.get(name)
        parts: Sequence[object] = list(value) if isinstance(value, list | tuple) else []  # pyright: ignore[reportUnknownArgumentType]
        return tuple(str(part) for part in parts)

    @property
    def optimizer(self) -> str:
        return self.text("optimizer_type") or "AdamW"

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of `resolution`."""
        value = self.get("resolution")
        parts: Sequence[object] = (
            list(value) if isinstance(value, list | tuple) else str(value or "").split(",")  # pyright: ignore[reportUnknownArgumentType]
        )
        try:
            numbers = [int(str(part)) for part in parts]
        except ValueError:
            return None
        return (numbers[0], numbers[-1]) if numbers else None

    @property
    def predicts_v(self) -> bool | None:
        """Whether the model predicts v, by the settings or else by the base; None is not known."""
        value = self.values.get("v_parameterization")
        return self.base_predicts_v if value is None else bool(value)

    @property
    def has_regularisation(self) -> bool:
        return self.has_regularisation_folders or self.on("reg_data_dir")
