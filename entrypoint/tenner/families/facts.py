"""The types of a family's facts: its bases, training, memory and pictures.

Each default has its reason, which a plan shows, and its source.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from tenner.core.errors import Level
from tenner.core.family import Family
from tenner.core.messages import NO_TEXT, Message, msg

T = TypeVar("T")
Shapes = Mapping[str, list[int]]
"""Tensor shapes of a checkpoint by name."""
Scalar = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class Default(Generic[T]):
    """A value with its reason and its source."""

    value: T
    reason: str
    source: str


@dataclass(frozen=True, kw_only=True)
class FamilyDefaults:
    """The defaults of one family.

    `bucket_reso_steps` and `finest_step` are pixels; `text_encoder_lr_share` is a share of
    `learning_rate`, for runs that train the text encoders; `noise_offset` holds for bases that
    predict noise; `clip_skip` None is the family's own layer; `rank` is `network_dim`.
    """

    bucket_reso_steps: Default[int]
    finest_step: int
    network_train_unet_only: Default[bool]
    text_encoder_lr_share: Default[float]
    noise_offset: Default[float | None]
    clip_skip: Default[None]
    no_half_vae: Default[bool]
    rank: Default[int]


@dataclass(frozen=True, kw_only=True)
class KnownBase:
    """A base that has a short name. Licences are those of the model's own page.

    `file` at `revision` is downloaded where the model is not found; `sha256` is that file's.
    """

    name: str
    hub_id: str
    family: Family
    licence: str
    revision: str
    file: str
    sha256: str
    other_names: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    is_gated: bool = False
    """Whether the Hub allows its download only after accepting the licence on its page."""
    is_commercial: bool = True
    """Whether its licence allows commercial use, where the base has one apart from its family."""
    advice: Message = NO_TEXT
    """What its authors recommend for training on it, with the source."""

    @property
    def licence_note(self) -> Message:
        """That its own licence is not for commercial use; empty where it is."""
        if self.is_commercial:
            return NO_TEXT
        return msg(
            "{name} is not for commercial use, and neither is a LoRA made from it: {licence}",
            name=self.hub_id,
            licence=self.licence,
        )


@dataclass(frozen=True, kw_only=True)
class FurtherFile:
    """A file that a family's trainer needs beside the base, by the option that names it.

    It is recognised by `mark`, a tensor that such a file has (of its `shape`, where another file's
    differs only in that). `inside` is the beginning of the names in a base that has the
    part itself, and needs no file. `hub_id`, `revision` and `file` are downloaded else.
    """

    option: str
    title: str
    mark: str
    shape: tuple[int, ...] = ()
    inside: str = ""
    hub_id: str
    revision: str
    file: str
    sha256: str
    gb: float
    """The size of the file in 1e9 bytes, on the disk and on the card."""
    other_names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class HubTokenizer:
    """A tokenizer that sd-scripts looks up by `hub_id` in the Hub's cache while it trains.

    `files` are those that it reads, at the commit `revision`, each with its SHA-256 where that is
    known: the commit alone decides the others.
    """

    title: str
    hub_id: str
    revision: str
    files: Mapping[str, str]
    is_gated: bool = False


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Blocks that sd-scripts swaps between card and memory.

    `parameters` of one block of each kind, in millions; at least `resident` blocks of each kind
    stay on the card. `swapped(n)` is how many of each kind `blocks_to_swap = n` moves.
    """

    parameters: tuple[float, ...]
    numbers: tuple[int, ...]
    resident: int = 2

    def swapped(self, blocks_to_swap: int) -> tuple[int, ...]:
        """How many blocks of each kind are moved, by sd-scripts' `enable_block_swap`: with two
        kinds, half of `blocks_to_swap` are double blocks, the other half two single ones each."""
        if len(self.numbers) == 1:
            return (blocks_to_swap,)
        double = blocks_to_swap // 2
        return double, (blocks_to_swap - double) * 2

    @property
    def most_swapped(self) -> int:
        """The largest `blocks_to_swap` that sd-scripts takes."""

        def fits(n: int) -> bool:
            pairs = zip(self.swapped(n), self.numbers, strict=True)
            return all(moved <= there - self.resident for moved, there in pairs)

        return max(n for n in range(sum(self.numbers)) if fits(n))

    def swapped_parameters(self, blocks_to_swap: int) -> float:
        """The number of parameters that are not on the card."""
        moved = zip(self.swapped(blocks_to_swap), self.parameters, strict=True)
        return sum(number * each for number, each in moved) * 1e6


@dataclass(frozen=True, kw_only=True)
class Transformer:
    """Size of a family that denoises with a transformer, for the memory and time models.

    `parameters` counts all of the transformer; `lora_per_dim` numbers of a LoRA for each rank over
    its linear layers; `text_gb` the text encoders in 16 bits. Activations are those of one image at
    `side`² pixels in GB, all stored or with gradient checkpointing; `step_tflop` the work of such
    an image, without and with checkpointing, and `forward_tflop` that of one denoising step.
    """

    parameters: float
    blocks: Blocks
    lora_per_dim: int
    text_gb: float
    text_lora_per_dim: int = 0
    activations_gb: float
    checkpointed_gb: float
    step_tflop: tuple[float, float]
    forward_tflop: float
    has_fp8: bool = True
    fp8_option: str = "fp8_base"
    use: float = 0.37
    """The share of the card's peak performance that steps reach."""
    error: float = 0.5
    """The relative error of the estimated time."""
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Licence:
    """`note` is shown before the training and in the model card."""

    name: str
    url: str
    note: Message = NO_TEXT
    is_commercial: bool = True


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How the grid is drawn: steps and guidance where they are open.

    `pipeline` is diffusers' class that loads the family's LoRAs, empty where there is none.
    `is_converted` means that diffusers does not read sd-scripts' LoRAs of the family: tenner
    renames the modules before it draws, and other programs with diffusers cannot load the file.
    """

    pipeline: str
    is_converted: bool = False
    has_trainers_model: bool = False
    """Whether sd-scripts' own model can be drawn: for networks that diffusers does not load."""
    takes_negative: bool = True
    """Whether the pipeline has a negative prompt."""
    steps: int = 25
    guidance: float = 7.0
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class TextInComfyui:
    """What ComfyUI does not load of a LoRA whose text encoder is trained too, and the way out.

    It is so of what `network_module` writes (empty: the family's LoRA), where `argument` of
    `network_args` is true (empty: always). `level` is `note` where only older versions leave the
    modules out.
    """

    text: Message
    fix: Message
    level: Level = "warning"
    network_module: str = ""
    argument: str = ""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Another model with a family's tensors, which a LoRA of the family is not trained on.

    `has` is true of its tensors; where they are the family's own, `names` is a regular expression
    for the file's name.
    """

    what: Message
    fix: Message
    has: Callable[[Shapes], bool] | None = None
    names: str = ""


@dataclass(frozen=True, kw_only=True)
class FamilyFacts:
    """All that is known of a family.

    `recognises` is true of its single-file checkpoints, by their tensors. `options` are proposed
    where the user leaves them open, `required` cannot be changed, `without` are options that have
    no meaning there, each with the reason.
    """

    name: Family
    title: str
    script: str
    lora_module: str
    side: int
    defaults: FamilyDefaults
    recognises: Callable[[Shapes], bool]
    diffusers_class: str
    """Class of the denoiser in a folder of diffusers layout."""
    drawing: Drawing
    diffusers_config: Mapping[str, object] = field(default_factory=dict[str, object])
    """Values in that denoiser's configuration, where several families have its class."""
    variants: tuple[Variant, ...] = ()
    trainers: tuple[str, ...] = ("sd-scripts",)
    bases: tuple[KnownBase, ...] = ()
    files: tuple[FurtherFile, ...] = ()
    options: Mapping[str, Default[Scalar]] = field(default_factory=dict[str, Default[Scalar]])
    required: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])
    without: Mapping[str, str] = field(default_factory=dict[str, str])
    has_captions_on_disk: bool = False
    """Whether captions are encoded to the disk, where sd-scripts cannot train from its cache in
    memory."""
    captions_levers: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])
    """Options that take memory from the encoding of captions, in the order in which they are
    tried."""
    captions_shares: Mapping[str, float] = field(default_factory=dict[str, float])
    """What each of them leaves of the text encoders' memory on the card."""
    transformer: Transformer | None = None
    licence: Licence | None = None
    tokenizers: tuple[str, ...] = ()
    """Folders of tokenizers, by sd-scripts' names."""
    trainer_files: tuple[str, ...] = ()
    """Files of tokenizers in sd-scripts' folder that its script reads."""
    hub_tokenizers: tuple[HubTokenizer, ...] = ()
    lora_family: Family = ""
    """Another family whose LoRAs fit; empty without one."""
    comfyui_converter: str = ""
    """sd-scripts' script that renames a LoRA's modules for ComfyUI; empty where ComfyUI loads the
    file as it is."""
    text_in_comfyui: tuple[TextInComfyui, ...] = ()
    lycoris_passes_over: tuple[str, ...] = ()
    """Presets of LyCORIS that adapt none of its blocks, whose classes they do not name."""
    name_patterns: str = ""
    """A regular expression for names of files and repos that cannot be read."""
    lora_widths: tuple[int, ...] = ()
    """Inputs of its attention layers, where LoRAs of other families have the same names."""

    @property
    def from_trainer(self) -> tuple[str, ...]:
        """What sd-scripts' folder has to hold for the family."""
        return self.script, *self.trainer_files

    def left_out_by_comfyui(
        self, network_module: str | None, arguments: Mapping[str, object]
    ) -> TextInComfyui | None:
        """What ComfyUI leaves out of a file over the text encoders too; None where it loads all.

        `arguments` are those of `network_args`, by name.
        """
        own = ("networks.lora", self.lora_module)
        module = "" if network_module is None or network_module in own else network_module
        for each in self.text_in_comfyui:
            is_on = str(arguments.get(each.argument, "")).lower() == "true"
            if each.network_module == module and (is_on or not each.argument):
                return each
        return None
