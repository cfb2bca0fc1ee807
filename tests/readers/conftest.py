"""Checkpoints that take processes to make, made once."""

import pytest
from distributed_checkpoints import save_all


@pytest.fixture(scope="session")
def distributed(tmp_path_factory):
    """Folder with all checkpoints of `distributed_checkpoints`; nobody writes to it."""
    return save_all(tmp_path_factory.mktemp("distributed"))
