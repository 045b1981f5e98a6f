"""The process's beginning and end: signals at any moment, streams that are not there."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
{before}
from mlx_maverick.cli.entry import entry
entry()
"""


def run(before: str, *args: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD.format(before=before), *args],
        capture_output=True,
        text=True,
        timeout=60,
        **options,  # type: ignore[call-overload]
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["mlx_maverick.cli.main", "mlx_maverick.cli.show", "mlx.core"])
def test_a_signal_in_the_middle_of_an_import(
    maverick_mini: Path, number: signal.Signals, module: str
) -> None:
    """It comes when the module begins to be imported, also a native one."""
    before = f"""
import importlib.abc, os, sys, time
class Send(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), {int(number)})
            time.sleep(0)  # here Python handles it
sys.meta_path.insert(0, Send())
"""
    done = run(before, "show", str(maverick_mini))
    assert done.returncode == 130
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert done.stderr == f"mlx-maverick: {word}\n"


def test_a_signal_after_the_work_is_no_failure(maverick_mini: Path) -> None:
    before = "import atexit, os, signal\natexit.register(os.kill, os.getpid(), signal.SIGTERM)"
    done = run(before, "show", str(maverick_mini))
    assert done.returncode == 0
    assert "routed experts" in done.stdout
    assert done.stderr == ""


def test_interrupts_cannot_be_swallowed() -> None:
    """`except Exception`, as libraries have it, lets them pass."""
    from mlx_maverick.cli.entry import _interrupt

    with pytest.raises(KeyboardInterrupt, match="terminated"):
        _interrupt(signal.SIGTERM, None)
    with pytest.raises(KeyboardInterrupt, match="interrupted"):
        _interrupt(signal.SIGINT, None)


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_closed_streams(maverick_mini: Path, closed: int) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}>&-', "sh", sys.executable, "-m", "mlx_maverick", "show",
         str(maverick_mini)], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert ("routed experts" in done.stdout) == (closed != 1)


def test_a_signal_that_was_ignored_stays_ignored(maverick_mini: Path) -> None:
    """nohup, and background jobs of scripts."""
    code = (
        "import os, signal; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "from mlx_maverick.cli.entry import entry;"
        "import mlx_maverick.cli.show as s; run = s.run\n"
        "def sent(args):\n    os.kill(os.getpid(), signal.SIGINT); return run(args)\n"
        "s.run = sent; entry()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "show", str(maverick_mini)],
        capture_output=True, text=True, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0
