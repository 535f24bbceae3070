"""A Docker engine and the image to be tested, whose name is in `TENNER_IMAGE`.

`make image-test` builds and tests `tenner:slim`. With the variable set a missing engine is an
error, never a skip.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from docker.errors import DockerException
from docker.models.containers import Container

import docker

IMAGE = os.environ.get("TENNER_IMAGE", "")
TIMEOUT_SECONDS = 280

SHORT = (
    *("--base_model", "tiny", "--resolution", "64", "--min_bucket_reso", "64"),
    *("--batch_size", "2", "--network_dim", "4", "--optimizer_type", "AdamW"),
    *("--max_train_steps", "2", "--save_every_n_steps", "2", "--no_samples"),
)
"""A training that takes seconds."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.image)
            if not IMAGE:
                why = "THE IMAGE IS NOT TESTED: TENNER_IMAGE is not set (see `make image-test`)"
                item.add_marker(pytest.mark.skip(reason=why))


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A container that ended: its exit code, and all it said."""

    code: int
    said: str


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Starts containers of the image, without a network and without a GPU."""

    client: docker.DockerClient

    def start(self, *command: str, **options: object) -> Container:
        options = {"network_mode": "none", **options}
        return self.client.containers.run(IMAGE, list(command), detach=True, **options)

    def run(self, *command: str, **options: object) -> Ended:
        """Run to the end. `options` are those of docker's `containers.run`."""
        container = self.start(*command, **options)
        try:
            code = container.wait(timeout=TIMEOUT_SECONDS)["StatusCode"]
            said = container.logs().decode("utf-8", errors="replace")
        finally:
            container.remove(force=True, v=True)
        return Ended(code=code, said=said)

    @property
    def labels(self) -> dict[str, str]:
        return self.client.images.get(IMAGE).labels


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    try:
        client = docker.from_env(timeout=TIMEOUT_SECONDS)
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
    """A folder that containers may write to as any user."""
    path = Path(tempfile.mkdtemp(prefix="tenner-image-"))
    yield path
    with suppress(PermissionError):  # files of other users, where this is not root
        shutil.rmtree(path)
