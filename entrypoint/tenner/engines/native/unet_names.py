"""What the parts of a U-Net are called: in diffusers, in checkpoint files, in LoRA files.

One table serves two ends. Checkpoints in the original layout are read by it, and SDXL's LoRA
files name their modules by it (`input_blocks_4_1_…`), where those of SD 1.x and 2.x use the
diffusers names (`down_blocks_1_attentions_0_…`). This is the convention of sd-scripts'
`networks.lora`, which A1111, Forge, ComfyUI and diffusers read.
"""

from collections.abc import Iterator, Mapping

from tenner.engines.native.unet_config import UnetConfig

_TOP = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


class OriginalNames:
    """Turns a diffusers path of a U-Net's module or tensor into the original layout's path."""

    def __init__(self, config: UnetConfig) -> None:
        self._original = dict(_prefixes(config))
        self._diffusers = {theirs: ours for ours, theirs in self._original.items()}

    def of(self, path: str) -> str:
        """`down_blocks.1.attentions.0.proj_in` -> `input_blocks.4.1.proj_in`. Raises KeyError."""
        return _renamed(path, self._original)

    def back(self, path: str) -> str:
        """`input_blocks.4.1.proj_in` -> `down_blocks.1.attentions.0.proj_in`. Raises KeyError."""
        return _renamed(path, self._diffusers)


def _renamed(path: str, prefixes: Mapping[str, str]) -> str:
    """The longest known beginning of `path` replaced."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in prefixes:
            return ".".join([prefixes[prefix], *parts[length:]])
    raise KeyError(path)


def _prefixes(config: UnetConfig) -> Iterator[tuple[str, str]]:
    yield from _TOP.items()
    yield from _down(config)
    yield from _resnet("mid_block.resnets.0", "middle_block.0")
    yield "mid_block.attentions.0", "middle_block.1"
    yield from _resnet("mid_block.resnets.1", "middle_block.2")
    yield from _up(config)


def _down(config: UnetConfig) -> Iterator[tuple[str, str]]:
    index = 1
    for level, attention in enumerate(config.down_attention):
        block = f"down_blocks.{level}"
        for layer in range(config.layers_per_block[level]):
            yield from _resnet(f"{block}.resnets.{layer}", f"input_blocks.{index}.0")
            if attention:
                yield f"{block}.attentions.{layer}", f"input_blocks.{index}.1"
            index += 1
        if level + 1 < len(config.channels):
            yield f"{block}.downsamplers.0.conv", f"input_blocks.{index}.0.op"
            index += 1


def _up(config: UnetConfig) -> Iterator[tuple[str, str]]:
    index = 0
    layers = config.layers_per_block[::-1]
    for level, attention in enumerate(config.up_attention):
        block = f"up_blocks.{level}"
        for layer in range(layers[level] + 1):
            yield from _resnet(f"{block}.resnets.{layer}", f"output_blocks.{index}.0")
            if attention:
                yield f"{block}.attentions.{layer}", f"output_blocks.{index}.1"
            index += 1
        if level + 1 < len(config.channels):
            inner = 2 if attention else 1
            yield f"{block}.upsamplers.0.conv", f"output_blocks.{index - 1}.{inner}.conv"


def _resnet(diffusers: str, original: str) -> Iterator[tuple[str, str]]:
    for ours, theirs in _RESNET.items():
        yield f"{diffusers}.{ours}", f"{original}.{theirs}"
