"""Fixtures and the hypothesis profile of the whole suite."""

import shutil

import pytest
from hypothesis import HealthCheck, settings
from strategies import SAMPLE, SAMPLE_TIERS, make_store

import sharkstore

settings.register_profile(
    "sharkstore",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("sharkstore")


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    """Path of a store of `SAMPLE`; nobody writes to it."""
    return make_store(tmp_path_factory.mktemp("sample"), SAMPLE, tiers=SAMPLE_TIERS)


@pytest.fixture
def store(sample):
    """The sample, open."""
    with sharkstore.open(sample) as opened:
        yield opened


@pytest.fixture
def copied(sample, tmp_path):
    """Path of a copy of the sample, to be damaged."""
    return shutil.copytree(sample, tmp_path / "copied.shark")
