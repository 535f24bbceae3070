"""Opens the store of a destination, and the source of a dataset or base."""

from collections.abc import Mapping

from tenner.core.secrets import Secrets
from tenner.storage.destination import Destination
from tenner.storage.source import Source
from tenner.storage.store import Store


def open_store(destination: Destination, *, secrets: Secrets, env: Mapping[str, str]) -> Store:
    """The store of a destination. Its client library is imported here and not before.

    Raises PermanentError where the library is not installed or its settings are wrong.
    """
    match destination.kind:
        case "folder":
            from tenner.storage.folder import FolderStore

            return FolderStore(destination)
        case "s3":
            from tenner.storage.s3 import open_s3

            return open_s3(destination, secrets=secrets, env=env)
        case "gs" | "azure":
            from tenner.storage.cloud import open_cloud

            return open_cloud(destination, secrets=secrets, env=env)
        case "rclone":
            from tenner.storage.rclone import open_rclone

            return open_rclone(destination, secrets=secrets, env=env)
        case "hub":
            from tenner.storage.hub import open_hub

            return open_hub(destination, secrets=secrets, env=env)


def open_source(destination: Destination, *, secrets: Secrets, env: Mapping[str, str]) -> Source:
    """The bucket or remote to read from.

    Raises PermanentError where its library or program is not installed or its settings are wrong.
    """
    match destination.kind:
        case "s3":
            from tenner.storage.s3 import open_s3

            return open_s3(destination, secrets=secrets, env=env)
        case "gs" | "azure":
            from tenner.storage.cloud import open_cloud

            return open_cloud(destination, secrets=secrets, env=env)
        case "rclone":
            from tenner.storage.rclone import open_rclone

            return open_rclone(destination, secrets=secrets, env=env)
        case "hub" | "folder":
            raise ValueError(f"{destination} is fetched another way")
