"""Every backend of ours keeps the contract that a third party's is held to."""

import re
import textwrap
from pathlib import Path

from django.test import SimpleTestCase

from django_push.backends import expo, fcm, gcm
from django_push.backends.console import ConsoleBackend
from django_push.backends.dummy import DummyBackend
from django_push.backends.locmem import LocMemBackend
from django_push.handler import push_backends
from django_push.outcomes import Outcome
from django_push.testing.contract import BackendContract
from django_push.wire import Reply
from tests.backends.replies import (
    SERVICE_ACCOUNT,
    expo_errors,
    expo_oks,
    fcm_error,
    fcm_ok,
    gcm_errors,
    gcm_oks,
    ok,
)


class ExpoContractTests(BackendContract, SimpleTestCase):
    secrets = ("s3cret",)
    codes = {code: outcome for code, outcome in expo.CODES.items() if not code.isupper()}
    option_names = (*BackendContract.option_names, "richContent", "sound", "badge")

    def make_backend(self):
        return expo.ExpoBackend(alias="expo", access_token="s3cret")

    def make_token(self, number):
        return f"ExponentPushToken[{number:022d}]"

    def accepted(self, request):
        return expo_oks(request)

    def refused(self, request, code):
        return expo_errors(request, code)


class GCMContractTests(BackendContract, SimpleTestCase):
    secrets = ("s3cret",)
    codes = gcm.CODES
    option_names = (*BackendContract.option_names, "registration_ids", "collapse_key", "dry_run")
    format = "json"

    def make_backend(self):
        return gcm.GCMBackend(
            alias="gcm", endpoint="https://relay.example/gcm", api_key="s3cret", format=self.format
        )

    def accepted(self, request):
        return gcm_oks(request)

    def refused(self, request, code):
        return gcm_errors(request, code)


class GCMPlaintextContractTests(GCMContractTests):
    format = "plaintext"

    def accepted(self, request):
        return Reply(status=200, body=b"id=0:1700000000000001%aa11")

    def refused(self, request, code):
        return Reply(status=200, body=f"Error={code}".encode())


class FCMContractTests(BackendContract, SimpleTestCase):
    secrets = ("s3cret",)
    codes = fcm.CODES
    option_names = (
        *BackendContract.option_names, "android", "apns", "webpush", "fcm_options", "validate_only",
    )  # fmt: skip

    def make_backend(self):
        return fcm.FCMBackend(alias="fcm", service_account_key=SERVICE_ACCOUNT)

    def accepted(self, request):
        return fcm_ok()

    def refused(self, request, code):
        return fcm_error(400, code)


class LocMemContractTests(BackendContract, SimpleTestCase):
    codes = {outcome.value: outcome for outcome in Outcome if outcome is not Outcome.ACCEPTED}
    unheard_of = Outcome.UNKNOWN

    def make_backend(self):
        return LocMemBackend(alias="default")

    def accepted(self, request):
        return ok([{"outcome": "accepted", "id": str(n)} for n, _ in enumerate(request.targets)])

    def refused(self, request, code):
        return ok([{"outcome": code, "code": code} for _ in request.targets])


class ConsoleContractTests(BackendContract, SimpleTestCase):
    answers_each = False
    unheard_of = Outcome.UNKNOWN

    def make_backend(self):
        return ConsoleBackend(alias="console")

    def accepted(self, request):
        return Reply(status=200)

    def refused(self, request, code):
        return Reply(status=502)


class DummyContractTests(ConsoleContractTests):
    def make_backend(self):
        return DummyBackend(alias="dummy")


def _documented():
    """Run the code of the page about writing a backend, and return what it defines."""
    page = Path(__file__).parents[2] / "docs" / "backends.rst"
    blocks = re.findall(r"\.\. code-block:: python\n\n((?:    .*\n|\n)+)", page.read_text(encoding="utf-8"))
    names = {"__name__": __name__, "env": {"ACME_KEY": "s3cret"}.get}
    for block in blocks:
        exec(compile(textwrap.dedent(block), str(page), "exec"), names)
    return names


PAGE = _documented()
AcmeBackend = PAGE["AcmeBackend"]
AcmeContractTests = PAGE["AcmeContractTests"]


def test_documented_settings(settings):
    """The settings on the page are an alias that can be used, with the options they name."""
    config = {"BACKEND": f"{__name__}.AcmeBackend", "OPTIONS": PAGE["PUSH_BACKENDS"]["acme"]["OPTIONS"]}
    settings.PUSH_BACKENDS = {"acme": config}
    assert push_backends["acme"].timeout == 10.0
    assert push_backends["acme"].auth.header.reveal() == "Bearer s3cret"
