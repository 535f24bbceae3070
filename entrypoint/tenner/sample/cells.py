"""The pictures that show the quality of a LoRA.

The guide recommends strengths from 0.5 to 1.0 over at least five seeds, the trigger at other
positions of the prompt, and the concept in and out of the negative prompt. Strength 0 (the base
alone) and the prompt without its trigger are drawn beside them, since a LoRA is judged by what it
changes and by what it does not.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from tenner.sample.job import Cell
from tenner.settings.model import Settings
from tenner.settings.prompt_lines import PromptLine, parse_prompt

GUIDE_STRENGTHS = (0.5, 0.7, 0.8, 1.0)
GUIDE_SEEDS = (1, 2, 3, 4, 5)
FULL = 1.0
USUAL = 0.8
_DISTINCT_PROMPTS = 2
"""Prompts taken from the captions when the user sets none; more take time and show little more."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt with the trigger, and the same without it.

    `plain` is the prompt without the concept; where the user did not set it, it is the text without
    the trigger.
    """

    text: str
    plain: str
    negative: str = ""
    own: PromptLine | None = None
    """The options of its line: size, seed, guidance and steps."""

    @classmethod
    def of(
        cls, text: str, trigger: str, *, plain: str | None = None, negative: str = ""
    ) -> "Prompt":
        """The prompt of `text`, at whose beginning the trigger is added if it is missing."""
        full = text if contains(text, trigger) else join_words((trigger, text))
        return cls(
            text=full,
            plain=without_trigger(full, trigger) if plain is None else plain,
            negative=negative,
        )

    @classmethod
    def of_line(cls, line: str, trigger: str, *, negative: str = "") -> "Prompt":
        """The prompt of a line with sd-scripts' options; `negative` where it has none of its own.

        Raises ValueError where the line is ill-formed.
        """
        own = parse_prompt(line)
        prompt = cls.of(
            own.text, trigger, negative=negative if own.negative is None else own.negative
        )
        return replace(prompt, own=own)

    @property
    def group(self) -> str:
        """The heading of its pictures: the prompt, and the options of its line."""
        own = self.own
        if own is None:
            return self.text
        texts: list[str] = []
        if own.width or own.height:
            texts.append(f"{own.width or '…'}×{own.height or '…'}")
        texts += [f"guidance {own.guidance:g}"] if own.guidance is not None else []
        texts += [f"{own.steps} steps"] if own.steps else []
        texts += [f"without: {own.negative}"] if own.negative else []
        return f"{self.text} ({', '.join(texts)})" if texts else self.text

    def seeds(self, usual: Sequence[int]) -> Sequence[int]:
        """Its own seed, else the usual ones."""
        return usual if self.own is None or self.own.seed is None else (self.own.seed,)

    def drawn_as(self, cell: Cell) -> Cell:
        """The cell with the size, guidance and steps of the prompt's own line."""
        if self.own is None:
            return cell
        own = self.own
        return replace(
            cell,
            width=own.width,
            height=own.height,
            steps=own.steps,
            guidance_scale=own.guidance,
        )


def sample_prompts(settings: Settings, captions: Sequence[str], trigger: str) -> list[Prompt]:
    """The user's prompts, else the dataset's most frequent captions, else the trigger alone."""
    negative = settings.sample_negative_prompt
    if settings.sample_prompts:
        lines = settings.sample_prompts
        return [Prompt.of_line(line, trigger, negative=negative) for line in lines]
    counts: dict[str, int] = {}
    for caption in captions:
        counts[caption] = counts.get(caption, 0) + 1
    usual = sorted(counts, key=lambda caption: (-counts[caption], caption))
    texts = usual[:_DISTINCT_PROMPTS] or [trigger or "a picture"]
    return [Prompt.of(text, trigger, negative=negative) for text in texts]


def grid_cells(settings: Settings, captions: Sequence[str], trigger: str) -> tuple[Cell, ...]:
    """The pictures that the guide recommends, for this dataset."""
    return guide_cells(
        sample_prompts(settings, captions, trigger),
        trigger,
        settings.sample_strengths,
        settings.sample_seeds,
        ema=settings.ema,
    )


def guide_cells(
    prompts: Sequence[str | Prompt],
    trigger: str,
    strengths: Sequence[float] = GUIDE_STRENGTHS,
    seeds: Sequence[int] = GUIDE_SEEDS,
    *,
    negative: str = "",
    ema: bool = False,
) -> tuple[Cell, ...]:
    """The pictures the guide recommends, group after group, in the order they are shown.

    With `ema` the moving average of the weights is beside the raw ones at every strength.

    Every prompt gets strength 0 and all `strengths` over all `seeds`; the first prompt gets the
    three further groups too (without the trigger, trigger elsewhere, concept in the negative
    prompt). Without a trigger there is only the first kind. No cell is repeated.
    """
    full = [
        each if isinstance(each, Prompt) else Prompt.of(each, trigger, negative=negative)
        for each in prompts
    ]
    cells = [cell for prompt in full for cell in strength_cells(prompt, strengths, seeds, ema=ema)]
    if full and trigger:
        first, own_seeds = full[0], full[0].seeds(seeds)
        further = [
            *plain_cells(first, own_seeds),
            *position_cells(first, trigger, own_seeds),
            *negative_cells(first, trigger, own_seeds),
        ]
        cells += map(first.drawn_as, further)
    return tuple(cells)


def strength_cells(
    prompt: Prompt, strengths: Sequence[float], seeds: Sequence[int], *, ema: bool = False
) -> Iterable[Cell]:
    """Strengths as columns, the first one 0, and seeds as rows."""
    for seed in prompt.seeds(seeds):
        for strength in (0.0, *(each for each in strengths if each != 0.0)):
            cell = Cell(
                prompt=prompt.text,
                negative_prompt=prompt.negative,
                strength=strength,
                seed=seed,
                group=prompt.group,
                row=seed_label(seed),
                column=strength_label(strength),
            )
            yield prompt.drawn_as(cell)
            if ema and strength != 0.0:
                column = f"{strength_label(strength)} EMA"
                yield prompt.drawn_as(replace(cell, ema=True, column=column))


def plain_cells(prompt: Prompt, seeds: Sequence[int]) -> Iterable[Cell]:
    """The prompt without its trigger, with the base and the LoRA: whether the LoRA changes it."""
    for seed in seeds:
        for strength in (0.0, USUAL, FULL):
            yield Cell(
                prompt=prompt.plain,
                negative_prompt=prompt.negative,
                strength=strength,
                seed=seed,
                group="without the trigger",
                row=seed_label(seed),
                column=strength_label(strength),
            )


def position_cells(prompt: Prompt, trigger: str, seeds: Sequence[int]) -> Iterable[Cell]:
    """The trigger first, in the middle and last, at the usual strength."""
    positions = trigger_positions(prompt.plain, trigger)
    for seed in seeds:
        for position, text in positions:
            yield Cell(
                prompt=text,
                negative_prompt=prompt.negative,
                strength=USUAL,
                seed=seed,
                group="trigger at other positions",
                row=seed_label(seed),
                column=position,
            )


def negative_cells(prompt: Prompt, trigger: str, seeds: Sequence[int]) -> Iterable[Cell]:
    """The concept in the prompt, and in the negative prompt, at the usual strength."""
    away = join_words((trigger, prompt.negative))
    columns = (
        ("in the prompt", prompt.text, prompt.negative),
        ("in neither", prompt.plain, prompt.negative),
        ("in the negative prompt", prompt.plain, away),
    )
    for seed in seeds:
        for column, text, negative in columns:
            yield Cell(
                prompt=text,
                negative_prompt=negative,
                strength=USUAL,
                seed=seed,
                group="concept in the negative prompt",
                row=seed_label(seed),
                column=column,
            )


def strength_label(strength: float) -> str:
    """`0 (base)`, `0.5`, `1.0`."""
    return "0 (base)" if strength == 0 else f"{strength:.2f}".rstrip("0").ljust(3, "0")


def seed_label(seed: int) -> str:
    return f"seed {seed}"


def trigger_positions(plain: str, trigger: str) -> tuple[tuple[str, str], ...]:
    """The prompt with the trigger at its start, between two of its parts, and at its end.

    Parts are separated by commas; a prompt without commas is divided at the word nearest to its
    middle. An empty prompt has one position only.
    """
    parts = [part.strip() for part in plain.split(",") if part.strip()]
    joiner = ", "
    if len(parts) == 1 and len(parts[0].split()) > 1:
        parts, joiner = parts[0].split(), " "
    if not parts:
        return (("alone", trigger),)
    middle = (len(parts) + 1) // 2
    placed = {
        "at the start": [trigger, *parts],
        "in the middle": [*parts[:middle], trigger, *parts[middle:]],
        "at the end": [*parts, trigger],
    }
    if middle == len(parts):
        del placed["in the middle"]
    return tuple((position, joiner.join(words)) for position, words in placed.items())


def contains(text: str, trigger: str) -> bool:
    """Whether the trigger is in `text` as whole words, in any case."""
    return not trigger or re.search(_whole(trigger), text, re.IGNORECASE) is not None


def without_trigger(text: str, trigger: str) -> str:
    """`text` without the trigger, its article and superfluous commas."""
    if not trigger:
        return text
    with_article = rf"(?:(?<!\w)(?:a|an|the)\s+)?{_whole(trigger)}"
    bare = re.sub(with_article, " ", text, flags=re.IGNORECASE)
    parts = (re.sub(r"\s+", " ", part).strip() for part in bare.split(","))
    return join_words(parts)


def join_words(parts: Iterable[str]) -> str:
    """The non-empty parts as `a, b`."""
    return ", ".join(part for part in parts if part)


def _whole(trigger: str) -> str:
    return rf"(?<!\w){re.escape(trigger.strip())}(?!\w)"
