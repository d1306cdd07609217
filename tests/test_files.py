import errno
import os
import signal
import subprocess
import sys

import pytest

from vae_sweep import files
from vae_sweep.files import remove_leftovers, replace, temporary_name, write_atomically


@pytest.fixture(params=["unnamed", "named"])
def way(request, monkeypatch):
    """Both ways to replace a file, whatever this file system has."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)


@pytest.mark.usefixtures("way")
def test_a_folder_in_the_way_is_put_aside(tmp_path):
    path = tmp_path / "overview.png"
    for k in (1, 2):
        path.mkdir()
        (path / "inside").write_text(f"kept {k}")
        write_atomically(path, b"new")
        assert path.read_bytes() == b"new"
        assert (tmp_path / f"overview.png.old-{k}/inside").read_text() == f"kept {k}"
        path.unlink()


def test_content_replaces_content_and_nothing_else_is_left(tmp_path, way):
    path = tmp_path / "a.bin"
    for content in (b"first", b"", b"third" * 1000):
        write_atomically(path, content)
        assert path.read_bytes() == content
        assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_permissions_follow_the_umask_as_those_of_other_files(tmp_path, way):
    write_atomically(tmp_path / "a", b"")
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_failed_write_leaves_the_old_content_alone(tmp_path, way):
    path = tmp_path / "a"
    write_atomically(path, b"old")

    def fail(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as error:
        replace(path, fail)
    assert error.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_missing_folder_is_an_error_that_names_the_file(tmp_path, way):
    with pytest.raises(FileNotFoundError) as error:
        write_atomically(tmp_path / "no" / "a", b"x")
    assert error.value.filename == str(tmp_path / "no" / "a")


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="no unnamed files here")
def test_a_process_killed_while_it_writes_leaves_nothing(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from vae_sweep.files import replace\n"
        "def write(file):\n"
        "    file.write(b'half' * 10_000)\n"
        "    file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "replace(Path(sys.argv[1]), write)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")])
    assert killed.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_leftovers_are_removed_and_other_files_are_not(tmp_path):
    for name in (".lock", "metrics.csv", ".hydra"):
        (tmp_path / name).write_text("")
    temporary_name(tmp_path / "metrics.csv").write_text("half")
    remove_leftovers(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {".lock", "metrics.csv", ".hydra"}


def test_without_links_to_unnamed_files_the_named_way_serves(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOENT, "no /proc")

    monkeypatch.setattr(files.os, "link", refuse)
    write_atomically(tmp_path / "a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x"
