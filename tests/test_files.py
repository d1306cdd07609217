import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from vae_sweep import files
from vae_sweep.files import (
    clock,
    create,
    leftovers,
    replace,
    temporary_name,
    write_atomically,
)


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


def test_what_is_left_over_is_told_from_other_files(tmp_path):
    for name in (".lock", "metrics.csv", ".hydra"):
        (tmp_path / name).write_text("")
    left = temporary_name(tmp_path / "metrics.csv")
    left.write_text("half")
    assert leftovers(tmp_path) == [left]


def test_a_file_is_created_once(way, tmp_path):
    assert create(tmp_path / "a", b"first", sync=True)
    assert not create(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    with pytest.raises(FileNotFoundError):
        create(tmp_path / "nowhere" / "a", b"")


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOENT])
def test_a_file_is_created_once_where_there_are_no_links(tmp_path, monkeypatch, code):
    def refuse(*_, **__):
        raise OSError(code, "no links here")

    monkeypatch.setattr(files.os, "link", refuse)
    assert create(tmp_path / "a", b"first")
    assert not create(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_link_whose_answer_was_lost_is_known_by_its_count(tmp_path, monkeypatch):
    """NFS then asks again, and hears that the name is there."""
    real = os.link

    def twice(source, path, **options):
        real(source, path, **options)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    monkeypatch.setattr(files.os, "link", twice)
    assert create(tmp_path / "a", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_clock_is_that_of_files_and_leaves_none(way, tmp_path):
    before = time.time()
    assert before - 1 < clock(tmp_path) < time.time() + 1
    assert list(tmp_path.iterdir()) == []


def test_without_links_to_unnamed_files_the_named_way_serves(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOENT, "no /proc")

    monkeypatch.setattr(files.os, "link", refuse)
    write_atomically(tmp_path / "a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x"
