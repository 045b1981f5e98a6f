"""Copying, and the picture in the clipboard: when macOS's is used, and how."""

import shutil
import stat
from pathlib import Path

import pytest

from mlx_maverick.errors import MaverickError, UsageError
from mlx_maverick.tui import clipboard

# What `osascript -e 'clipboard info'` prints after a screenshot, after "Copy" on a file in the
# Finder, after copying a picture in an old program, and after copying text.
SCREENSHOT = "«class PNGf», 43511, «class 8BPS», 106974, GIF picture, 8113, TIFF picture, 112294"
FILE = "«class furl», 59, «class icns», 103840, TIFF picture, 66048, «class utf8», 7, string, 7"
TIFF = "TIFF picture, 9640988"
TEXT = "«class utf8», 5, «class ut16», 12, string, 5, Unicode text, 10"


def test_only_on_a_mac_one_sits_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert clipboard.has_pasteboard({}, "darwin")
    assert not clipboard.has_pasteboard({}, "linux")
    assert not clipboard.has_pasteboard({"SSH_CONNECTION": "1 2 3 4"}, "darwin")
    assert not clipboard.has_pasteboard({"SSH_TTY": "/dev/ttys1"}, "darwin")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not clipboard.has_pasteboard({}, "darwin")


def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, body: str) -> None:
    """A program of that name, and no other, in the PATH."""
    path = tmp_path / name
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize("status", [0, 1])
def test_pbcopy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    tool(tmp_path, monkeypatch, "pbcopy", f'/bin/cat > "{tmp_path}/copied"\nexit {status}')
    assert clipboard.pbcopy("é\n漢") is (status == 0)
    assert (tmp_path / "copied").read_text(encoding="utf-8") == "é\n漢"


def test_without_pbcopy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not clipboard.pbcopy("x")


def test_copying_by_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(clipboard, "has_pasteboard", lambda: False)
    assert clipboard.copy("a\ud800b", sent.append) == ""  # half a character breaks nothing
    assert clipboard.copy("ä" * 37_497, sent.append) == ""
    assert sent == ["a?b", "ä" * 37_497]
    assert "75.0 kB" in clipboard.copy("ä" * 37_498, sent.append)
    assert len(sent) == 3  # it is tried: some terminals take more


@pytest.mark.parametrize("works", [True, False])
def test_copying_on_a_mac(monkeypatch: pytest.MonkeyPatch, works: bool) -> None:
    sent: list[str] = []
    monkeypatch.setattr(clipboard, "has_pasteboard", lambda: True)
    monkeypatch.setattr(clipboard, "pbcopy", lambda text: works)
    assert clipboard.copy("x" * 100_000, sent.append) == ("" if works else clipboard_remark())
    assert len(sent) == (not works)


def clipboard_remark() -> str:
    return (
        "100.0 kB are more than many terminals take (75.0 kB); if pasting gives nothing, "
        "copy a part of it"
    )


class Recorded:
    """A clipboard that answers as a Mac's did, and writes `data` where it is told to."""

    def __init__(self, info: str, file: str = "", data: bytes = b"data", error: str = ""):
        self.info, self.file, self.data, self.error = info, file, data, error
        self.asked: list[str] = []

    def __call__(self, source: str, *arguments: str) -> str:
        self.asked.append(source)
        if source == "clipboard info":
            return self.info
        if "furl" in source:
            return self.file
        (path,) = arguments
        Path(path).write_bytes(self.data)
        if self.error:
            raise MaverickError(self.error)
        return ""

    def picture(self, folder: Path) -> Path | None:
        return clipboard.picture(folder, self, {}, "darwin")


def test_a_screenshot(tmp_path: Path) -> None:
    mac = Recorded(SCREENSHOT)
    folder = tmp_path / "not there yet"
    first, second = mac.picture(folder), mac.picture(folder)
    assert first is not None
    assert first != second
    assert first.parent == folder
    assert first.suffix == ".png"
    assert first.read_bytes() == b"data"
    assert "«class PNGf»" in mac.asked[1]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(first.stat().st_mode) == 0o600


def test_an_older_format(tmp_path: Path) -> None:
    mac = Recorded(TIFF)
    file = mac.picture(tmp_path)
    assert file is not None
    assert file.suffix == ".tiff"
    assert "the clipboard as TIFF picture" in mac.asked[1]


def test_a_file_of_the_finder(tmp_path: Path) -> None:
    """The file itself, not its icon."""
    mac = Recorded(FILE, file="/Users/me/my cat.HEIC")
    assert mac.picture(tmp_path) == Path("/Users/me/my cat.HEIC")
    assert Recorded(FILE, file="/Users/me/notes.txt").picture(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("info", [TEXT, ""])
def test_no_picture(tmp_path: Path, info: str) -> None:
    assert Recorded(info).picture(tmp_path / "none") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "mac", [Recorded(SCREENSHOT, data=b""), Recorded(SCREENSHOT, error="error -1700")]
)
def test_nothing_is_left_of_a_failure(tmp_path: Path, mac: Recorded) -> None:
    with pytest.raises(MaverickError, match="empty picture|error -1700"):
        mac.picture(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MaverickError, match="cannot be saved"):
        Recorded(SCREENSHOT).picture(tmp_path / "file")


@pytest.mark.parametrize(
    ("environ", "platform", "reason"),
    [
        ({"SSH_CONNECTION": "1 2 3 4"}, "darwin", "over SSH"),
        ({"SSH_TTY": "/dev/pts/1"}, "linux", "over SSH"),
        ({}, "linux", "on a Mac only"),
    ],
)
def test_where_there_is_no_clipboard(
    tmp_path: Path, environ: dict[str, str], platform: str, reason: str
) -> None:
    mac = Recorded(SCREENSHOT)
    with pytest.raises(UsageError, match=reason):
        clipboard.picture(tmp_path, mac, environ, platform)
    assert mac.asked == []


def test_osascript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool(tmp_path, monkeypatch, "osascript", 'printf "%s|" "$@"; echo')
    assert clipboard.osascript("«a»\nb", "/a path") == "-e|«a»\nb|/a path|"
    tool(tmp_path, monkeypatch, "osascript", "echo '0:1: error: bad\n (-1700)' >&2; exit 1")
    with pytest.raises(MaverickError, match=r"cannot be read: 0:1: error: bad \(-1700\);"):
        clipboard.osascript("x")
    monkeypatch.setattr(clipboard, "SCRIPT_SECONDS", 0.05)
    tool(tmp_path, monkeypatch, "osascript", "exec /bin/sleep 60")
    with pytest.raises(MaverickError, match="did not answer"):
        clipboard.osascript("x")
    (tmp_path / "osascript").unlink()
    with pytest.raises(MaverickError, match="cannot be started"):
        clipboard.osascript("x")


def test_a_whole_one_by_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Path
) -> None:
    """With a stand-in for osascript that does what the script asks for."""
    body = f"""case "$2" in
    "clipboard info") echo "{SCREENSHOT}" ;;
    *"as «class PNGf»"*"POSIX file (item 1 of argv)"*) /bin/cp "{picture}" "$3" ;;
esac"""
    tool(tmp_path, monkeypatch, "osascript", body)
    file = clipboard.picture(tmp_path / "pictures", environ={}, platform="darwin")
    assert file is not None
    assert file.read_bytes() == picture.read_bytes()
