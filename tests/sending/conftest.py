"""Providers whose answers a test writes, and a clock that a test moves."""

import json
import time

import pytest
from django.contrib.auth import get_user_model

from django_push import get_token_model, testing
from django_push.sending import lane, run
from django_push.wire import Reply

LOCMEM = "django_push.backends.locmem.LocMemBackend"
BACKENDS = {
    "expo": {"BACKEND": "django_push.backends.expo.ExpoBackend"},
    "gcm": {
        "BACKEND": "django_push.backends.gcm.GCMBackend",
        "OPTIONS": {"endpoint": "https://gcm.example.com/send", "api_key": "k"},
    },
    "other": {"BACKEND": LOCMEM},
}


class Clock:
    """Stands in for the module ``time``: sleeping takes no time, and is written down."""

    def __init__(self):
        self.now = time.monotonic()
        self.slept = []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        if seconds:
            self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(lane, "time", clock)
    monkeypatch.setattr(run, "time", clock)
    return clock


@pytest.fixture
def providers(settings):
    settings.PUSH_BACKENDS = BACKENDS


@pytest.fixture
def user(db):
    return get_user_model().objects.create(username="ada")


def token_name(number):
    return f"ExponentPushToken[{number:022d}]"


def make_tokens(count, *, backend="expo", **fields):
    """Create rows whose tokens are named by their number, and return them in that order."""
    model = get_token_model()
    names = [token_name(n) if backend == "expo" else f"{backend}-{n}" for n in range(count)]
    model.objects.bulk_create([model(backend=backend, token=name, **fields) for name in names])
    return list(model.objects.filter(backend=backend).order_by("pk"))


def statuses(backend="expo"):
    rows = get_token_model().objects.filter(backend=backend).order_by("pk")
    return list(rows.values_list("status", flat=True))


OK = {"status": "ok"}


def error(code):
    return {"status": "error", "message": code, "details": {"error": code}}


class Expo:
    """Expo's answers: by token, else accepted; ``replies`` come first, one for each request."""

    def __init__(self, answers=None, replies=()):
        self.answers = answers or {}
        self.replies = list(replies)
        self.asked = []

    def __call__(self, request):
        self.asked.append([target.value for target in request.targets])
        if self.replies and (reply := self.replies.pop(0)) is not None:
            return reply
        said = []
        for target in request.targets:
            answer = self.answers.get(target.value, OK)
            if isinstance(answer, list):
                answer = answer.pop(0) if len(answer) > 1 else answer[0]
            said.append({**answer, "id": f"id-{target.value}"} if answer == OK else answer)
        return reply_of({"data": said})


def reply_of(payload, status=200, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status=status, headers=headers, body=json.dumps(payload).encode())


@pytest.fixture
def expo(providers):
    """Return a function that sets Expo's answers for the test."""
    stack = []

    def answer(*args, **kwargs):
        provider = Expo(*args, **kwargs)
        context = testing.fake_transport("expo", provider)
        provider.transport = context.__enter__()
        stack.append(context)
        return provider

    yield answer
    for context in reversed(stack):
        context.__exit__(None, None, None)
