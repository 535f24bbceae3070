"""The paths of all files of a run."""

from dataclasses import dataclass
from pathlib import Path

STATE_MARK = "state.json"
"""The file that an engine writes last into a state: without it a state is incomplete."""


@dataclass(frozen=True)
class RunDir:
    """The directory of one run: `<output_dir>/<output_name>/`."""

    path: Path

    @property
    def settings(self) -> Path:
        return self.path / "settings.toml"

    @property
    def shared_settings(self) -> Path:
        """The settings as they are delivered: without paths of this machine."""
        return self.path / "shared-settings.toml"

    @property
    def dataset(self) -> Path:
        return self.path / "dataset.json"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def job(self) -> Path:
        return self.path / "job.json"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def engine_log(self) -> Path:
        return self.path / "engine.log"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def state(self) -> Path:
        return self.path / "state"

    @property
    def tokenizers(self) -> Path:
        """CLIP's tokenizers, for bases and engines that bring none."""
        return self.path / "tokenizers"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def live(self) -> Path:
        """The parts of the page that change during the run, for its viewers."""
        return self.path / "live.json"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def delivered(self) -> Path:
        return self.path / "delivered.json"

    @property
    def stop_file(self) -> Path:
        return self.path / "STOP"

    def create(self) -> "RunDir":
        """Make the directory and its subfolders; existing ones stay as they are."""
        for folder in (self.path, self.checkpoints, self.state, self.samples):
            folder.mkdir(parents=True, exist_ok=True)
        return self
