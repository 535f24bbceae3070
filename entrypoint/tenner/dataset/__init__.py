"""The dataset: listed, read, judged and cleaned before anything is trained on it."""

from tenner.dataset.inspection import inspect_dataset
from tenner.dataset.items import Dataset, ImageItem, engine_items
from tenner.dataset.request import DatasetRequest, SubsetRequest

__all__ = [
    "Dataset",
    "DatasetRequest",
    "ImageItem",
    "SubsetRequest",
    "engine_items",
    "inspect_dataset",
]
