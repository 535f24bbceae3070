"""The dataset: listed, read, judged and cleaned before anything is trained on it."""

from tenner.dataset.inspection import Dataset, ImageItem, inspect_dataset
from tenner.dataset.request import DatasetRequest, SubsetRequest

__all__ = ["Dataset", "DatasetRequest", "ImageItem", "SubsetRequest", "inspect_dataset"]
