"""tenner as a library: the documented examples, threads, signals, callbacks, stops."""

import ast
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import tenner
from tenner.base.tiny import concept_dir
from tenner.core.events import Event, Phase, StateSaved, Step

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "library.md"
STUB = ROOT / "entrypoint" / "tenner" / "__init__.pyi"
NOT_LOADED = ("torch", "numpy", "PIL", "pydantic_core", "rich", "httpx", "jinja2", "babel")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with pictures, and an environment that sets nothing."""
    shutil.copytree(concept_dir(), tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    for name in [each for each in os.environ if each.startswith("TENNER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def job(**more: Any) -> dict[str, Any]:
    """A short training on a CPU."""
    return {
        "dataset": Path("photos"),
        "base_model": "tiny",
        "output_name": "star",
        "network_dim": 4,
        "batch_size": 4,
        "max_train_steps": 6,
        "no_samples": True,
        **more,
    }


def loaded_by(code: str) -> set[str]:
    """The top packages that a new process has after `code`."""
    words = f"{code}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_import_loads_nothing_and_the_names_no_heavy_library() -> None:
    bare = loaded_by("pass")
    assert loaded_by("import tenner") - bare == {"tenner"}
    assert not loaded_by("from tenner import train, check, plan, compare").intersection(NOT_LOADED)
    every = ", ".join(tenner._LOADED_FROM)  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    assert "torch" not in loaded_by(f"from tenner import {every}")


def test_types_and_names_are_the_same() -> None:
    typed = {
        alias.asname
        for node in ast.parse(STUB.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == set(tenner._LOADED_FROM)  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    found = [getattr(tenner, name) for name in sorted(typed)]
    assert all(found)
    assert (STUB.parent / "py.typed").is_file()
    for result in (tenner.Result, tenner.PlanResult, tenner.CheckResult, tenner.Inspection):
        assert dataclasses.is_dataclass(result)
        assert result.__dataclass_params__.frozen  # pyright: ignore
    with pytest.raises(AttributeError, match="no attribute 'fly'"):
        tenner.fly  # noqa: B018  # pyright: ignore


def test_the_documented_examples_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In order and in one namespace, as a reader types them; nothing is printed but by them."""
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) == 3
    names: dict[str, Any] = {}
    for each in examples:
        exec(compile(each, str(PAGE), "exec"), names)
    output = capsys.readouterr()
    assert output.err == ""
    assert (
        names["result"].weights == folder / "output" / "star" / "checkpoints" / "star.safetensors"
    )
    assert (folder / "output" / "star" / "delivered.json").is_file()
    assert names["lora"].file.ranks() == (4,)


def test_every_error_is_documented() -> None:
    text = PAGE.read_text(encoding="utf-8")
    kinds = {tenner.TennerError, *tenner.TennerError.__subclasses__()}
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", text, re.MULTILINE))
    expected = {each.__name__: str(int(each.exit_code)) for each in kinds}
    del expected["TennerError"]
    assert rows == expected


@pytest.mark.usefixtures("folder")
def test_a_run_that_is_to_stop_before_its_training_begins_none() -> None:
    stop, heard = threading.Event(), list[Event]()

    def hear(event: Event) -> None:
        heard.append(event)
        stop.set()
        if isinstance(event, Phase) and event.name == "dataset":
            ended.wait(2)  # until the request has arrived

    ended = threading.Event()
    with pytest.raises(tenner.Stopped, match="before the training"):
        tenner.train(job(), stop=stop, on_event=hear)
    assert not [each for each in heard if isinstance(each, Step)]


@pytest.mark.usefixtures("folder")
def test_signals_are_handled_where_that_is_requested_and_possible() -> None:
    found: list[BaseException] = []

    def elsewhere() -> None:
        try:
            tenner.train(job(), handle_signals=True)
        except ValueError as error:
            found.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "main thread" in str(found[0])

    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    during: list[bool] = []

    def hear(event: Event) -> None:
        del event
        during.append(all(signal.getsignal(each) is not now for each, now in before.items()))
        if len(during) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(tenner.Stopped):
        tenner.train(job(), handle_signals=True, on_event=hear)
    assert during[0]
    assert {each: signal.getsignal(each) for each in before} == before


@pytest.mark.long
@pytest.mark.usefixtures("folder")
def test_two_threads_train_at_once_and_leave_signals_and_output_alone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    results: dict[str, tenner.Result] = {}
    handlers: list[bool] = []

    def hear(event: Event) -> None:
        del event
        handlers.append({each: signal.getsignal(each) for each in before} == before)

    def work(name: str) -> None:
        results[name] = tenner.train(job(output_name=name), on_event=hear)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "other")]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert {name: each.state for name, each in results.items()} == {
        "one": "delivered",
        "other": "delivered",
    }
    assert results["one"].num_steps == 6
    assert all(handlers)
    assert capfd.readouterr() == ("", "")
    again = tenner.train(job(output_name="one"))
    assert (again.state, again.num_steps) == ("delivered before", 0)


@pytest.mark.long
@pytest.mark.usefixtures("folder")
def test_a_stopped_run_and_one_whose_listener_fails_are_resumed() -> None:
    settings = job(max_train_steps=60, save_state_every_minutes=60)
    stop, heard = threading.Event(), list[Event]()

    def hear(event: Event) -> None:
        heard.append(event)
        if isinstance(event, Step) and event.step == 2:
            stop.set()

    with pytest.raises(tenner.Stopped):
        tenner.train(settings, stop=stop, on_event=hear)
    saved = [each.step for each in heard if isinstance(each, StateSaved)]
    assert saved

    first: list[int] = []
    mistake = LookupError("my own mistake")

    def fail(event: Event) -> None:
        if isinstance(event, Step):
            first.append(event.step)
            raise mistake

    with pytest.raises(LookupError, match="my own mistake") as caught:
        tenner.train(settings, on_event=fail)
    assert first == [saved[-1] + 1], "resumed, and not called again after it failed"
    assert isinstance(caught.value.__cause__, tenner.Stopped)
    result = tenner.train(settings)
    assert (result.state, result.num_steps) == ("delivered", 60)


def test_everything_that_is_wrong_is_raised_at_once(folder: Path) -> None:
    (folder / "job.toml").write_text('base_model = "tiny"\ndataset = "photoz"\n')
    with pytest.raises(tenner.DatasetError) as caught:
        tenner.check(folder / "job.toml")
    assert "photoz" in str(caught.value)
    with pytest.raises(tenner.SettingsError) as wrong:
        tenner.plan({"learning_rat": 1e-4, "max_train_steps": "many"})
    texts = [each.text for each in wrong.value.problems]
    assert any("did you mean 'learning_rate'" in each for each in texts)
    assert any("max_train_steps" in each for each in texts)
