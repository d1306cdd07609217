"""What commands print to."""

from rich import console


class Console(console.Console):
    """Standard output, at least `least` columns wide where it is no terminal."""

    def __init__(self, least: int):
        super().__init__()
        if not self.is_terminal:
            self.width = max(self.width, least)  # a log file has no edge at 80

    def on_broken_pipe(self) -> None:
        """Leaves `... | head` to the command; rich would end the process with code 1."""
        raise BrokenPipeError
