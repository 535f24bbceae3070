"""Whether a card and its driver can run the trainer's PyTorch.

A PyTorch wheel has machine code for some GPU generations. On another card it starts, loads the
model, and only then fails with "no kernel image is available". Here that is found beforehand.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.hardware.gpu import Capability, Gpu, capability_text, version_numbers

CudaVersion = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class CudaBuild:
    """The CUDA version and architectures that a trainer's PyTorch was compiled for."""

    version: CudaVersion
    architectures: tuple[str, ...]
    """As `torch.cuda.get_arch_list()` gives them: `sm_86`, `compute_120`."""
    torch: str = ""

    @property
    def label(self) -> str:
        return f"CUDA {self.version[0]}.{self.version[1]}"


ARCHITECTURES: Mapping[CudaVersion, tuple[str, ...]] = {
    (11, 8): ("sm_37", "sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"),
    (12, 1): ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"),
    (12, 4): ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"),
    (12, 6): ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"),
    (12, 8): ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"),
}
"""Code in PyTorch's official Linux wheels. The 12.1 row is what the torch 2.4.1 wheel reports of
itself; the others are from PyTorch's build scripts (.ci/manywheel/build_cuda.sh)."""

CUDA_12_1 = CudaBuild(version=(12, 1), architectures=ARCHITECTURES[12, 1], torch="2.4.1")
"""The build in the image."""

LEAST_DRIVER: Mapping[int, str] = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
"""The oldest Linux driver for each CUDA major version (NVIDIA, "CUDA Compatibility", table of
minor version compatibility)."""

IMAGE_TAGS: Mapping[CudaVersion, str] = {(12, 1): "cu121", (12, 8): "cu128"}
"""The CUDA versions of the images, and their marks in the tags."""


def known_build(version: CudaVersion, torch: str = "") -> CudaBuild | None:
    """The official wheel for a CUDA version, where its architectures are known."""
    architectures = ARCHITECTURES.get(version)
    if architectures is None:
        return None
    return CudaBuild(version=version, architectures=architectures, torch=torch)


def has_kernels(build: CudaBuild, capability: Capability) -> bool:
    """Machine code runs within its major generation on the same or a later minor one;
    `compute_` code is compiled for any later card by the driver. Variants that name one chip
    (`sm_90a`, `sm_100f`) run on that chip or family alone."""
    return any(_runs(each, capability) for each in build.architectures)


def _runs(architecture: str, capability: Capability) -> bool:
    kind, _, digits = architecture.partition("_")
    variant = digits.lstrip("0123456789")
    number = digits.removesuffix(variant) if variant else digits
    if not number.isdigit() or int(number) < 10:
        return False
    built = (int(number[:-1]), int(number[-1]))
    if variant == "a":
        return kind == "sm" and built == capability
    if kind == "sm":
        return built[0] == capability[0] and built[1] <= capability[1]
    return kind == "compute" and built <= capability


def kernel_problem(gpu: Gpu, build: CudaBuild) -> Problem | None:
    """The card is of a generation that the trainer has no code for."""
    if gpu.capability is None or has_kernels(build, gpu.capability):
        return None
    tag = _fitting_tag(gpu.capability)
    fix = (
        msg("use the image with {tag} in its tag, or rent another card", tag=tag)
        if tag
        else msg("rent a newer card: no image has code for this one")
    )
    if tag is None and gpu.capability[0] > 12:
        fix = msg("rent another card: no image has code for this one yet")
    return Problem(
        text=msg(
            "{label} has compute capability {capability_text}; this trainer's PyTorch"
            " ({label2}) has code for {architectures} only",
            label=gpu.label,
            capability_text=capability_text(gpu.capability),
            label2=build.label,
            architectures=", ".join(build.architectures),
        ),
        fix=fix,
    )


def _fitting_tag(capability: Capability) -> str | None:
    for version, tag in IMAGE_TAGS.items():
        build = known_build(version)
        if build and has_kernels(build, capability):
            return tag
    return None


def driver_problem(driver: str, build: CudaBuild) -> Problem | None:
    """The driver is older than the trainer's CUDA can work with."""
    needed = LEAST_DRIVER.get(build.version[0])
    if not needed or not driver or version_numbers(driver) >= version_numbers(needed):
        return None
    return Problem(
        text=msg(
            "the NVIDIA driver is {driver}; {label} needs {needed} or newer",
            driver=driver,
            label=build.label,
            needed=needed,
        ),
        fix=msg("update the host's driver, or rent a machine with a newer one"),
    )
