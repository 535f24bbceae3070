"""Stands in for sd-scripts' trainer: takes its arguments, prints its lines, leaves its files.

STAND_IN says how it ends: `success`, `no_file` (exit 0 and nothing written), `nan` (from step
STAND_IN_STEPS on), `nan_latents`, `oom` (at step STAND_IN_STEPS, unless the batch is at most
STAND_IN_FITS and, with STAND_IN_FITS=0, gradient checkpointing is on, or, with -1, only the U-Net
is trained), `hang` (after five lines), `learns_nothing` (the final weights are where they began),
`deaf` (to SIGTERM), `killed`, `bus_error`, `disk_full` (after STAND_IN_STEPS steps).
STAND_IN_SECONDS is a step's time, STAND_IN_LINGERS what it takes to end after all is saved.
Lines are printed as the real one prints them (see tests/engines/sd_scripts/logs).
"""

import json
import os
import signal
import struct
import sys
import time
import zipfile
from pathlib import Path

OOM = (
    "Traceback (most recent call last):\n"
    '  File "train_network.py", line 1772, in <module>\n'
    "    trainer.train(args)\n"
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 78.00 MiB. GPU 0 has a total"
    " capacity of 23.64 GiB of which 51.06 MiB is free."
)


DISK_FULL = (
    "Traceback (most recent call last):\n"
    '  File "train_network.py", line 1772, in <module>\n'
    "OSError: [Errno 28] No space left on device"
)


def fits(told: dict[str, str]) -> bool:
    least = int(os.environ["STAND_IN_FITS"])
    if least < 0:
        return "network_train_unet_only" in told
    return int(told["train_batch_size"]) <= max(1, least) and (
        least > 0 or "gradient_checkpointing" in told
    )


def options(words: list[str]) -> dict[str, str]:
    """`--name=value` of our command line; switches are "true"."""
    pairs = (word.removeprefix("--").partition("=") for word in words if word.startswith("--"))
    return {name: value or "true" for name, _, value in pairs}


def await_other_ranks() -> None:
    """Real ones meet before their first step; the first one here says all they say."""
    for rank in range(1, int(os.environ.get("WORLD_SIZE", "1"))):
        while not Path(os.environ["STAND_IN_RANKS"], str(rank)).exists():
            time.sleep(0.05)


def launched() -> dict[str, str]:
    """What a launcher of several processes has put into the environment."""
    names = ("WORLD_SIZE", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "ACCELERATE_MIXED_PRECISION")
    return {name: os.environ[name] for name in names if name in os.environ}


def write_weights(path: Path, value: float = 0.5) -> None:
    """The smallest LoRA file: one tensor of one number."""
    name = "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"
    described = {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    header = json.dumps(described).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<f", value))


def write_untrained(path: Path) -> None:
    """A whole LoRA of one module as it begins: lora_up zero."""
    name = "lora_unet_mid_block_attentions_0_proj_in"
    shapes = {
        f"{name}.alpha": [],
        f"{name}.lora_down.weight": [1, 2],
        f"{name}.lora_up.weight": [2, 1],
    }
    ends = ((0, 4), (4, 12), (12, 20))
    head, numbers = {}, struct.pack("<5f", 1.0, 0.5, -0.5, 0.0, 0.0)
    for (key, shape), (begin, end) in zip(shapes.items(), ends, strict=True):
        head[key] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    header = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + numbers)


def write_state(folder: Path, value: float = 0.5) -> None:
    folder.mkdir(parents=True)
    write_weights(folder / "model.safetensors", value)
    for name in ("optimizer.bin", "scheduler.bin"):
        with zipfile.ZipFile(folder / name, "w") as out:
            out.writestr("data.pkl", b"x")
    (folder / "random_states_0.pkl").write_bytes(b"x")


def say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def record(text: str) -> None:
    say(f"2026-11-25 04:46:17 INFO     {text:<80} train_util.py:1\n")


def take_memory(batch: int) -> None:
    """Hold memory of the card, as the fake nvidia-smi then tells: 3,000 MiB and 500 an image."""
    path = os.environ.get("STAND_IN_MEMORY")
    if path:
        free = Path(path).read_text()
        Path(path).write_text(str(int(free) - 3000 - 500 * batch))
        time.sleep(1.5)  # to be seen
        Path(path).write_text(free)


def main() -> None:
    told, ending = options(sys.argv[1:]), os.environ.get("STAND_IN", "success")
    out, name = Path(told["output_dir"]), told["output_name"]
    steps = int(told["max_train_steps"]) - int(told.get("initial_step", 0))
    every = int(told.get("save_every_n_steps", 0))
    if os.environ.get("RANK", "0") != "0":  # another card's process: it says and saves nothing
        Path(os.environ["STAND_IN_RANKS"], os.environ["RANK"]).write_text(" ".join(sys.argv))
        return
    await_other_ranks()
    say(f"\nSTARTED {json.dumps(told | launched())}\n")
    if ending == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    record("prepare images.")
    record("loading model for process 0/1")
    say("running training / 学習開始\n")
    take_memory(int(told["train_batch_size"]))
    at, seconds = (float(os.environ.get(f"STAND_IN_{name}", "0")) for name in ("STEPS", "SECONDS"))
    for step in range(1, steps + 1):
        if ending == "oom" and step > at and not fits(told):
            say(OOM + "\n")
            sys.exit(1)
        if ending == "nan_latents":
            say("NaN found in latents, replacing with zeros\n")
        is_nan = ending == "nan" and step > at
        time.sleep(seconds)
        if step == 5 and "STAND_IN_LOSES" in os.environ:  # the host loses its card
            Path(os.environ["STAND_IN_LOSES"]).touch()
        loss = "nan" if is_nan else f"{1 / step:.3f}"
        bar = f"steps: {step * 100 // steps:3}%|██| {step}/{steps} [00:01<00:01,  2.00it/s"
        say(f"\r{bar}]\r{bar}, avr_loss={loss}]")
        if ending == "hang" and step == 5:
            time.sleep(3600)
        if every and step % every == 0:
            stem = f"{name}-step{step:08d}"
            say(f"\nsaving checkpoint: {out}/{stem}.safetensors\n")
            write_weights(out / f"{stem}.safetensors", float("nan") if is_nan else step)
            record(f"saving state at step {step}")
            write_state(out / f"{stem}-state", float("nan") if is_nan else step)
            record(f"Random states saved in {out}/{stem}-state/random_states_0.pkl")
            record("")
        if ending == "killed" and step == at:
            os.kill(os.getpid(), signal.SIGKILL)
        if ending == "bus_error" and step == at:
            os.kill(os.getpid(), signal.SIGBUS)
        if ending == "disk_full" and step == at:
            say(DISK_FULL + "\n")
            sys.exit(1)
    if ending != "no_file":
        record("saving last state.")
        write_state(out / f"{name}-state", float("nan") if ending == "nan" else 0.5)
        record(f"Random states saved in {out}/{name}-state/random_states_0.pkl")
        say(f"\nsaving checkpoint: {out}/{name}.safetensors\n")
        if ending == "learns_nothing":
            write_untrained(out / f"{name}.safetensors")
        else:
            write_weights(out / f"{name}.safetensors", float("nan") if ending == "nan" else 0.5)
        record("model saved.")
    say(f"\r{bar}, avr_loss={loss}]\n")
    time.sleep(float(os.environ.get("STAND_IN_LINGERS", "0")))


if __name__ == "__main__":
    main()
