"""What SIGTERM, SIGINT and SIGUSR2 do: training writes checkpoints and ends, all else ends
at once. SIGUSR2 is how Slurm says, where a job asks for it, that its time or its machine is
about to be taken away.

A command runs in `handled`. There a signal raises Stopped in the main thread, or, where the
main thread has `deferred` it, waits until training asks `requested`. A thread hears of the
signal too: where the main thread sits in a long computation, it ends the process after
GRACE_S.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

GRACE_S = 3.5  # seconds that checkpoints may take
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
PDEATHSIG = 1  # of prctl: the signal that a process gets when its parent ends
SHOW_CURSOR = "\x1b[?25h"  # a live display hides it

_received: signal.Signals | None = None
_deferred = False


class Stopped(BaseException):
    """The user, or the machine, ended the command by `signum`."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signal.Signals(signum)

    @property
    def exit_code(self) -> int:
        """As a shell says of a process that a signal ended: 143 or 130."""
        return 128 + self.signum

    def __str__(self) -> str:
        word = "interrupted" if self.signum == signal.SIGINT else "terminated"
        return f"{word} by {self.signum.name}; the same command goes on from here"


def install() -> None:
    """Handles SIGNALS in this process. Call it in the main thread."""
    heard, told = os.pipe()
    os.set_blocking(told, False)
    for signum in SIGNALS:
        signal.signal(signum, _handle)
    # written by C code at once, whatever the main thread does
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(heard,), name="stop", daemon=True).start()


@contextmanager
def handled() -> Iterator[None]:
    """A command's life: a signal ends it with a line and its code. Once the command is done
    signals change nothing, as the interpreter would die of them while it ends."""
    try:
        install()
        try:
            with undisguised():
                yield
        finally:
            for signum in SIGNALS:
                signal.signal(signum, signal.SIG_IGN)
    except Stopped as stopped:
        end(stopped)


@contextmanager
def borrowed() -> Iterator[None]:
    """A call's life within a user's process, whose handlers are put back at its end.

    Meanwhile a signal ends training with checkpoints. Then SIGINT raises KeyboardInterrupt,
    at once where it comes twice, and the others do what they would have done before: a
    task's SIGUSR2 queues it again. Signals that the process ignores stay ignored, and
    outside the main thread, which alone can handle them, nothing changes.
    """
    global _received
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {signum: signal.getsignal(signum) for signum in SIGNALS}
    before = {k: v for k, v in handlers.items() if v not in (signal.SIG_IGN, None)}
    stopped: Stopped | None = None
    for signum in before:
        signal.signal(signum, _handle_within)
    try:
        with undisguised():
            yield
    except Stopped as error:
        stopped = error
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        last, _received = _received, None
    if stopped is not None:
        stopped = Stopped(last or stopped.signum)
        if stopped.signum == signal.SIGINT:
            raise KeyboardInterrupt
        signal.raise_signal(stopped.signum)
        sys.exit(stopped.exit_code)  # the handler of the process returned


def requested() -> bool:
    """Whether a signal waits for training to end."""
    return _received is not None


def check() -> None:
    """Raises Stopped where a signal was received."""
    if _received is not None:
        raise Stopped(_received)


@contextmanager
def undisguised() -> Iterator[None]:
    """Raises Stopped, once a signal was received, in place of any other error: libraries
    that are interrupted half-way raise errors of their own while they clean up."""
    try:
        yield
    except BaseException:
        check()
        raise


@contextmanager
def deferred() -> Iterator[None]:
    """Meanwhile a signal raises nothing: what runs here asks `requested` often.

    Raises Stopped at the end where one was received.
    """
    global _deferred
    before, _deferred = _deferred, True
    try:
        check()
        yield
    finally:
        _deferred = before
    check()


def end(stopped: Stopped) -> None:
    """Says how to go on and ends the process, without waiting for threads or for W&B."""
    with suppress(Exception):
        sys.stdout.flush()
    cursor = SHOW_CURSOR if sys.stderr is not None and sys.stderr.isatty() else ""
    with suppress(OSError):
        os.write(2, f"{cursor}{stopped}\n".encode())
    os._exit(stopped.exit_code)


def _handle(signum: int, _: object) -> None:
    global _received
    first = _received is None  # `timeout` and terminals may send two
    if first or signum == signal.SIGUSR2:  # Slurm may send SIGTERM before
        _received = signal.Signals(signum)
    if first and not _deferred:
        raise Stopped(signum)


def _handle_within(signum: int, frame: object) -> None:
    if _received == signum == signal.SIGINT:
        raise KeyboardInterrupt
    _handle(signum, frame)


def _watch(heard: int) -> None:
    while True:
        for signum in os.read(heard, 64):
            if signum in SIGNALS:
                threading.Event().wait(GRACE_S)
                end(Stopped(signum))


def end_with(parent: int) -> None:
    """Ends this process when the process `parent` ends: the kernel does, or a thread."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before
            os._exit(1)
        return

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()


@contextmanager
def blocked() -> Iterator[None]:
    """Meanwhile signals wait, and processes that start here never get them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
