"""What the emulator is given of a real service account is worth nothing elsewhere."""

import base64
import json

import pytest

from django_push import push_backends
from django_push.emulator import service_account, start_emulator


@pytest.mark.parametrize("emulated", [True, False])
def test_assertion_is_made_out_to_its_reader(settings, emulated):
    """The signature names the emulator's own address as its audience, and Google's for Google."""
    settings.PUSH_BACKENDS = {
        "fcm": {
            "BACKEND": "django_push.backends.fcm.FCMBackend",
            "OPTIONS": {"service_account_key": service_account()},
        }
    }
    with start_emulator() as emulator:
        settings.PUSH_EMULATOR_HOST = emulator.host if emulated else ""
        credentials = push_backends.channel("fcm").credentials
        assertion = credentials._credentials._make_authorization_grant_assertion()
        claims = assertion.split(b".")[1]
        audience = json.loads(base64.urlsafe_b64decode(claims + b"=="))["aud"]
        assert audience == (f"{emulator.url}/token" if emulated else "https://oauth2.googleapis.com/token")
