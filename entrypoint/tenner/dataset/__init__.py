"""The dataset: listed, read, judged and cleaned before anything is trained on it.

Its names are found when they are requested: the decoding processes need none of them, and start in
half the time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenner.dataset.inspection import inspect_dataset, judge_dataset
    from tenner.dataset.items import Dataset, ImageItem
    from tenner.dataset.request import DatasetRequest
    from tenner.settings.subsets import SubsetRequest

__all__ = [
    "Dataset",
    "DatasetRequest",
    "ImageItem",
    "SubsetRequest",
    "inspect_dataset",
    "judge_dataset",
]

_ROOMS = {
    "Dataset": "items",
    "DatasetRequest": "request",
    "ImageItem": "items",
    "SubsetRequest": "request",
    "inspect_dataset": "inspection",
    "judge_dataset": "inspection",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"tenner.dataset.{_ROOMS[name]}"), name)
