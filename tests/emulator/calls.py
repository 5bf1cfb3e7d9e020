"""Requests to the pure modules, without HTTP."""

import json

from django_push.emulator.exchange import Call

TOKEN = "ExponentPushToken[aaa]"


def json_call(path, payload, **headers):
    return call(path, json.dumps(payload).encode(), **{"content-type": "application/json", **headers})


def call(path, body, **headers):
    return Call(path, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def read(answer):
    return json.loads(answer.body)


def header(answer, name):
    return dict(answer.headers).get(name)
