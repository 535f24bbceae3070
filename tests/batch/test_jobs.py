"""What a batch is given: each form gives jobs that are requests of their own, or problems."""

import hashlib
from pathlib import Path

import pytest

from tenner.core.errors import SettingsError
from tenner.queue.jobs import Batch, read_batch
from tenner.queue.record import new_record
from tenner.settings.saved import settings_toml


def batch_of(path: Path, text: str, **flags: str) -> Batch:
    path.write_text(text, encoding="utf-8")
    return read_batch(path, flags, {})


def names(batch: Batch) -> list[str]:
    return [job.settings.output_name for job in batch.jobs]


def problems_of(path: Path, text: str, **flags: str) -> str:
    with pytest.raises(SettingsError) as caught:
        batch_of(path, text, **flags)
    return str(caught.value)


def test_a_list_of_jobs_shares_what_stands_above_it(tmp_path: Path) -> None:
    batch = batch_of(
        tmp_path / "mine.toml",
        """
        [training]
        learning_rate = 2e-4
        [batch]
        stop_after = 2
        max_cost_usd = 3
        [[jobs]]
        output_name = "cat"
        dataset = "cats"
        [[jobs]]
        dataset = "dogs"
        learning_rate = 1e-3
        """,
        seed="7",
    )
    assert names(batch) == ["cat", "mine-2"]
    assert [job.settings.dataset for job in batch.jobs] == ["cats", "dogs"]
    assert [job.settings.learning_rate for job in batch.jobs] == [2e-4, 1e-3]
    assert {job.settings.seed for job in batch.jobs} == {7}
    assert (batch.options.stop_after, batch.options.max_cost_usd) == (2, 3.0)
    assert batch.folder == Path("output/mine.batch")


def test_a_sweep_is_every_combination_for_every_job(tmp_path: Path) -> None:
    batch = batch_of(
        tmp_path / "s.toml",
        """
        output_name = "star"
        [sweep]
        network_dim = [16, 32]
        learning_rate = [1e-4, 0.5]
        """,
    )
    assert names(batch) == [
        "star-network_dim-16-learning_rate-0.0001",
        "star-network_dim-16-learning_rate-0.5",
        "star-network_dim-32-learning_rate-0.0001",
        "star-network_dim-32-learning_rate-0.5",
    ]
    assert batch.jobs[2].settings.network_dim == 32
    assert batch.jobs[2].source("network_dim") == "s.toml [sweep]"


def test_a_folder_holds_a_job_in_each_file(tmp_path: Path) -> None:
    (tmp_path / "batch.toml").write_text('network_dim = 8\n[batch]\nshortest_first = "yes"\n')
    (tmp_path / "b.toml").write_text('[dataset]\ndataset = "b"\n')
    (tmp_path / "a.toml").write_text('dataset = "a"\nnetwork_dim = 4\n')
    batch = read_batch(tmp_path, {}, {"TENNER_OUTPUT_NAME": "all_alike"})
    assert names(batch) == ["a", "b"]
    assert [job.settings.network_dim for job in batch.jobs] == [4, 8]
    assert batch.options.shortest_first


def test_a_destination_for_all_has_a_folder_for_each(tmp_path: Path) -> None:
    jobs = '[[jobs]]\noutput_name = "a"\n[[jobs]]\noutput_name = "b"\n'
    shared = 'destinations = ["s3://bucket/loras?region=eu-west-1", "file:///mnt/"]\n'
    batch = batch_of(tmp_path / "d.toml", shared + jobs)
    assert batch.jobs[1].settings.destinations == (
        "s3://bucket/loras/b?region=eu-west-1",
        "file:///mnt/b",
    )
    own = '[[jobs]]\noutput_name = "a"\ndestinations = ["file:///mnt/here"]\n'
    assert batch_of(tmp_path / "d.toml", own).jobs[0].settings.destinations == ("file:///mnt/here",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("network_dim = 4\n", "holds no jobs"),
        ('[[jobs]]\noutput_name = "a"\n[[jobs]]\noutput_name = "a"\n', "two jobs are called a"),
        ("[sweep]\nnetwork_dim = 4\n", "network_dim in [sweep] is no list"),
        ("[sweep]\nseed = [1, 2]\n", "seed is swept over in x.toml and set once for all (--seed)"),
        ("[jobs]\nnetwork_dim = 4\n", "write [[jobs]]"),
        ("[batch]\nstop_afer = 1\n[[jobs]]\n", "stop_afer"),
        ("[[jobs]]\nnetwork_dmi = 4\n[[jobs]]\nseed = -1\n", "did you mean 'network_dim'"),
        ('destinations = ["hf://me/one"]\n[[jobs]]\n[[jobs]]\n', "both deliver to hf://me/one"),
    ],
)
def test_what_cannot_be_is_reported(tmp_path: Path, text: str, says: str) -> None:
    flags = {"seed": "3"} if "seed = [" in text else {}
    assert says in problems_of(tmp_path / "x.toml", text, **flags)


def test_the_problems_of_all_jobs_are_reported_at_once(tmp_path: Path) -> None:
    text = '[[jobs]]\noutput_name = "a"\nseed = -1\n[[jobs]]\noutput_name = "b"\nnetwork_dmi = 4\n'
    reported = problems_of(tmp_path / "x.toml", text)
    assert "a: seed = -1" in reported
    assert "b: unknown key 'network_dmi'" in reported


def test_a_job_of_the_renamed_trainer_is_the_one_that_older_records_are_about(
    tmp_path: Path,
) -> None:
    (job,) = batch_of(tmp_path / "job.toml", "[[jobs]]\nseed = 1", engine="diffusers").jobs
    lines = settings_toml(job).splitlines(keepends=True)
    (at,) = (number for number, line in enumerate(lines) if line.startswith("engine = "))
    lines[at] = lines[at].replace("native", "diffusers")
    before = hashlib.sha256("".join(lines).encode()).hexdigest()[:16]
    assert new_record(job, tmp_path).digest == before
