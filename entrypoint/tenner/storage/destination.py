"""Where a run is delivered to: a bucket, a repo on the Hub, a remote of rclone, or a folder."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from tenner.core.messages import Message

Kind = Literal["s3", "hub", "folder", "gs", "azure", "rclone"]
SCHEMES = {"s3": "s3", "hub": "hf", "gs": "gs", "azure": "azure"}
"""How the address of each kind begins, where it has the form `scheme://root/prefix`."""


@dataclass(frozen=True, kw_only=True)
class Destination:
    """One bucket, repo, remote or folder to deliver to.

    `root` is the bucket, the container, the repo id, the remote's name or the folder; `prefix` is
    the folder inside it, without slashes at its ends. `notes` are the corrections of the address as
    it was written.
    """

    kind: Kind
    root: str
    prefix: str = ""
    required: bool = True
    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    addressing: Literal["path", "virtual"] | None = None
    link_seconds: int = 0
    private: bool = True
    revision: str = "main"
    notes: tuple[Message, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        if self.kind == "folder":
            return f"file://{self.root}"
        if self.kind == "rclone":
            return f"rclone:{self.root}:{self.prefix}"
        scheme = SCHEMES[self.kind]
        return f"{scheme}://{self.root}" + (f"/{self.prefix}" if self.prefix else "")

    def name_in_root(self, name: str) -> str:
        """The whole key or repo path of the file `name`."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def under(self, name: str) -> "Destination":
        """The folder `name` inside this destination."""
        if self.kind == "folder":
            return replace(self, root=str(Path(self.root) / name))
        return replace(self, prefix=self.name_in_root(name))

    def parent(self) -> "Destination":
        """The folder that this one is in."""
        return replace(self, prefix=self.prefix.rpartition("/")[0])
