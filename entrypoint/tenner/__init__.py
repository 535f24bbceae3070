"""tenner trains a Stable Diffusion LoRA on a rented GPU for under ten dollars."""

__version__ = "0.1.0"
