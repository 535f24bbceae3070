"""Which programs read a LoRA file, by its names and kinds of network.

From the programs' own loaders: A1111's `extensions-builtin/Lora`, Forge's `backend/patcher`,
ComfyUI's `comfy/lora.py`, diffusers' `load_lora_weights`, sd-scripts' `networks/lora.py`, PEFT's
`load_adapter`. Families without a U-Net are those whose modules the program names as sd-scripts
does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tenner.core.family import Family
from tenner.families import FAMILY_NAMES
from tenner.kohya.networks import IA3, LYCORIS
from tenner.lora_files.continuing import CONTINUED, is_of_lycoris, lycoris_start
from tenner.lora_files.names import Kind, Naming
from tenner.lora_files.reading import LoraFile
from tenner.rules.written import keyword_arguments


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program that loads LoRAs: the names and kinds that it knows, and where it says so.

    `unread` are beginnings of module names that it does not look for; `families` those whose files
    with kohya's names it loads, empty for all; `renamed` parts of a family's module names for which
    it has others.
    """

    name: str
    namings: tuple[Naming, ...]
    kinds: tuple[Kind, ...]
    source: str = ""
    unread: tuple[str, ...] = ()
    families: tuple[Family, ...] = ()
    renamed: Mapping[Family, tuple[str, ...]] = field(default_factory=dict[Family, tuple[str, ...]])

    def knows(self, family: Family | None) -> bool:
        """Whether it loads kohya's names of a family; None is one of which nothing is known."""
        return not self.families or family is None or family in self.families


_U_NETS: tuple[Family, ...] = ("sd1", "sd2", "sdxl")
_FLUX: tuple[Family, ...] = ("flux", "flux-schnell", "chroma")
_SD3: tuple[Family, ...] = ("sd3", "sd35-medium", "sd35-large")

PROGRAMS = (
    Program(
        name="A1111",
        namings=("kohya",),
        kinds=("lora", "dora", "loha", "lokr", "oft", "ia3", "glora", "full", "norm"),
        source="extensions-builtin/Lora/networks.py",
        families=_U_NETS,
    ),
    Program(
        name="Forge",
        namings=("kohya",),
        kinds=("lora", "dora", "loha", "lokr", "glora", "full", "norm"),
        source="backend/patcher/lora.py, backend/diffusion_engine",
        unread=("oft_unet_",),
        families=(*_U_NETS, *_FLUX, *_SD3),
    ),
    Program(
        name="ComfyUI",
        namings=("kohya", "diffusers", "diffusers_old", "comfyui"),
        kinds=("lora", "dora", "loha", "lokr", "oft", "glora", "full", "norm"),
        source="comfy/lora.py, comfy/weight_adapter",
        unread=("oft_unet_",),
        renamed={"hunyuan-image": ("_mlp_fc1", "_mlp_fc2", "_mod_linear", "_modulation_linear")},
    ),
    Program(
        name="diffusers",
        namings=("kohya", "diffusers", "diffusers_old"),
        kinds=("lora", "dora"),
        source="loaders/lora_conversion_utils.py",
        unread=("oft_unet_",),
        families=(*_U_NETS, *_FLUX),
    ),
    Program(name="PEFT", namings=("peft",), kinds=("lora", "dora")),
    Program(name="sd-scripts (networks.lora)", namings=("kohya",), kinds=("lora",)),
)
_CONTINUES = Program(name="tenner (network_weights)", namings=("kohya",), kinds=CONTINUED)


@dataclass(frozen=True, kw_only=True)
class ReadBy:
    """Whether a program reads a file; `why_not` is the reason if not."""

    program: str
    why_not: str = ""


def read_by(file: LoraFile) -> tuple[ReadBy, ...]:
    """For each program whether it reads the file. tenner continues from files that sd-scripts, or
    LyCORIS in it, reads, for the families that it trains."""
    found = [ReadBy(program=each.name, why_not=_why_not(each, file)) for each in PROGRAMS]
    mine = _why_not(_CONTINUES, file)
    if not mine and is_of_lycoris(file) and lycoris_start(file) is None:
        mine = "its metadata do not describe its LyCORIS network"
    if not mine and file.architecture != "unknown" and file.family is None:
        mine = f"it trains no {file.architecture}"
    return (*found, ReadBy(program=_CONTINUES.name, why_not=mine))


def _why_not(program: Program, file: LoraFile) -> str:
    if file.naming not in program.namings:
        return f"modules are named as {NAMING_NAMES[file.naming]} does"
    if file.naming == "kohya" and not program.knows(file.family):
        return f"it is not known to load LoRAs of {FAMILY_NAMES[file.family or '']}"
    if any(part in each.name for part in _renamed(program, file) for each in file.modules):
        return "its modules have other names there"
    if unread := next((each for each in program.unread if _has(file, each)), ""):
        return f"it looks for no modules named {unread}…"
    unknown: list[Kind] = [kind for kind in file.kinds if kind not in program.kinds]
    return f"it has no {', '.join(KIND_NAMES[kind] for kind in unknown)}" if unknown else ""


def _renamed(program: Program, file: LoraFile) -> tuple[str, ...]:
    return program.renamed.get(file.family or "", ())


def _has(file: LoraFile, beginning: str) -> bool:
    return any(each.name.startswith(beginning) for each in file.modules)


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a network module writes: the kind, and how the names of its U-Net's modules begin."""

    kind: Kind
    beginning: str = "lora_unet_"

    def read_by(self, name: str, family: Family) -> bool:
        """Whether the program of this name loads it, where it is over a base of this family; with
        its modules renamed if need be."""
        (program,) = [each for each in PROGRAMS if each.name == name]
        is_read = self.kind in program.kinds and self.beginning not in program.unread
        return is_read and program.knows(family)


_ALGORITHMS: Mapping[str, Kind] = {
    **dict.fromkeys(("lora", "locon", "dylora"), "lora"),
    "loha": "loha",
    "lokr": "lokr",
    "glora": "glora",
    **dict.fromkeys(("diag-oft", "boft"), "oft"),
    IA3: "ia3",
}
"""What LyCORIS writes for each of its `algo`."""


def written_by(network_module: str, network_args: Sequence[str]) -> Written:
    """What sd-scripts writes with a network module (empty: the family's LoRA) and its arguments.

    LoRA-FA and DyLoRA differ from a LoRA in their training alone.
    """
    if network_module == "networks.oft":
        return Written(kind="oft", beginning="oft_unet_")
    if network_module != LYCORIS:
        return Written(kind="lora")
    arguments = keyword_arguments(network_args)
    kind = _ALGORITHMS.get(str(arguments.get("algo", "lora")).lower(), "lora")
    has_magnitude = str(arguments.get("dora_wd")).lower() == "true"
    return Written(kind="dora" if has_magnitude and kind == "lora" else kind)


NAMING_NAMES: dict[Naming, str] = {
    "kohya": "kohya",
    "peft": "PEFT",
    "diffusers": "diffusers",
    "diffusers_old": "diffusers before 0.22",
    "comfyui": "ComfyUI",
    "lycoris": "LyCORIS's wrapper",
    "unknown": "an unknown program",
}
KIND_NAMES: dict[Kind, str] = {
    "lora": "LoRA",
    "dora": "DoRA",
    "loha": "LoHa",
    "lokr": "LoKr",
    "oft": "OFT",
    "ia3": "(IA)³",
    "glora": "GLoRA",
    "full": "full difference",
    "norm": "norms",
    "unknown": "unknown",
}
