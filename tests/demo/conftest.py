"""What trains the demo is tested where it can run: `pip install '.[demo-training]'`."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from mlx_maverick.demo import folder

collect_ignore = [] if find_spec("torch") else ["test_network.py"]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's folder before there are weights."""
    path = tmp_path_factory.mktemp("demo") / "model"
    folder.write(path)
    return path
