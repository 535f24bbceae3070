"""How the image's start becomes the owner of what a command writes to; as root, without an image.

What needs the image itself is in tests/image.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tenner.cli.container import find_user
from tenner.core.errors import SettingsError

OWNER = (4321, 4322)
as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root becomes another user; tests/image does it in containers"
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter, and that belongs to another user than this one."""
    path = Path(tempfile.mkdtemp(prefix="tenner-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def readable_python() -> tuple[str, ...]:
    """What starts a program that finds this Python as any user: as root's it may lie in a folder
    that is closed to others, which a mount namespace then shows open."""
    prefix = Path(sys.base_prefix)
    closed = [each for each in prefix.parents if not each.stat().st_mode & 1]
    if not closed:
        return ()
    script = (
        'here=$(mktemp -d) && mount --bind "$0" "$here" && mount -t tmpfs -o mode=755 none "$1"'
        ' && mkdir -p "$0" && mount --bind "$here" "$0" && shift && exec "$@"'
    )
    return ("unshare", "--mount", "sh", "-c", script, str(prefix), str(closed[-1]))


def owned(path: Path, owner: tuple[int, int] = OWNER) -> Path:
    path.mkdir()
    os.chown(path, *owner)
    return path


def start(
    *words: str, cwd: Path, before: Sequence[str] = (), **environ: str
) -> subprocess.CompletedProcess[str]:
    """Start a command as the image does."""
    surroundings = {
        key: value for key, value in os.environ.items() if not key.startswith("TENNER_")
    }
    return subprocess.run(
        [*readable_python(), *before, sys.executable, "-P", "-m", "tenner.cli.start", *words],
        cwd=cwd,
        env={**surroundings, "HOME": "/root", **environ},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def owner_of(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid


def assert_begun_as(run_dir: Path, owner: tuple[int, int]) -> None:
    """A run makes its folders first; without images it ends there, and a run's folder that was
    there before stays."""
    assert owner_of(run_dir / "state") == owner


@as_root
@pytest.mark.parametrize("way", ["flag", "variable", "quoted", "file", "default"])
def test_the_output_folder_is_the_one_that_the_run_writes_to(folder: Path, way: str) -> None:
    work = folder / "work"
    work.mkdir()
    results = owned(work / "output" if way == "default" else folder / "my out")
    owned(results / "my_lora")
    words, environ = ["train", "--dataset", "none"], dict[str, str]()
    match way:
        case "flag":
            words += ["--output_dir", str(results)]
        case "variable":
            environ["TENNER_OUTPUT_DIR"] = str(results)
        case "quoted":
            environ["TENNER_OUTPUT_DIR"] = f'"{results}"'
        case "file":
            (work / "training_config.toml").write_text(f'output_dir = "{results}"\n')
        case _:
            pass
    done = start(*words, cwd=work, **environ)
    assert done.returncode in (2, 3), done.stderr
    assert_begun_as(results / "my_lora", OWNER)
    assert not list(work.glob('*"*'))


@as_root
def test_a_batch_belongs_to_the_owner_of_its_output_folder(folder: Path) -> None:
    results = owned(folder / "results")
    jobs = folder / "jobs"
    jobs.mkdir()
    (jobs / "one.toml").write_text(f'dataset = "none"\noutput_dir = "{results}"\n')
    done = start("batch", "jobs", cwd=folder)
    assert done.returncode != 0
    assert {owner_of(each) for each in results.rglob("*")} == {OWNER}
    assert list(results.rglob("*")), done.stderr


@as_root
@pytest.mark.parametrize("quote", ["", '"'])
def test_puid_names_the_user_and_a_missing_folder_is_made_for_it(folder: Path, quote: str) -> None:
    environ = {"PUID": f"{quote}1234{quote}", "PGID": f"{quote}1235{quote}"}
    done = start("train", "--dataset", "none", cwd=folder, **environ)
    assert done.returncode in (2, 3), done.stderr
    assert owner_of(folder / "output") == (1234, 1235)
    assert not list((folder / "output").iterdir()), "a refused run leaves nothing"


@as_root
def test_a_puid_that_is_nobodys_ends_it_before_anything_is_made(folder: Path) -> None:
    done = start("train", "--dataset", "none", cwd=folder, PUID="99999999999")
    assert done.returncode == 2
    assert "PUID=99999999999: expected a number from 0 to 4294967294" in done.stderr
    assert not list(folder.iterdir())


@pytest.mark.parametrize("puid", ["99999999999", "4294967295", "-1", "me", "1.5", "0x10"])
def test_what_is_no_users_number_is_refused(tmp_path: Path, puid: str) -> None:
    with pytest.raises(SettingsError, match=f"PUID={puid}: expected a number"):
        find_user(tmp_path, {"PUID": puid})


@as_root
@pytest.mark.parametrize("left", ["setuid", "none"])
def test_without_the_privileges_it_continues_as_root_and_reports_it(
    folder: Path, left: str
) -> None:
    owned(owned(folder / "output") / "my_lora")
    dropped = {"setuid": "-setgid", "none": "-setuid,-setgid"}[left]
    before = ("setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}")
    done = start("train", "--dataset", "none", cwd=folder, before=before)
    assert done.returncode in (2, 3), done.stderr
    assert "the container lacks CAP_SET" in done.stderr
    assert_begun_as(folder / "output" / "my_lora", (0, 0))


@as_root
def test_a_secret_that_only_root_may_read_is_read(folder: Path) -> None:
    owned(folder / "output")
    secret = folder / "hook"
    secret.write_text("not an address\n")
    secret.chmod(0o600)
    done = start("train", "--dataset", "none", cwd=folder, TENNER_WEBHOOK_FILE=str(secret))
    assert "cannot be read" not in done.stderr
    assert "TENNER_WEBHOOK" in done.stderr, "its value is judged"
    assert not (folder / "output" / "my_lora").exists()


@as_root
def test_a_secret_that_is_not_there_is_still_reported(folder: Path) -> None:
    owned(folder / "output")
    done = start("train", "--dataset", "none", cwd=folder, HF_TOKEN_FILE="/run/none")
    assert done.returncode == 2
    assert "HF_TOKEN_FILE names /run/none, which cannot be read" in done.stderr


@as_root
def test_the_process_is_the_users_own_with_a_home_for_caches(folder: Path) -> None:
    owned(folder / "output")
    script = (
        "import os, sys; from tenner.cli.container import _leave_root;"
        "_leave_root(['train', '--dataset', 'none'], os.environ);"
        "open(os.path.join(os.environ['HOME'], 'x'), 'w').close();"
        "print(os.getresuid(), os.getresgid(), os.listdir('/proc/self/fd') != [])"
    )
    done = subprocess.run(
        [*readable_python(), sys.executable, "-P", "-c", script],
        cwd=folder,
        env={**os.environ, "HOME": "/root"},
        capture_output=True,
        text=True,
        check=False,
    )
    uid, gid = OWNER
    expected = f"({uid}, {uid}, {uid}) ({gid}, {gid}, {gid}) True"
    assert done.stdout.strip() == expected, done.stderr


@as_root
def test_help_and_wrong_words_are_answered_as_ever(folder: Path) -> None:
    assert start("--help", cwd=folder).returncode == 0
    assert start("trian", cwd=folder).returncode == 2
    assert start("train", "--ouput_dir", "x", "--dataset", "none", cwd=folder).returncode == 2


def test_a_user_is_the_nearest_owner_unless_one_is_named(tmp_path: Path) -> None:
    here = tmp_path.stat()
    found = find_user(tmp_path / "not" / "there", {"PUID": "", "PGID": " "})
    assert (found.uid, found.gid, found.named) == (here.st_uid, here.st_gid, False)
    named = find_user(tmp_path, {"PUID": "7"})
    assert (named.uid, named.gid, named.named) == (7, here.st_gid, True)
    assert (find_user(tmp_path, {"PUID": "0"}).uid, find_user(tmp_path, {"PUID": "0"}).gid) == (
        0,
        0,
    )
    with pytest.raises(SettingsError, match="PUID=x and PGID=4294967295"):
        find_user(tmp_path, {"PUID": "x", "PGID": "4294967295"})
