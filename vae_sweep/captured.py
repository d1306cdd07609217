"""A step as a CUDA graph: one launch for all of its kernels."""

from collections.abc import Callable

import torch

EAGER = 3  # calls before the capture: libraries choose algorithms, optimizers make state


class Captured:
    """Calls `step` as it is at first, then replays what one call launched.

    `step` must read and write the same memory at every call and never wait for the
    device. Everything runs on the current stream.
    """

    def __init__(self, step: Callable[[], None]):
        self.step, self.calls = step, 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self.graph is not None:
            self.graph.replay()
        elif self.calls < EAGER:
            self._aside()
        else:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):  # launches nothing
                self.step()
            self.graph.replay()
        self.calls += 1

    def _aside(self) -> None:
        """On a stream of its own, as a capture wants it before."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self.step()
        torch.cuda.current_stream().wait_stream(aside)
