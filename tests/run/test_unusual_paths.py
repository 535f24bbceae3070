"""Places that cannot be used, and faults that nobody foresaw: one sentence, a documented code."""

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path

import pytest
from program import environment

from tenner.base.tiny import concept_dir
from tenner.core.errors import ExitCode, InternalError, MachineError, SettingsError
from tenner.core.last_handler import as_tenner_error
from tenner.core.writable import make_writable, unwritable

NOBODY = 65534
JOB = (
    *(str(concept_dir()), "--base_model", "tiny", "--resolution", "64", "--device", "cpu"),
    *("--max_train_steps", "2", "--no_samples"),
)


@pytest.fixture
def open_folder() -> Generator[Path]:
    """A folder that every user may enter, as pytest's own may not be."""
    folder = Path(tempfile.mkdtemp(prefix="tenner-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def tenner(
    *args: str | bytes,
    cwd: Path,
    env: Mapping[str, str] | Mapping[bytes, bytes] | None = None,
    before: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[str]:
    environ = {os.fsencode(key): os.fsencode(value) for key, value in environment().items()}
    environ |= {os.fsencode(key): os.fsencode(value) for key, value in (env or {}).items()}
    return subprocess.run(
        [*before, sys.executable, "-m", "tenner", *args],
        cwd=cwd,
        env=environ,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=200,
        check=False,
    )


def foreign(folder: Path, mode: int) -> tuple[str, ...]:
    """Make `folder` one that this user may not use, and give what the program is started by.

    root owns whatever it made and may do everything: there the folder is given to nobody, and the
    program starts without the capabilities that pass over modes, as in a container without them.
    """
    folder.mkdir()
    if os.geteuid():
        folder.chmod(mode & 0o555)
        return ()
    folder.chmod(mode)
    os.chown(folder, NOBODY, NOBODY)
    return ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


def output_of(ended: subprocess.CompletedProcess[str], code: ExitCode) -> str:
    """What was reported, of a program that ended with `code` and no traceback."""
    output = ended.stdout + ended.stderr
    assert "Traceback" not in output, output
    assert ended.returncode == code, output
    return " ".join(output.split())


@pytest.mark.parametrize(
    "args",
    [("train", *JOB), ("batch", "jobs"), ("demo", "--device", "cpu")],
    ids=lambda args: args[0],
)
def test_a_folder_of_another_user_is_reported_before_anything_else(
    open_folder: Path, args: tuple[str, ...]
) -> None:
    jobs = open_folder / "jobs"
    jobs.mkdir()
    (jobs / "one.toml").write_text(f'dataset = "{concept_dir()}"\nbase_model = "tiny"\n')
    out = open_folder / "foreign"
    before = foreign(out, 0o755)
    text = output_of(
        tenner(
            *args,
            *("--output_dir", str(out / "runs")),
            cwd=open_folder,
            before=before,
        ),
        ExitCode.MACHINE,
    )
    assert f"{out / 'runs'}" in text
    assert f"{out} belongs to uid {os.geteuid() or NOBODY}" in text
    assert f"tenner runs as uid {os.geteuid()}" in text
    assert f"chown -R {os.geteuid()} {out}" in text
    assert "step" not in text


@pytest.mark.parametrize("below", ["", "runs"])
def test_a_file_in_place_of_the_output_folder_is_a_wrong_setting(
    tmp_path: Path, below: str
) -> None:
    (tmp_path / "out").write_text("a file")
    where = str(tmp_path / "out" / below)
    output = output_of(
        tenner("train", *JOB, "--output_dir", where, cwd=tmp_path), ExitCode.SETTINGS
    )
    assert f"{tmp_path / 'out'} is a file" in output


def test_a_read_only_mount_is_reported_with_its_fix(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    root = () if os.geteuid() == 0 else ("--map-root-user",)
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    before = ("unshare", *root, "--mount", "sh", "-c", script, str(out))
    if subprocess.run([*before, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount: the error alone is tested below")
    ended = tenner("train", *JOB, "--output_dir", str(out), cwd=tmp_path, before=before)
    text = output_of(ended, ExitCode.MACHINE)
    assert f"{out} is on a read-only file system" in text
    assert "without :ro" in text


def test_a_read_only_file_system_a_full_disk_and_a_quota_have_their_own_errors(
    tmp_path: Path,
) -> None:
    for number, text in (
        (errno.EROFS, "read-only file system"),
        (errno.ENOSPC, "No space left"),
        (errno.EDQUOT, "quota"),
        (errno.EIO, "error"),
    ):
        problem = unwritable(tmp_path, OSError(number, os.strerror(number)), name="the folder")
        assert text.lower() in problem.text.lower()
        assert str(tmp_path) in problem.text
        assert problem.fix


def test_a_name_that_no_file_system_takes_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="File name too long"):
        make_writable(tmp_path / ("x" * 300), name="the folder")


@pytest.mark.parametrize("command", ["plan", "check", "train"])
def test_no_folder_for_temporary_files_is_reported_first(open_folder: Path, command: str) -> None:
    """Every folder that Python tries is taken away: the mounts make them read-only (this program
    may lie in one of them), the working folder is another user's."""
    root = () if os.geteuid() == 0 else ("--map-root-user",)
    lock = "mount --bind $each $each && mount -o remount,bind,ro $each || exit 9"
    before = ("unshare", *root, "--mount", "sh", "-c")
    before = (*before, f'for each in /tmp /var/tmp; do {lock}; done; exec "$@"', "sh")
    if subprocess.run([*before, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    ended = tenner(command, *JOB, cwd=Path("/proc"), env={"TMPDIR": "/proc/none"}, before=before)
    text = output_of(ended, ExitCode.MACHINE)
    assert "no folder for temporary files" in text
    assert "--tmpfs /tmp" in text


def test_a_file_of_another_user_in_the_run_is_a_sentence(open_folder: Path) -> None:
    """The folder may be written to, a file in it may not."""
    run = open_folder / "out" / "lora"
    run.mkdir(parents=True)
    run.chmod(0o777)
    (run / "events.jsonl").mkdir()
    args = ("--output_dir", str(open_folder / "out"), "--output_name", "lora")
    ended = tenner("train", *JOB, *args, cwd=open_folder)
    text = output_of(ended, ExitCode.MACHINE)
    assert "events.jsonl" in text


@pytest.mark.parametrize("variable", ["TENNER_CACHE_DIR", "TENNER_MODELS_DIR"])
def test_a_cache_of_another_user_is_a_sentence(open_folder: Path, variable: str) -> None:
    """A folder that may not even be looked into."""
    hidden = open_folder / "hidden"
    before = foreign(hidden, 0o700 if os.geteuid() == 0 else 0)
    archive = shutil.make_archive(str(open_folder / "photos"), "zip", concept_dir().parent)
    args = ("check", "--dataset", archive, "--base_model", "sd15", "--resolution", "64")
    env = {variable: str(hidden / "inside"), "HOME": str(hidden)}
    ended = tenner(*args, cwd=open_folder, env=env, before=before)
    output = ended.stdout + ended.stderr
    assert "Traceback" not in output, output
    assert ended.returncode in (ExitCode.MACHINE, ExitCode.DATASET), output
    assert str(hidden) in output
    doctor = tenner("doctor", cwd=open_folder, env=env, before=before)
    assert "Traceback" not in doctor.stdout + doctor.stderr


def test_an_unreadable_folder_in_path_is_passed_over(open_folder: Path) -> None:
    hidden = open_folder / "hidden"
    before = foreign(hidden, 0o700 if os.geteuid() == 0 else 0)
    env = {"PATH": f"{hidden}/bin{os.pathsep}{hidden}{os.pathsep}{os.environ['PATH']}"}
    args = (*JOB, "--output_dir", str(open_folder / "out"))
    text = output_of(tenner("plan", *args, cwd=open_folder, env=env, before=before), ExitCode(0))
    assert "2 steps" in text


NOT_UTF8 = b"caf\xe9"


@pytest.mark.parametrize("key", ["output_dir", "dataset", "trigger", "nonsense"])
def test_bytes_that_are_not_utf8_in_a_variable_are_a_wrong_setting(
    tmp_path: Path, key: str
) -> None:
    env = {b"TENNER_" + key.upper().encode(): NOT_UTF8}
    text = output_of(tenner("plan", *JOB[1:], cwd=tmp_path, env=env), ExitCode.SETTINGS)
    assert f"{key} = 'caf\\udce9' (TENNER_{key.upper()}) holds bytes that are not UTF-8" in text


def test_bytes_that_are_not_utf8_in_a_flag_and_a_nul_in_toml_are_wrong_settings(
    tmp_path: Path,
) -> None:
    folder = os.fsencode(tmp_path) + b"/" + NOT_UTF8
    os.mkdir(folder)  # noqa: PTH102 a name of bytes
    text = output_of(
        tenner("plan", folder, "--base_model", "tiny", cwd=tmp_path), ExitCode.SETTINGS
    )
    assert "not UTF-8" in text
    (tmp_path / "job.toml").write_text('dataset = "a\\u0000b"\n')
    assert "a NUL byte" in output_of(tenner("plan", "job.toml", cwd=tmp_path), ExitCode.SETTINGS)


@pytest.mark.parametrize("command", ["check", "plan"])
def test_folders_below_the_dataset_may_have_any_name(tmp_path: Path, command: str) -> None:
    concept = os.fsencode(tmp_path) + b"/photos/3_" + NOT_UTF8
    os.makedirs(concept)  # noqa: PTH103 a name of bytes
    for picture in concept_dir().rglob("*.png"):
        shutil.copy(picture, concept + b"/" + picture.name.encode())
    args = (str(tmp_path / "photos"), "--base_model", "tiny", "--resolution", "64")
    for more in ((), ("--json",)):
        ended = tenner(command, *args, "--device", "cpu", *more, cwd=tmp_path)
        output_of(ended, ExitCode(0))
        if more:
            json.loads(ended.stdout)


def test_a_run_in_a_folder_whose_name_is_not_utf8_is_refused_first(tmp_path: Path) -> None:
    """The trainers' libraries cannot open a file there."""
    folder = os.fsencode(tmp_path) + b"/" + NOT_UTF8
    os.mkdir(folder)  # noqa: PTH102 a name of bytes
    text = output_of(tenner("train", *JOB, cwd=Path(os.fsdecode(folder))), ExitCode.SETTINGS)
    assert "bytes that are not UTF-8" in text
    assert "caf\\udce9/output" in text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("deep.toml", "a = " + "[" * 5000 + "]" * 5000),
        ("tables.toml", "[" + ".".join("a" * 5000) + "]\nb = 1"),
        ("deep.json", "[" * 5000 + "]" * 5000),
        ("nested.json", '{"a":' + "[" * 900 + "]" * 900 + "}"),
        ("inline.toml", "a = " + "{b = " * 5000 + "1" + "}" * 5000),
    ],
)
def test_settings_nested_thousands_deep_are_wrong_settings(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    text = output_of(tenner("plan", name, cwd=tmp_path), ExitCode.SETTINGS)
    assert name in text


def test_what_nobody_foresaw_is_a_sentence_with_the_place_of_its_report(tmp_path: Path) -> None:
    """A fault is put into the program by a module that Python loads before it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import tenner.settings.resolve as r\n"
        "def fail(*a, **k): raise ZeroDivisionError('hf_' + 'a' * 30 + ' and my-own-secret')\n"
        "import tenner.cli.main; tenner.cli.main.load_request = fail\n"
    )
    env = {"PYTHONPATH": str(tmp_path), "TMPDIR": str(tmp_path), "AN_API_KEY": "my-own-secret"}
    ended = tenner("plan", *JOB, cwd=tmp_path, env=env)
    message = output_of(ended, ExitCode.INTERNAL)
    (report,) = tmp_path.glob("tenner-error-*.txt")
    assert str(report) in message
    text = report.read_text()
    assert "ZeroDivisionError" in text
    assert "Traceback" in text
    for secret in ("hf_a", "my-own-secret"):
        assert secret not in text + message


def test_an_error_inside_a_run_is_saved_in_its_folder_and_its_events(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import tenner.pipeline.begin\n"
        "def fail(*a, **k): raise ZeroDivisionError('nothing')\n"
        "tenner.pipeline.begin.begin_attempt = fail\n"
    )
    args = ("train", *JOB, "--output_name", "lora")
    ended = tenner(*args, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    text = output_of(ended, ExitCode.INTERNAL)
    run = tmp_path / "output" / "lora"
    (report,) = run.glob("tenner-error-*.txt")
    assert report.name in text
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert "ZeroDivisionError" in next(each["text"] for each in events if each["event"] == "failed")


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (MemoryError(), MachineError, "memory is full"),
        (OSError(errno.ENOSPC, "No space left on device"), MachineError, "No space left"),
        (PermissionError(13, "Permission denied", "/proc/1/mem"), MachineError, "/proc/1/mem"),
        (OSError(), MachineError, "OSError"),
        (RecursionError(), InternalError, "RecursionError"),
        (KeyError("a"), InternalError, "KeyError: 'a'"),
    ],
)
def test_each_kind_of_fault_has_its_code(
    tmp_path: Path, error: Exception, kind: type[Exception], text: str
) -> None:
    found = as_tenner_error(error, {}, folders=(tmp_path,))
    assert isinstance(found, kind)
    assert text in str(found)
    assert str(tmp_path) in str(found)


def test_a_report_is_saved_somewhere_or_not_mentioned(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    assert "report is" in str(as_tenner_error(KeyError("a"), {}, folders=(gone,)))
    assert not gone.exists()


def test_output_that_nobody_reads_is_no_fault(tmp_path: Path) -> None:
    script = f'{sys.executable} -m tenner plan "$@" | true; echo "${{PIPESTATUS[0]}}" >&2'
    ended = subprocess.run(
        ["bash", "-c", script, "bash", *JOB],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    assert int(ended.stderr.split()[-1]) in (ExitCode.DELIVERED, ExitCode.STOPPED)
