"""Notes the signals that ask a process to stop, so that it stops where nothing is lost. Standard library only."""

import os
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopSignals:
    """Notes SIGTERM (a scheduler), SIGINT (Ctrl-C) and SIGHUP (a closed terminal) instead of obeying them.

    Args:
        announcement: Written to stderr at the first Ctrl-C.
        insisted: Called at every further Ctrl-C.

    Attributes:
        asked: The signal that came first; None until one comes.
    """

    def __init__(self, announcement: str, insisted: Callable[[], None]) -> None:
        self.asked: signal.Signals | None = None
        self._announcement, self._insisted, self._process = announcement, insisted, os.getpid()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Notes signals within the block; one that the process ignores (`nohup`, a job in the background) stays so."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        heard = {number: handler or signal.SIG_DFL for number, handler in before.items() if handler != signal.SIG_IGN}
        for number in heard:
            signal.signal(number, self._note)
        try:
            yield
        finally:
            for number, handler in heard.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            self._in_fork(number)
            return
        again, self.asked = self.asked is not None, self.asked or signal.Signals(number)
        if number == signal.SIGINT and again:
            self._insisted()
        elif number == signal.SIGINT:
            with suppress(OSError):
                os.write(2, f"dqo: {self._announcement}\n".encode())  # print may be what was interrupted
        elif number != signal.SIGTERM:
            _let_go_of_terminal()

    def _in_fork(self, number: int) -> None:
        """Leaves a forked helper, such as a data loader's worker, to its parent, which Ctrl-C reaches too."""
        if number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def _let_go_of_terminal() -> None:
    """Sends output nowhere where the terminal that it went to is gone: writing there would be an error."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
