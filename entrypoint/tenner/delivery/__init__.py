"""Delivery: bring the files of a run to S3, the Hugging Face Hub or a folder, and verify them."""

from tenner.delivery.check import check_destinations
from tenner.delivery.deliver import Delivered, DeliveredTo, deliver
from tenner.delivery.destination import Destination, parse_destination, parse_destinations
from tenner.delivery.manifest import MANIFEST_NAME, Manifest, make_manifest, read_manifest
from tenner.delivery.sealing import DeliveredFile, SealedFile

__all__ = [
    "MANIFEST_NAME",
    "Delivered",
    "DeliveredFile",
    "DeliveredTo",
    "Destination",
    "Manifest",
    "SealedFile",
    "check_destinations",
    "deliver",
    "make_manifest",
    "parse_destination",
    "parse_destinations",
    "read_manifest",
]
