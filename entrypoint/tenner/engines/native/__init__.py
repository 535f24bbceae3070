"""Our own trainer: LoRA on Stable Diffusion 1.x, 2.x and XL, in its own process.

`job` says what to train (standard library only), `engine` how the process is started and read
(pure), `train` is the process. Nothing here imports torch until `train` runs.
"""
