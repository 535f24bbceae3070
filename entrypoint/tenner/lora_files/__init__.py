"""LoRA files: their networks, the programs that read them, and how much they change their base."""

from tenner.core.network_parts import Part
from tenner.lora_files.modules import LoraModule
from tenner.lora_files.names import Kind, Naming
from tenner.lora_files.reading import LoraFile, read_lora_file

__all__ = ["Kind", "LoraFile", "LoraModule", "Naming", "Part", "read_lora_file"]
