"""A shop with tokens under two aliases, and a person at its terminal."""

import io
import json
import re
from collections import deque

import pytest
from django.core.management import CommandError, call_command
from django.utils.module_loading import import_string

from django_push.models import Broadcast
from tests.sending.conftest import make_tokens

LOCMEM = {"BACKEND": "django_push.backends.locmem.LocMemBackend"}


class Ran:
    """What a command has said, and its exit code."""

    def __init__(self, code, out, err, error):
        self.code, self.out, self.err, self.error = code, out, err, error

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def all(self):
        return f"{self.out}{self.err}{self.error}"


def run(*args):
    """Run a command as a shell would; errors are what it says last."""
    out, err = io.StringIO(), io.StringIO()
    try:
        call_command(*args, stdout=out, stderr=err)
    except CommandError as error:
        return Ran(error.returncode, out.getvalue(), err.getvalue(), str(error))
    return Ran(0, out.getvalue(), err.getvalue(), "")


def push(*args):
    return run("push_broadcast", *map(str, args))


def send(*args):
    """Send without a question."""
    return push("--title", "Hi", "--no-input", *args)


def latest():
    return Broadcast.objects.order_by("-pk").first()


class Person(io.StringIO):
    """Answers questions, once each: a string, an exception, or a function that is called first."""

    def __init__(self):
        super().__init__()
        self.answers = deque()

    def isatty(self):
        return True

    def readline(self):
        answer = self.answers.popleft()
        if callable(answer) and not isinstance(answer, type):
            answer = answer()
        if isinstance(answer, type):
            raise answer
        return answer


@pytest.fixture
def person(monkeypatch):
    person = Person()
    monkeypatch.setattr("sys.stdin", person)
    return person


@pytest.fixture
def shop(settings, db):
    """Five tokens of ``a`` and three of ``b``."""
    settings.PUSH_BACKENDS = {"a": LOCMEM, "b": LOCMEM}
    return make_tokens(5, backend="a") + make_tokens(3, backend="b")


class Queue:
    """A dispatcher that remembers what it was asked for, or fails."""

    can_defer = False
    asked = []
    error = None

    def enqueue(self, job, payload, *, delay=0.0):
        if self.error is not None:
            raise self.error
        self.asked.append((job, payload))


@pytest.fixture
def queue(settings, monkeypatch):
    settings.PUSH_DISPATCHER = f"{__name__}.Queue"
    found = import_string(settings.PUSH_DISPATCHER)  # pytest may have loaded this file under another name
    monkeypatch.setattr(found, "asked", [])
    monkeypatch.setattr(found, "error", None)
    return found


def without_colors(text):
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
