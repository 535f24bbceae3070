"""Drawing pictures with a trained LoRA: which ones the guide recommends, and how they are shown.

`cells` decides which pictures, `draw` (its own process, the only module here that imports torch)
makes them, `grid` lays them out.
"""
