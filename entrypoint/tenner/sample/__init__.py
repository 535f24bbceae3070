"""Draws pictures with a trained LoRA: those that the guide recommends, as a grid.

`cells` decides which pictures, `draw` is the process that draws them with diffusers, `grid`
arranges them. `draw`, `load`, `cache` and the modules of the families import torch; the others do
not.
"""
