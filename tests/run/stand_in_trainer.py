"""Stands in for sd-scripts' trainer: takes its arguments, prints its lines, leaves its files.

It is driven as the real one is, by the class and the functions that `with_states.py` wraps.

STAND_IN sets how it ends: `success`, `no_file` (exit 0 and nothing written), `no_data`, `nan` (from
step STAND_IN_STEPS on), `nan_latents`, `oom` (at step STAND_IN_STEPS, unless the batch is at most
STAND_IN_FITS and, with STAND_IN_FITS=0, gradient checkpointing is on, or, with -1, only the U-Net
is trained; or, with STAND_IN_SWAPS, unless so many blocks are swapped), `oom_captions` (before the
first step, unless it has all options of STAND_IN_CAPTIONS, as in `a=1,b=true`), `hang` (after five
lines), `learns_nothing` (the final weights are where they began), `deaf` (to SIGTERM), `crashed`,
`disk_full` (after STAND_IN_STEPS steps of this start), `killed`, `bus_error` (whenever it reaches
the run's step STAND_IN_STEPS; with STAND_IN_SPARES=0 only while it has processes that load images,
with 1 only while encoded images are cached in memory).
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


DEATHS = {"killed": signal.SIGKILL, "bus_error": signal.SIGBUS}


def fits(reported: dict[str, str]) -> bool:
    if swaps := os.environ.get("STAND_IN_SWAPS"):
        return int(reported.get("blocks_to_swap", "0")) >= int(swaps)
    least = int(os.environ["STAND_IN_FITS"])
    if least < 0:
        return "network_train_unet_only" in reported
    return int(reported["train_batch_size"]) <= max(1, least) and (
        least > 0 or "gradient_checkpointing" in reported
    )


def encode_captions(reported: dict[str, str]) -> None:
    record("move vae and unet to cpu to save memory")
    record("move text encoders to gpu")
    needed = os.environ["STAND_IN_CAPTIONS"].split(",")
    if not {each for each in needed if each} <= {f"{k}={v}" for k, v in reported.items()}:
        say(OOM + "\n")
        sys.exit(1)
    record("caching Text Encoder outputs with caching strategy.")


def spares(reported: dict[str, str]) -> bool:
    """Whether it uses so little of the machine's memory that it is let live."""
    least = os.environ.get("STAND_IN_SPARES")
    if least == "0":
        return reported["max_data_loader_n_workers"] == "0"
    return least == "1" and "cache_latents_to_disk" in reported


def options(arguments: list[str]) -> dict[str, str]:
    """`--name=value` of our command line; switches are "true"."""
    pairs = (word.removeprefix("--").partition("=") for word in arguments if word.startswith("--"))
    return {name: value or "true" for name, _, value in pairs}


def await_other_ranks() -> None:
    """Real processes meet before their first step; here the first one reports for all."""
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
    for name in ("optimizer.bin", "scheduler.bin", "random_states_0.pkl"):
        with zipfile.ZipFile(folder / name, "w") as out:
            out.writestr("data.pkl", b"x")


def say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def record(text: str) -> None:
    say(f"2026-11-25 04:46:17 INFO     {text:<80} train_util.py:1\n")


def take_memory(batch: int) -> None:
    """Hold memory of the card, as the fake nvidia-smi then reports: 3,000 MiB and 500 an image."""
    path = os.environ.get("STAND_IN_MEMORY")
    if path:
        free = Path(path).read_text()
        Path(path).write_text(str(int(free) - 3000 - 500 * batch))
        time.sleep(1.5)  # to be seen
        Path(path).write_text(free)


class Arguments:
    """Options by name as attributes, whole numbers as such; None for options that are not set."""

    def __init__(self, reported: dict[str, str]) -> None:
        self.__dict__ |= {
            name: int(value) if value.isdecimal() else value for name, value in reported.items()
        }

    def __getattr__(self, name: str) -> None:
        return None


class Parser:
    def parse_args(self) -> Arguments:
        return Arguments(options(sys.argv[1:]))


def setup_parser() -> Parser:
    return Parser()


class Accelerator:
    """The methods of the trainer that its wrapper calls."""

    num_processes = 1
    is_main_process = True
    trackers = ()

    def prepare(self, *given: object) -> tuple[object, ...]:
        return given

    def backward(self, loss: object) -> None: ...

    def register_save_state_pre_hook(self, hook: object) -> None:
        """The state of a stand-in has no random numbers."""


class train_util:  # noqa: N801  the name of the real one's module
    collator_class = LossRecorder = object

    @staticmethod
    def verify_command_line_training_args(args: Arguments) -> None: ...

    @staticmethod
    def read_config_from_file(args: Arguments, parser: Parser) -> Arguments:
        return args

    @staticmethod
    def prepare_accelerator(args: Arguments) -> Accelerator:
        return Accelerator()

    @staticmethod
    def save_and_remove_state_on_epoch_end(*given: object) -> None: ...

    @staticmethod
    def save_and_remove_state_stepwise(args: Arguments, accelerator: object, step: int) -> None:
        state = Path(str(args.output_dir)) / f"{args.output_name}-step{step:08d}-state"
        record(f"saving state at step {step}")
        write_state(state, NetworkTrainer.value)
        if os.environ.get("STAND_IN_CUT_STATE") == str(step):
            file = state / "optimizer.bin"
            file.write_bytes(file.read_bytes()[:20])
        record(f"Random states saved in {state}/random_states_0.pkl")
        record("")


class Network:
    def save_weights(self, file: str, dtype: object, metadata: dict[str, str]) -> None:
        write_weights(Path(file), NetworkTrainer.value)


class NetworkTrainer:
    value = 0.5

    def post_process_network(self, *given: object) -> None: ...

    def sample_images(self, *given: object) -> None: ...

    def train(self, args: Arguments) -> None:
        if os.environ.get("RANK", "0") != "0":  # another card's: it reports and saves nothing
            Path(os.environ["STAND_IN_RANKS"], os.environ["RANK"]).write_text(" ".join(sys.argv))
            return
        await_other_ranks()
        reported, ending = options(sys.argv[1:]), os.environ.get("STAND_IN", "success")
        say(f"\nSTARTED {json.dumps(reported | launched())}\n")
        if ending == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        accelerator, network = train_util.prepare_accelerator(args), Network()
        self.post_process_network(args, accelerator, network)
        record("prepare images.")
        record("loading model for process 0/1")
        if ending == "no_data":
            error = "No data found. Please verify arguments / 画像がありません。"
            say(f"2026-11-25 04:46:17 ERROR    {error:<80} train_util.py:1\n")
            return
        if ending == "oom_captions":
            encode_captions(reported)
        say("running training / 学習開始\n")
        take_memory(int(reported["train_batch_size"]))
        bar = ""
        for step in range(
            1, int(reported["max_train_steps"]) - int(reported.get("initial_step", 0)) + 1
        ):
            bar = self._step(step, reported, ending)
            self.sample_images(accelerator, args, None, step)
            if args.save_every_n_steps and step % args.save_every_n_steps == 0:
                checkpoint = f"{args.output_dir}/{args.output_name}-step{step:08d}.safetensors"
                say(f"\nsaving checkpoint: {checkpoint}\n")
                network.save_weights(checkpoint, None, {})
                train_util.save_and_remove_state_stepwise(args, accelerator, step)
            self._end_at(step, ending)
        self._finish(Path(reported["output_dir"]), reported["output_name"], network, ending)
        say(f"\r{bar}]\n")
        time.sleep(float(os.environ.get("STAND_IN_LINGERS", "0")))

    def _step(self, step: int, reported: dict[str, str], ending: str) -> str:
        """Do a step, and give its progress bar."""
        is_late = step > float(os.environ.get("STAND_IN_STEPS", "0"))
        if ending == "oom" and is_late and not fits(reported):
            say(OOM + "\n")
            sys.exit(1)
        if ending == "nan_latents":
            say("NaN found in latents, replacing with zeros\n")
        is_nan = ending == "nan" and is_late
        NetworkTrainer.value = float("nan") if is_nan else step
        time.sleep(float(os.environ.get("STAND_IN_SECONDS", "0")))
        if step == 5 and "STAND_IN_LOSES" in os.environ:  # the host loses its card
            Path(os.environ["STAND_IN_LOSES"]).touch()
        loss, steps = "nan" if is_nan else f"{1 / step:.3f}", int(reported["max_train_steps"])
        bar = f"steps: {step * 100 // steps:3}%|██| {step}/{steps} [00:01<00:01,  2.00it/s"
        say(f"\r{bar}]\r{bar}, avr_loss={loss}]")
        if ending == "hang" and step == 5:
            time.sleep(3600)
        return f"{bar}, avr_loss={loss}"

    def _end_at(self, step: int, ending: str) -> None:
        reported, at = options(sys.argv[1:]), float(os.environ.get("STAND_IN_STEPS", "0"))
        resumed = int(reported.get("resume", "0").rpartition("-")[2])
        if ending in DEATHS and resumed + step == at and not spares(reported):
            os.kill(os.getpid(), DEATHS[ending])
        if step != at:
            return
        if ending == "crashed":
            os.kill(os.getpid(), signal.SIGSEGV)
        if ending == "disk_full":
            say(DISK_FULL + "\n")
            sys.exit(1)

    def _finish(self, out: Path, name: str, network: Network, ending: str) -> None:
        if ending == "no_file":
            return
        NetworkTrainer.value = float("nan") if ending == "nan" else 0.5
        record("saving last state.")
        write_state(out / f"{name}-state", NetworkTrainer.value)
        record(f"Random states saved in {out}/{name}-state/random_states_0.pkl")
        say(f"\nsaving checkpoint: {out}/{name}.safetensors\n")
        network.save_weights(f"{out}/{name}.safetensors", None, {})
        if ending == "learns_nothing":
            write_untrained(out / f"{name}.safetensors")
        record("model saved.")
