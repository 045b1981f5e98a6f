"""Fixtures every test may use: the reference checkpoints, loaded once, and golden outputs."""

import shutil
import signal
from pathlib import Path

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, settings

from mlx_maverick.loading import load
from mlx_maverick.maverick import Maverick
from mlx_maverick.model import Llama4, load_model
from mlx_maverick.prompt import Prompt

from .golden import REFERENCE, Golden

# How long an example takes says something about the machine, and nothing about the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Ignored in a shell's background job, and in all that is started there: a test that presses Ctrl-C
# would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that the user of this machine has is read, or written to, by a test."""
    monkeypatch.setenv("MLX_MAVERICK_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="session")
def maverick_mini() -> Path:
    return REFERENCE / "maverick-mini"


@pytest.fixture(scope="session")
def scout_mini() -> Path:
    return REFERENCE / "scout-mini"


@pytest.fixture(scope="session", params=["maverick-mini", "scout-mini"])
def mini(request: pytest.FixtureRequest) -> Path:
    """Either checkpoint, one after the other."""
    return REFERENCE / str(request.param)


@pytest.fixture(scope="session")
def golden(mini: Path) -> Golden:
    return Golden(mini)


@pytest.fixture(scope="session")
def model(mini: Path) -> Llama4:
    """The network of `mini`, in float32."""
    return load_model(mini)


@pytest.fixture(scope="session")
def maverick(maverick_mini: Path) -> Maverick:
    """Maverick-mini behind the Python API."""
    return load(maverick_mini, context=4096)


@pytest.fixture(scope="session")
def demo() -> Maverick:
    """The trained model that comes with the package."""
    return load("demo", context=4096)


@pytest.fixture(scope="session")
def endless(maverick_mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maverick-mini that never ends its turn when decoding greedily: the rows of the stop
    tokens in lm_head are zero."""
    folder = tmp_path_factory.mktemp("endless") / "model"
    shutil.copytree(maverick_mini, folder, ignore=shutil.ignore_patterns("golden"))
    shard = folder / "model-00004-of-00004.safetensors"
    tensors = dict(mx.load(str(shard)))
    stop_ids = sorted(Prompt.from_folder(folder).stop_ids)
    tensors["language_model.lm_head.weight"][mx.array(stop_ids)] = 0
    mx.eval(tensors)  # before their file is replaced
    mx.save_safetensors(str(shard), tensors)
    return folder


@pytest.fixture
def copy(maverick_mini: Path, tmp_path: Path) -> Path:
    """A copy of maverick-mini to be damaged."""
    folder = tmp_path / "copy"
    shutil.copytree(maverick_mini, folder, ignore=shutil.ignore_patterns("golden"))
    return folder
