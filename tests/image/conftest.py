"""A Docker engine and the image to be tested, whose name is in `TENNER_IMAGE`.

`make image-test` builds and tests `tenner:slim`. With the variable set a missing engine is an
error, never a skip.
"""

import io
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from docker.errors import DockerException
from docker.models.containers import Container

import docker

IMAGE = os.environ.get("TENNER_IMAGE", "")
QUIET_SECONDS = 600
"""So long may a container say nothing and compute nothing before it counts as stuck."""
REQUEST_SECONDS = 600

SHORT = (
    *("--base_model", "tiny", "--resolution", "64", "--min_bucket_reso", "64"),
    *("--batch_size", "2", "--network_dim", "4", "--optimizer_type", "AdamW"),
    *("--learning_rate", "1e-4"),
    *("--max_train_steps", "2", "--save_every_n_steps", "2", "--no_samples"),
)
"""A training that takes seconds."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.image)
            item.add_marker(pytest.mark.timeout(0))  # `Engine` waits on progress
            if not IMAGE:
                why = "THE IMAGE IS NOT TESTED: TENNER_IMAGE is not set (see `make image-test`)"
                item.add_marker(pytest.mark.skip(reason=why))


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A container that ended: its exit code, and all it said."""

    code: int
    output: str


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Starts containers of the image, without a network and without a GPU."""

    client: docker.DockerClient
    image: str = IMAGE

    def start(self, *command: str, **options: object) -> Container:
        options = {"network_mode": "none", **options}
        return self.client.containers.run(self.image, list(command), detach=True, **options)

    def run(self, *command: str, **options: object) -> Ended:
        """Run to the end. `options` are those of docker's `containers.run`."""
        container = self.start(*command, **options)
        try:
            return self.finish(container)
        finally:
            container.remove(force=True, v=True)

    def finish(self, container: Container) -> Ended:
        """Wait for the end of a container."""
        code = self._wait(container, lambda message, code: code is not None)
        assert code is not None
        return Ended(code=code, output=logs(container))

    def wait_for(self, container: Container, text: str) -> None:
        """Wait until the container has said `text`."""
        self._wait(container, lambda message, code: text in message)
        assert text in logs(container), logs(container)

    def owner_in(self, container: Container, path: str) -> str:
        """Who owns a file in a container that has ended, as `uid:gid`."""
        stream, _ = container.get_archive(path)
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as packed:
            first = packed.getmembers()[0]
        return f"{first.uid}:{first.gid}"

    def _wait(self, container: Container, reached: Callable[[str, int | None], bool]) -> int | None:
        """Wait as long as the container says or computes something, however slow the machine is.
        Returns its exit code once it has ended."""
        seen, since = ("", 0), time.monotonic()
        while True:
            container.reload()
            ended = container.status in ("exited", "dead")
            code = int(container.attrs["State"]["ExitCode"]) if ended else None
            text = logs(container)
            if ended or reached(text, code):
                return code
            now = (text, cpu_seconds(container))
            if now != seen:
                seen, since = now, time.monotonic()
            assert time.monotonic() - since < QUIET_SECONDS, f"stuck: {text}"
            time.sleep(0.2)

    @property
    def labels(self) -> dict[str, str]:
        return self.client.images.get(IMAGE).labels


def logs(container: Container) -> str:
    return container.logs().decode("utf-8", errors="replace")


def cpu_seconds(container: Container) -> int:
    """What all processes of a container have computed so far; 0 where the engine cannot tell."""
    try:
        found = container.stats(stream=False, one_shot=True)
        return round(found["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9)
    except (DockerException, KeyError):
        return 0


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    try:
        client = docker.from_env(timeout=REQUEST_SECONDS)
        client.ping()
    except DockerException as error:
        pytest.fail(f"TENNER_IMAGE is set, but no Docker engine answers: {error}")
    yield Engine(client=client)
    client.close()


@pytest.fixture(scope="session")
def concept() -> Path:
    """The demo's twenty captioned pictures."""
    from tenner.base.tiny import concept_dir

    return concept_dir()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that any user may enter."""
    path = Path(tempfile.mkdtemp(prefix="tenner-image-"))
    path.chmod(0o755)
    yield path
    with suppress(PermissionError):  # files of other users, where this is not root
        shutil.rmtree(path)
