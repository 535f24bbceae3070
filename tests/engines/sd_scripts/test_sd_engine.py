"""A run as a command: one process for one card, `accelerate launch` with all said for several."""

from dataclasses import replace
from pathlib import Path

import pytest

from tenner.engines.sd_scripts.arguments import Paths
from tenner.engines.sd_scripts.engine import Job, command, learning_rates, threads_per_process
from tenner.engines.sd_scripts.find import Trainer
from tests.train_options import train_options

JOB = Job(
    trainer=Trainer(directory=Path("/opt/sd-scripts"), python=Path("/opt/trainer/bin/python")),
    family="sd1",
    paths=Paths(
        base_model=Path("/models/sd15"),
        train_data_dir=Path("/run/data"),
        output_dir=Path("/run/out"),
        output_name="my_lora",
        logging_dir=Path("/run/logs"),
    ),
    options=train_options(
        train_batch_size=2,
        learning_rate=1e-4,
        text_encoder_lr=(5e-5,),
        lr_scheduler="linear",
        lr_warmup_steps=10,
        mixed_precision="fp16",
        save_every_n_epochs=2,
    ),
    num_steps=110,
    steps_per_epoch=11,
    cpus=8,
)


def test_one_card_is_one_process() -> None:
    made = command(JOB, JOB.attempt())
    python, wrapper, seconds, script = made.argv[:4]
    assert (python, script) == ("/opt/trainer/bin/python", "/opt/sd-scripts/train_network.py")
    assert Path(wrapper).name == "with_states.py"
    assert Path(wrapper).is_file()
    assert float(seconds) == 300
    assert "--max_train_steps=110" in made.argv
    assert "--save_state" in made.argv
    assert made.env["OMP_NUM_THREADS"] == "4"
    assert made.env["HF_HUB_OFFLINE"] == "1"
    assert "ACCELERATE_USE_CPU" not in made.env


def test_sdxl_has_its_own_trainer() -> None:
    job = replace(JOB, family="sdxl")
    assert command(job, job.attempt()).argv[3].endswith("/sdxl_train_network.py")


def test_several_cards_are_launched_with_every_setting_said() -> None:
    job = replace(JOB, num_processes=2, cpus=6)
    words = " ".join(command(job, job.attempt()).argv)
    assert "-m accelerate.commands.launch --multi_gpu --num_machines 1 --num_processes 2" in words
    assert "--mixed_precision fp16 --dynamo_backend no --num_cpu_threads_per_process 3" in words
    assert " --no_python /opt/trainer/bin/python -I -S -c " in words
    assert "--ddp_timeout=30" in words
    assert "--lr_warmup_steps=20" in words


@pytest.mark.parametrize(
    ("cpus", "processes", "on_cpu", "expected"),
    [
        (16, 1, False, 4),
        (2.5, 1, False, 2),
        (0.5, 1, False, 1),
        (16, 8, False, 2),
        (16, 1, True, 16),
    ],
)
def test_threads_are_the_guides_four_or_what_is_there(
    cpus: float, processes: int, on_cpu: bool, expected: int
) -> None:
    job = replace(JOB, cpus=cpus, num_processes=processes, on_cpu=on_cpu)
    assert threads_per_process(job) == expected


def test_a_cpu_is_only_used_when_asked_for() -> None:
    job = replace(JOB, on_cpu=True)
    assert command(job, job.attempt()).env["ACCELERATE_USE_CPU"] == "true"


def test_a_resumed_attempt_says_where_it_resumes() -> None:
    made = command(JOB, JOB.attempt(22), state=Path("/run/state/step-00000022"))
    assert "--resume=/run/state/step-00000022" in made.argv
    assert "--initial_step=22" in made.argv
    assert "--max_train_steps=110" in made.argv


def test_learning_rates_of_a_step_are_known_beforehand() -> None:
    rates = learning_rates(JOB)
    assert rates is not None
    assert rates(1) == {"unet": 0.0, "text_encoder": 0.0}
    assert rates(11) == {"unet": 1e-4, "text_encoder": 5e-5}
    assert rates(61)["unet"] == pytest.approx(5e-5)
    unet_only = replace(JOB, options=replace(JOB.options, network_train_unet_only=True))
    found = learning_rates(unet_only)
    assert found is not None
    assert set(found(1)) == {"unet"}
    assert (
        learning_rates(replace(JOB, options=train_options(lr_scheduler_type="OneCycleLR"))) is None
    )


def test_no_secret_and_no_upload_is_ever_said() -> None:
    words = [*command(JOB, JOB.attempt()).argv]
    words.remove("--keep_tokens=0")
    for word in ("huggingface", "token", "wandb", "config_file"):
        assert word not in " ".join(words)
