"""All settings. The text under a key is its documentation everywhere (`texts`).

Keys are sd-scripts' option names wherever it has one, and mean what they mean there; the defaults
are those of the guide that most people start from. `None` means that the plan decides, and reports
what it decided and why.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tenner.core.run_dir import RunDir
from tenner.settings.subsets import MOST_REPEATS
from tenner.settings.values import (
    Addresses,
    AddressValue,
    Arguments,
    BatchSize,
    Colour,
    Count,
    Engine,
    Lines,
    Number,
    Numbers,
    Rate,
    Rates,
    Scalar,
    Share,
    Size,
    StepsOrRatio,
    Switch,
    TokenLength,
    Trackers,
    Whole,
    WholeNumbers,
)

Sampler = Literal[
    "ddim",
    "pndm",
    "lms",
    "euler",
    "euler_a",
    "heun",
    "dpm_2",
    "dpm_2_a",
    "dpmsolver",
    "dpmsolver++",
    "dpmsingle",
    "k_lms",
    "k_euler",
    "k_euler_a",
    "k_dpm_2",
    "k_dpm_2_a",
]

_STRICT = ConfigDict(extra="forbid", frozen=True, validate_default=False)
_PART = _STRICT | ConfigDict(defer_build=True)
"""Of the sections, which only group the keys and are never created: building their validators would
take time for nothing."""


class BaseModelSettings(BaseModel):
    """The base model"""

    model_config = _PART

    base_model: AddressValue = "sd15"
    """What the LoRA is trained on: `sd15`, `sdxl`, `tiny` (built in, for a CPU), a folder in
    diffusers layout or a `.safetensors` checkpoint, here or at `hf://`, `https://`, `s3://`,
    `gs://`, `azure://`, `rclone:`."""
    base_model_sha256: str | None = None
    """SHA-256 that a base model of one file must have."""
    vae: AddressValue | None = None
    """Another VAE, as a folder or a `.safetensors` file."""
    v2: Switch | None = None
    """The base is Stable Diffusion 2.x. Read from the weights; set it only to have it checked."""
    v_parameterization: Switch | None = None
    """The base predicts v. Read from its scheduler, marks, metadata or name; measured on a card
    where nothing in an SDXL base names it. Sources that differ end the run until this is set."""
    zero_terminal_snr: Switch | None = None
    """The noise schedule ends in pure noise. Read from the base's scheduler, marks or name."""
    clip_skip: Count | None = Field(None, le=24)
    """Take the text encoder's output this many layers from its end."""
    max_token_length: TokenLength = 75
    """Longest caption in tokens; longer ones are cut."""


class DatasetSettings(BaseModel):
    """The dataset"""

    model_config = _PART

    dataset: AddressValue = "./training_data"
    """Images with captions: a folder, an archive, `s3://…`, `gs://…`, `azure://…`, `rclone:…`,
    `hf://datasets/…` or `https://…`.
    Folders named `10_concept` repeat each image ten times, as in sd-scripts."""
    dataset_sha256: str | None = None
    """SHA-256 that the dataset's archive must have."""
    max_dataset_gb: Rate = Field(50.0, le=100_000)
    """Largest dataset that is fetched or unpacked, in GB of 1024³ bytes."""
    reg_data_dir: AddressValue | None = None
    """Regularisation images: others of the same class, so that the class is not forgotten."""
    trigger: str | None = None
    """The word or phrase that calls the concept. Default: the concept part of `10_concept`."""
    add_trigger: Switch = False
    """Put the trigger in front of captions that lack it. It stays first where tags are shuffled."""
    num_repeats: Count | None = Field(None, le=MOST_REPEATS)
    """Times each image is seen in an epoch, for folders whose names do not give it; 10."""
    caption: Literal["never", "auto", "tags", "sentences"] = "never"
    """Draft captions that are missing, before the training, as `tenner caption` does: tags,
    sentences, or what the base learnt. The drafts are stored in the run's folder, and files of
    yours stay as they are."""
    caption_extension: str | None = None
    """File ending of captions. Found by itself (`.txt`, `.caption`) unless set."""
    caption_prefix: str = ""
    """Text before every caption, with a space."""
    caption_suffix: str = ""
    """Text behind every caption, with a space."""
    resolution: Size | None = None
    """Training size in pixels, `512` or `width,height`. Default: what the base was made for."""
    enable_bucket: Switch = True
    """Sort images into buckets of like aspect ratio instead of cropping all to one shape."""
    min_bucket_reso: Count = Field(256, le=8192)
    """Shortest side of a bucket in pixels."""
    max_bucket_reso: Count | None = Field(None, le=8192)
    """Longest side of a bucket in pixels. Default: twice the resolution's side, which holds
    pictures up to 4:1 at their whole area: 1024 at 512, 2048 for SDXL at 1024."""
    bucket_reso_steps: Count | None = Field(None, le=1024)
    """Bucket sides are multiples of this many pixels. Default: 64; 32 for SDXL."""
    bucket_no_upscale: Switch = False
    """Never enlarge a small image to fill a bucket."""
    random_crop: Switch = False
    """Crop at a random position instead of the centre."""
    flip_aug: Switch = False
    """Mirror images at random. Not for faces or text."""
    shuffle_caption: Switch = False
    """Shuffle the comma-separated tags of a caption at each step."""
    keep_tokens: Whole = Field(0, ge=0, le=255)
    """The first N tags stay first when tags are shuffled or dropped."""
    caption_separator: str = ","
    """What separates tags."""
    caption_dropout_rate: Share = 0.0
    """Share of steps that see an empty caption."""
    caption_dropout_every_n_epochs: Whole = Field(0, ge=0, le=100_000)
    """Every N epochs all captions are empty; 0 for never."""
    caption_tag_dropout_rate: Share = 0.0
    """Chance of each tag to be left out at a step."""
    alpha_color: Colour = "white"
    """Colour that shows through transparent pixels: a name of CSS, or `#rrggbb`."""


class NetworkSettings(BaseModel):
    """The LoRA"""

    model_config = _PART

    network_dim: Count = Field(32, le=1280)
    """Rank. 16 to 32 is enough for most; 64 or 128 holds finer detail and overfits sooner. The
    largest layers have 1,280 rows: a higher rank could hold no more."""
    network_alpha: Rate = Field(16.0, le=10_000)
    """The LoRA is scaled by alpha / dim."""
    conv_dim: Count | None = Field(None, le=1280)
    """Rank for the 3×3 convolutions too (LoRA-C3Lier). Default: they are left alone."""
    conv_alpha: Rate | None = Field(None, le=10_000)
    """Alpha of the convolutions. Default: 1, as in sd-scripts."""
    network_module: Literal[
        "networks.lora",
        "lycoris.kohya",
        "networks.oft",
        "networks.lora_fa",
        "networks.dylora",
    ] = "networks.lora"
    """Kind of network, by sd-scripts' name. `lycoris.kohya` makes LoHa, LoKr, DoRA, (IA)³ and
    more by `network_args`, such as `algo=lokr`; all but the plain LoRA are sd-scripts'."""
    network_args: Arguments = ()
    """More arguments for the network, as `key=value`."""
    network_dropout: Share | None = None
    """Share of a LoRA's inner values dropped at each step."""
    network_weights: AddressValue | None = None
    """A LoRA file to start from, of the base's family and with kohya's names. Rank and alpha are
    the file's."""
    network_train_unet_only: Switch | None = None
    """Leave the text encoder alone: less memory, and captions are encoded once. Default: no; yes
    for SDXL, unless text_encoder_lr is set."""
    network_train_text_encoder_only: Switch = False
    """Leave the U-Net alone."""


class TrainingSettings(BaseModel):
    """The training"""

    model_config = _PART

    engine: Engine = "auto"
    """What trains: kohya's sd-scripts, or `native`, the built-in trainer. `auto` takes sd-scripts
    where it is installed."""
    max_train_epochs: Count | None = Field(None, le=100_000)
    """How many times the whole dataset is seen; 10 unless max_train_steps is set."""
    max_train_steps: Count | None = Field(None, le=10_000_000)
    """Optimizer steps, instead of epochs."""
    validation_split: Share = Field(0.0, lt=1)
    """Hold this share of the images out of the training, and report the loss on them after each
    epoch, at noise and timesteps that stay the same. A few images mislead: leave small sets
    whole. The built-in trainer's."""
    stop_when: Literal["never", "settled", "rising"] = "never"
    """End early, after the next epoch, when the loss has settled or rises again at the end of two
    epochs in a row. A loss shows little of a LoRA: look at the samples before you use this."""
    batch_size: BatchSize = "auto"
    """Images per step: `auto` sizes it for the card, measured where the estimate is unsure; `max`
    fills the card by measurement; a number is your word. `train_batch_size` is the same key."""
    gradient_accumulation_steps: Count = Field(1, le=10_000)
    """Steps whose gradients are added up before the weights move."""
    effective_batch_size: Count | None = Field(None, le=100_000)
    """Images that move the weights once, whatever the card: batch_size takes what fits, and
    accumulation makes up the rest."""
    gradient_checkpointing: Switch | None = None
    """Recompute activations instead of storing them: less memory, about a third more time."""
    learning_rate: Rate = Field(1e-4, le=1000)
    """Learning rate. If results are weak, try 2e-4 or 3e-4. Where all rates are open, (IA)³ gets
    5e-3."""
    scale_lr: Literal["none", "sqrt", "linear"] | None = None
    """How learning rates follow the images that move the weights once (batch, accumulation and
    processes): by their square root, as fits Adam and its kin, in proportion, as fits SGD, or not
    at all. Default: rates that you set are taken as they are; where all are open, and where
    lr_batch_size is set, sqrt, and linear for SGD."""
    lr_batch_size: Count | None = Field(None, le=100_000)
    """The images to an update that the rates are meant for, where scale_lr scales them. Default:
    the guide's batch on an RTX 4090, 4 for SD 1.x and 2.x and 2 for SDXL, and 2 for the others."""
    unet_lr: Rate | None = Field(None, le=1000)
    """Learning rate of the U-Net; default learning_rate. 0 leaves the U-Net out."""
    text_encoder_lr: Rates | None = None
    """Learning rate of the text encoders; two for SDXL's two, in the built-in trainer. 0 leaves the
    text encoder out. Default: half of learning_rate; a tenth for SDXL, where they are only trained
    where this or network_train_unet_only is set."""
    lr_scheduler: Literal[
        "constant",
        "constant_with_warmup",
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
    ] = "cosine_with_restarts"
    """How the learning rate changes over the run."""
    lr_warmup_steps: StepsOrRatio | None = None
    """Steps, or share of all steps, over which the rate rises from zero. Default: 100, at most a
    tenth of the run. As many as the run has or more are shortened to a tenth."""
    lr_scheduler_num_cycles: Count = Field(1, le=10_000)
    """Restarts of cosine_with_restarts."""
    lr_scheduler_power: Number = Field(1.0, ge=0, le=100)
    """Power of polynomial."""
    optimizer_type: str = "AdamW8bit"
    """AdamW8bit, AdamW, Lion, Prodigy, Adafactor, SGD and, in sd-scripts, all that it knows. What
    the authors of Prodigy, D-Adaptation, Adafactor and the schedule-free ones recommend is taken
    for what is not set, such as a rate of 1 and a constant schedule, and reported."""
    optimizer_args: Arguments = ()
    """More arguments for the optimizer, as `key=value`."""
    max_grad_norm: Rate = Field(1.0, le=1_000_000)
    """Gradients are clipped to this norm; 0 for never."""
    ema: Switch = False
    """Also keep the moving average of the LoRA's weights, which is steadier than the last step's:
    delivered as `NAME-ema.safetensors`, and drawn beside the raw weights in the grid. The built-in
    trainer's."""
    ema_decay: Share = Field(0.999, lt=1)
    """Weight of the average's past in each step; at the beginning less, (1 + n) / (10 + n) in step
    n. 0.999 looks back over about a thousand steps."""
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    """Precision of the computation. Default: bf16 where the card has it, else fp16; no on a CPU."""
    seed: Whole = Field(42, ge=0, le=4_294_967_295)
    """Same seed, same images, same weights."""
    min_snr_gamma: Rate | None = Field(None, le=1000)
    """Weigh steps by min-SNR with this gamma (5 is usual): steadier learning."""
    noise_offset: Rate | None = Field(None, le=1)
    """Shift the noise per channel: darker darks, brighter brights. Default: none; 0.0357 for an
    SDXL base that predicts noise, which was trained so. 0 for none."""
    ip_noise_gamma: Rate | None = Field(None, le=1)
    """Input perturbation noise."""
    prior_loss_weight: Rate = Field(1.0, le=1000)
    """Weight of regularisation images."""
    attention: Literal["auto", "xformers", "sdpa"] = "auto"
    """Attention by xformers or by torch itself."""
    torch_compile: Switch = False
    """Compile the U-Net's blocks: slow start, faster steps; pays on long runs."""
    cuda_graphs: Switch = False
    """Replay the operations of a step as CUDA graphs, one for each shape, captured at the start:
    where the CPU holds a fast card up. The built-in trainer's; no card has measured it yet."""
    max_data_loader_n_workers: Whole | None = Field(None, ge=0, le=256)
    """Processes that load images."""
    num_processes: Count = Field(1, le=64)
    """GPUs to use, one process each."""


class OutputSettings(BaseModel):
    """Output, checkpoints and delivery"""

    model_config = _PART

    output_dir: str = "./output"
    """The folder of all runs: each in `<output_dir>/<output_name>/`."""
    output_name: str = "my_lora"
    """Name of the run and of its files."""
    save_every_n_epochs: Count | None = Field(None, le=100_000)
    """Keep a checkpoint every N epochs; 2 unless save_every_n_steps is set."""
    save_every_n_steps: Count | None = Field(None, le=10_000_000)
    """Keep a checkpoint every N steps."""
    save_state_every_minutes: Rate = Field(5.0, gt=0)
    """Save a state every so many minutes: a kill costs no more than this."""
    save_precision: Literal["fp16", "bf16", "float"] = "fp16"
    """Number format of the LoRA file."""
    save_model_as: Literal["safetensors"] = "safetensors"
    """File format. Pickles are not written: loading them can run code."""
    training_comment: str | None = None
    """A line in the file's metadata."""
    destinations: Addresses = ()
    """Where the result goes: `s3://bucket/prefix`, `gs://bucket/prefix`,
    `azure://container/prefix`, `hf://user/repo`, `rclone:REMOTE:path`, `file:///path`. Default: a
    folder `delivered` in the run's own directory."""
    log_with: Trackers = ()
    """Also log the run to `wandb` (Weights & Biases), or to `comet_ml`, `mlflow`, `aim`, `clearml`,
    `dvclive`, `swanlab` or `trackio`, as the trainer's Python has them. Their key is taken from the
    environment alone (`WANDB_API_KEY`). The TensorBoard log is written in any case."""
    log_tracker_name: str = "tenner"
    """Name of the project in such a tracker; the run there has the name of this one."""
    deliver_for: Literal["none", "civitai"] = "none"
    """Deliver also `NAME-civitai.zip`, with what Civitai's form needs: the file, previews with
    their prompts, trigger words, the base by Civitai's name, a description. Nothing is sent
    there."""
    keep_remote_states: Whole = Field(1, ge=0, le=1000)
    """While training, the newest states are stored at each destination too, so that another machine
    can resume: this many. 0 sends none."""


class SampleSettings(BaseModel):
    """Samples"""

    model_config = _PART

    sample_prompts: Lines = ()
    """Prompts to draw with the trained LoRA, or a `.txt`, `.toml` or `.json` file of them as for
    sd-scripts. A line may end in `--n negative --w 512 --h 768 --d seed --l guidance --s steps`.
    Default: built from the trigger and your captions."""
    sample_negative_prompt: str = ""
    """What samples should not show."""
    sample_strengths: Numbers = (0.5, 0.7, 0.8, 1.0)
    """LoRA strengths in the grid; 0 is always drawn beside them."""
    sample_seeds: WholeNumbers = (1, 2, 3, 4, 5)
    """Seeds in the grid."""
    sample_steps: Count = Field(25, le=1000)
    """Denoising steps of a sample."""
    sample_guidance: Rate = Field(7.0, le=100)
    """Guidance scale of a sample."""
    sample_sampler: Sampler | None = None
    """Sampler, by sd-scripts' names. Default: the scheduler that the base brings."""
    sample_at_epochs: WholeNumbers = ()
    """Draw a grid after these epochs too, during the training: on the card where its memory
    suffices, else on the CPU where that is quick enough, else when the training has ended."""
    no_samples: Switch = False
    """Draw nothing."""


class PageSettings(BaseModel):
    """The page"""

    model_config = _PART

    language: Literal["auto", "en", "ar"] = "auto"
    """Language of the page `report.html`: English, Arabic, or the browser's own of the two."""
    serve: Switch = False
    """Show the page on a port during the run, to those who have the token in its address."""
    serve_host: str = "127.0.0.1"
    """Address to listen at; `0.0.0.0` lets other machines in."""
    serve_port: Whole = Field(8321, ge=0, le=65535)
    """Port of the page; 0 takes a free one."""
    serve_names: Addresses = ()
    """Further host names under which the page is reached, such as that of a proxy in front."""


class LimitSettings(BaseModel):
    """Budget and end"""

    model_config = _PART

    max_cost_usd: Rate = Field(10.0, le=1_000_000)
    """Most that the run may cost, where the price of the machine is known."""
    price_per_hour: Rate | None = Field(None, le=10_000)
    """What the machine costs, in dollars."""
    max_hours: Rate | None = Field(None, le=100_000)
    """Longest time of the run, over all its attempts."""
    grace_seconds: Rate = Field(8.0, le=86_400)
    """Time to save and deliver after SIGTERM. The default fits Docker's ten seconds; give more
    together with `docker stop --time`."""
    keep_alive_minutes: Rate = Field(0.0, le=100_000)
    """After a delivery that failed, wait and deliver again for so long before the run ends with
    exit code 6: for a machine whose disk goes with it."""
    end_action: Literal["none", "stop", "remove"] = "none"
    """What is done with this RunPod pod or Vast.ai instance once everything is delivered and
    verified: it is stopped (its disk stays, and costs a little) or removed."""
    end_command: str | None = None
    """A shell command that ends this machine, on other hosts or instead of the host's own way."""
    webhook_format: Literal["auto", "json", "discord", "slack"] = "auto"
    """The format of messages to the address in TENNER_WEBHOOK; by default the address decides."""
    may_change_batch: Switch = False
    """When the card runs out of memory, a batch that you fixed may be halved too. The images of a
    step stay the same."""
    may_freeze_text_encoder: Switch = False
    """When nothing else makes a run fit the card, train the U-Net alone."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Where to train. A CPU is only used when set, or for the built-in tiny base."""


class Settings(
    LimitSettings,
    PageSettings,
    SampleSettings,
    OutputSettings,
    TrainingSettings,
    NetworkSettings,
    DatasetSettings,
    BaseModelSettings,
):
    """All settings of a run."""

    model_config = _STRICT | ConfigDict(defer_build=False)

    engine_options: dict[str, Scalar | tuple[Scalar, ...]] = Field(default_factory=dict)
    """Any further option of sd-scripts, by its own name; checked against its parser."""

    @property
    def run_dir(self) -> RunDir:
        """Where the run of this name writes, which need not exist yet."""
        return RunDir(Path(self.output_dir).expanduser() / self.output_name)


SECTIONS: tuple[type[BaseModel], ...] = (
    BaseModelSettings,
    DatasetSettings,
    NetworkSettings,
    TrainingSettings,
    OutputSettings,
    SampleSettings,
    PageSettings,
    LimitSettings,
)

ALIASES: dict[str, str] = {
    "pretrained_model_name_or_path": "base_model",
    "train_data_dir": "dataset",
    "train_batch_size": "batch_size",
    "conv_lora_dim": "conv_dim",
    "conv_lora_alpha": "conv_alpha",
}
"""Other names of the same key: sd-scripts' own."""
