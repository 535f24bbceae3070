"""LoRA files: what one is, by whom it can be read, how far it moved from the base it adapts."""

from tenner.core.network_parts import Part
from tenner.lora_files.modules import LoraModule
from tenner.lora_files.names import Kind, Naming
from tenner.lora_files.reading import LoraFile, read_lora_file

__all__ = ["Kind", "LoraFile", "LoraModule", "Naming", "Part", "read_lora_file"]
