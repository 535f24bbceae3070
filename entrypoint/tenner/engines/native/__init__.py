"""Our own trainer: LoRA on Stable Diffusion 1.x, 2.x and XL, in its own process.

`engine` starts the process and reads its lines (no torch), `train` is the process: `load` reads the
base, `latents` and `text` encode the dataset, `network` builds U-Net, text encoders and LoRA, and
`loop` trains. What to train is a `tenner.core.train_job.TrainJob`.
"""
