"""Shared fixtures: small models, drawn faces on disk, one thread for bit-equal results."""

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # on small models threads only wait for each other


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - third-party code may still draw from it


@pytest.fixture(scope="session")
def faces_dir(tmp_path_factory):
    """A small built-in data set in the FERPlus layout."""
    from grefel_lib import synthetic

    return synthetic.write(tmp_path_factory.mktemp("data") / "FERPlus", images=400, seed=1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Decoded images go to a folder of the test session, not into data/cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GREFEL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def tiny(faces_dir, tmp_path):
    """A config that trains in seconds: two epochs of a tiny network on the small data set."""
    from grefel_lib.config import Config

    return Config.resolve(
        {
            "dataset": "ferplus",
            "data_dir": str(faces_dir),
            "profile": "demo",
            "image_size": 48,
            "epochs": 2,
            "batch_size": 32,
            "output_dir": str(tmp_path / "outputs"),
            "run_name": "tiny",
        }
    )
