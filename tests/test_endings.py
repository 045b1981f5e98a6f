"""How a process ends while replies are on their way: soon, and with its own exit code."""

import subprocess
import sys

import pytest

from .golden import REFERENCE

BEFORE = f"""
import os, sys, threading
from mlx_maverick import Token, load
m = load({str(REFERENCE / "maverick-mini")!r}, context=4096)
long = "word " * 1500
begun = threading.Event()
def read(text="Go on"):
    while True:
        for _ in m.stream(text, temperature=0):
            begun.set()
"""
ENDINGS = {
    "half-read": ("s = m.stream('Go on'); [next(s) for _ in range(4)]", 0),
    "half-read, with a code": ("s = m.stream('Go on'); next(s); next(s); sys.exit(7)", 7),
    "half-read, with an error": ("s = m.stream('Go on'); next(s); next(s); 1 / 0", 1),
    "read by a thread that nobody waits for": (
        "threading.Thread(target=read, daemon=True).start(); begun.wait()", 0,
    ),
    "by several, in prefill": (
        "for _ in range(3): threading.Thread(target=read, args=[long], daemon=True).start()\n"
        "begun.wait(); sys.exit(7)", 7,
    ),
    "loaded by a thread that nobody waits for": (
        "layers = threading.Event()\n"
        "threading.Thread(target=lambda: load(m_folder, progress=lambda *_: layers.set()), "
        "daemon=True).start(); layers.wait()", 0,
    ),
    "half-read in asyncio": (
        "import asyncio\n"
        "async def main():\n"
        "    async for event in m.stream('Go on'):\n"
        "        if isinstance(event, Token): return\n"
        "asyncio.run(main())", 0,
    ),
    "cancelled in asyncio, in prefill": (
        "import asyncio\n"
        "async def read():\n"
        "    async for event in m.stream(long): begun.set()\n"
        "async def main():\n"
        "    task = asyncio.create_task(read())\n"
        "    while not begun.is_set(): await asyncio.sleep(0)\n"
        "    task.cancel()\n"
        "asyncio.run(main())", 0,
    ),
    "saved at exit, by what was registered first": (
        "", 0,
    ),
}  # fmt: skip
SAVED = """
import atexit
atexit.register(lambda: print(m.session().length, flush=True))
"""


def run(script: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_process_ends_with_its_own_code(ending: str) -> None:
    script, code = ENDINGS[ending]
    before = BEFORE + f"m_folder = {str(REFERENCE / 'scout-mini')!r}\n"
    if not script:
        before = SAVED + before
    done = run(before + script)
    # A process that aborts has a negative code, and says so.
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == (0 if code != 1 else done.stderr.count("\n"))
    assert done.stdout == ("" if script else "0\n")


def test_a_forked_process_ends_and_is_told_why_it_cannot_compute() -> None:
    done = run(
        BEFORE + "from mlx_maverick import MaverickError\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try: m.generate('Hi')\n"
        "    except MaverickError as e: print(e, flush=True)\n"
        "    sys.exit(5)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "print(m.generate('Hi', max_tokens=1).stats.new_tokens)\n"
    )
    assert (done.returncode, done.stderr) == (0, "")
    why, code, tokens = done.stdout.splitlines()
    assert "spawn" in why
    assert (code, tokens) == ("5", "1")
