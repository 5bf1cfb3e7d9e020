"""What a command says, and its standard streams as they come: of any encoding, closed, full, left."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterable
from typing import Any

from django.core.management.base import BaseCommand, CommandError, OutputWrapper

from django_push.management.stopping import INTERRUPTED


class _Nowhere(io.TextIOBase):
    """A stream that takes everything and keeps nothing."""

    def write(self, text: str) -> int:
        return len(text)


class Quiet:
    """A stream that goes on without whoever reads it; ``lost`` is why nothing is written any more.

    None, as Python has a stream that was closed before the start, is a stream that nobody wants to read.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = _Nowhere() if stream is None else stream
        self.lost: Exception | None = None

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            return self.write(text.encode("ascii", "backslashreplace").decode("ascii"))
        except (OSError, ValueError) as error:
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        """Let what is in the buffer go nowhere: at exit Python would fail over it, with a code of its own."""
        self.lost = self.lost or error
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if (number := self._stream.fileno()) in (1, 2):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, number)
                os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def why_lost(error: Exception) -> str:
    """Return in words why a stream is lost."""
    if isinstance(error, BrokenPipeError):
        return "Nobody reads the output any more."
    reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    return f"The output cannot be written ({reason})."


class SteadyCommand(BaseCommand):
    """A command whose work hangs neither on its output's encoding nor on somebody who reads it."""

    def __init__(self, stdout: Any = None, stderr: Any = None, **options: Any) -> None:
        streams: Any = Quiet(stdout or sys.stdout), Quiet(stderr or sys.stderr)
        super().__init__(*streams, **options)

    def run_from_argv(self, argv: list[str]) -> None:
        _tolerate()
        super().run_from_argv(argv)

    def print_help(self, prog_name: str, subcommand: str) -> None:
        _tolerate()
        super().print_help(prog_name, subcommand)

    def execute(self, *args: Any, **options: Any) -> str | None:
        given = {name: Quiet(options[name]) for name in ("stdout", "stderr") if options.get(name)}
        return super().execute(*args, **options | given)

    @property
    def lost(self) -> Exception | None:
        """Why one of the streams is lost; None if neither is, as far as they were written to."""
        found = (getattr(stream, "lost", None) for stream in (self.stdout, self.stderr))
        return next(filter(None, found), None)


def _tolerate() -> None:
    """Let Python's own streams, to which argparse writes the help, spell out what they cannot encode."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class TalkingCommand(SteadyCommand):
    """A command that says what it does, or with ``--json`` one document, and asks unless ``--no-input``."""

    options: dict[str, Any]

    @property
    def _out(self) -> OutputWrapper:
        """Where words go: not among the JSON."""
        return self.stderr if self.options["json"] else self.stdout

    def _say(self, line: str) -> None:
        self._out.write(line, style_func=str)
        self._out.flush()

    def _tell(self, lines: Iterable[str]) -> None:
        if not self.options["json"]:
            for line in lines:
                self._say(line)

    def _put(self, value: object) -> None:
        if self.options["json"]:
            self.stdout.write(json.dumps(value, default=str))
            self.stdout.flush()

    def _check_heard(self, otherwise: str) -> None:
        """Refuse to go ahead with what nobody has been told of. Raises CommandError."""
        if self.lost is not None:
            raise CommandError(f"{why_lost(self.lost)} {otherwise}")

    def _ask_if_asked(self, question: str) -> None:
        if self.options["interactive"]:
            self._ask(question, "Nothing was changed.")

    def _ask(self, question: str, otherwise: str) -> None:
        """Return if the answer is yes. Raises CommandError."""
        if sys.stdin is None or not sys.stdin.isatty():
            raise CommandError(
                f"{otherwise} There is no terminal to ask at: give --no-input to go ahead unasked."
            )
        try:
            self._out.write(f"{question} [y/N] ", ending="", style_func=str)
            self._out.flush()
            self._check_heard(otherwise)
            answer = sys.stdin.readline()
        except KeyboardInterrupt:
            self._say("")
            raise CommandError(otherwise, returncode=INTERRUPTED) from None
        if answer.strip().lower() not in ("y", "yes"):
            raise CommandError(otherwise)
