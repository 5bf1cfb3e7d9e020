"""``manage.py push_emulator``: the providers on this machine, for development."""

from __future__ import annotations

import argparse
import threading
from datetime import datetime
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_push.emulator import Emulator, Faults, start_emulator
from django_push.emulator.faults import parse


class Command(BaseCommand):
    help = "Answers as Expo, GCM and FCM v1 do, on this machine, and shows what was pushed."
    requires_system_checks = ()  # it must run while the settings are still wrong

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=_port, default=8900, help="Default 8900; 0 takes a free one.")
        parser.add_argument("--host", default="127.0.0.1", help="A loopback address (default 127.0.0.1).")
        parser.add_argument(
            "--receipt-delay",
            type=_seconds,
            default=0.0,
            metavar="SECONDS",
            help="How long Expo's receipts take to be ready (default 0).",
        )
        parser.add_argument(
            "--fault",
            type=_fault,
            action="append",
            default=[],
            dest="faults",
            metavar="KIND[:SHARE]",
            help="Let a share of the pushes fail so. Repeatable; those without a share have 0.2 together.",
        )
        parser.add_argument(
            "--fault-seed",
            type=_seed,
            metavar="N",
            help="Let the same requests in the same order fail again.",
        )
        parser.add_argument(
            "--latency",
            type=_seconds,
            default=0.0,
            metavar="SECONDS",
            help="Answer so much later (default 0).",
        )
        parser.add_argument("--quiet", action="store_true", help="Do not log the requests.")

    def handle(
        self,
        *,
        host: str,
        port: int,
        receipt_delay: float,
        faults: list[str],
        fault_seed: int | None,
        latency: float,
        quiet: bool,
        **options: Any,
    ) -> None:
        try:
            chosen = Faults(kinds=faults, seed=fault_seed)
        except ValueError as error:
            raise CommandError(f"--fault: {error}.") from None
        try:
            emulator = start_emulator(
                host=host,
                port=port,
                receipt_delay=receipt_delay,
                faults=chosen,
                latency=latency,
                log=None if quiet else self._log,
            )
        except ImproperlyConfigured:
            raise CommandError("--host must be 127.0.0.1, localhost or ::1.") from None
        except OSError as error:
            raise CommandError(
                f"Cannot listen on {host}:{port}: {error.strerror or error}. Is one running? Try --port 0."
            ) from None
        with emulator:
            try:
                self._serve(emulator)
            except KeyboardInterrupt:
                self.stdout.write("\nStopped.")

    def _serve(self, emulator: Emulator) -> None:
        self.stdout.write(f"Push emulator, with an inbox at {emulator.url}/")
        self.stdout.write(f'In the settings: PUSH_EMULATOR_HOST = "{emulator.host}"')
        if faults := str(emulator.state.faults):
            self.stdout.write(f"Faults: {faults}")
        self.stdout.write("Quit with Control-C.")
        wait()

    def _log(self, line: str) -> None:
        self.stdout.write(f"{datetime.now().astimezone():%H:%M:%S} {line}")


def wait() -> None:
    """Wait until the process is told to end."""
    threading.Event().wait()


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return int(text)


def _fault(text: str) -> str:
    try:
        parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError("a seed is a whole number")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError("seconds are a number from 0 to 86400")
    return seconds
