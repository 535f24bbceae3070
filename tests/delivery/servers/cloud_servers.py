"""Counterparts of Google Cloud Storage and Azure Blob Storage as child processes on loopback."""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from servers.s3_servers import free_port, running

AZURITE = os.environ.get("AZURITE_PROGRAM") or shutil.which("azurite-blob")
"""Microsoft's own emulator (`npm install azurite`), where it is installed."""
_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Of the emulator's only account, as its documentation publishes it."""


@contextlib.contextmanager
def gcs_server(folder: Path, bucket: str) -> Iterator[dict[str, str]]:
    """gcp-storage-emulator, with a bucket; gives the environment in which gcsfs finds it."""
    port = free_port()
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--in-memory", "--default-bucket", bucket]
    with running(command, port, folder / "gcs.log"):
        yield {
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
            "LOG": str(folder / "gcs.log"),  # its requests, for tests
        }


@contextlib.contextmanager
def azure_server(folder: Path, container: str) -> Iterator[dict[str, str]]:
    """Azurite, with a container; gives the environment in which adlfs finds it."""
    from azure.storage.blob import BlobServiceClient

    assert AZURITE, "npm install azurite, and put its programs on PATH"
    port = free_port()
    command = [AZURITE, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent"]
    command += ["--location", str(folder), "--skipApiVersionCheck", "--disableTelemetry"]
    connection = (
        f"DefaultEndpointsProtocol=http;AccountName={_ACCOUNT};AccountKey={_KEY};"
        f"BlobEndpoint=http://127.0.0.1:{port}/{_ACCOUNT};"
    )
    with running(command, port, folder / "azurite.log"):
        with BlobServiceClient.from_connection_string(connection) as client:
            client.create_container(container)
        yield {"AZURE_STORAGE_CONNECTION_STRING": connection}


def rclone_remote(folder: Path) -> dict[str, str]:
    """A remote `there` of rclone over a local folder, as variables configure it: the files lie in
    `folder`, and the remote keeps no hashes of them."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RCLONE_CONFIG": os.devnull,
        "RCLONE_CONFIG_DISK_TYPE": "local",
        "RCLONE_CONFIG_THERE_TYPE": "alias",
        "RCLONE_CONFIG_THERE_REMOTE": f"disk:{folder}",
    }
