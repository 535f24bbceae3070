"""Tiny random bases and pictures, made once for all tests here."""

from pathlib import Path

import pytest
import tiny_model

from tenner.core.train_job import TrainItem


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.make_base(tmp_path_factory.mktemp("sd1"))


@pytest.fixture(scope="session")
def base_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.make_base(tmp_path_factory.mktemp("sdxl"), "sdxl")


@pytest.fixture(scope="session")
def items(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainItem, ...]:
    return tiny_model.make_items(tmp_path_factory.mktemp("data"))
