"""PUSH_DISPATCHER: what is wrong with it is told when it is checked, and stops no process from starting."""

import pytest
from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from django_push.apps import _import_dispatcher


class Refused:
    def __init__(self):
        raise ImproperlyConfigured("no queue of this name")

    def enqueue(self, job, payload):
        """Never reached."""


class Broken(Refused):
    def __init__(self):
        raise OSError("amqp://guest:canary@broker")


@pytest.mark.parametrize(
    ("name", "said"), [("Refused", "no queue of this name"), ("Broken", "OSError when Broken is made")]
)
def test_a_dispatcher_that_cannot_be_made(settings, name, said):
    """It is told by the checks, without what a third party's error may hold."""
    settings.PUSH_DISPATCHER = f"{__name__}.{name}"
    [message] = checks.run_checks(tags=["push"])
    assert (message.id, said in message.msg) == ("django_push.E019", True)
    assert message.hint
    assert "canary" not in str(message)


@pytest.mark.parametrize("path", ["nowhere.Dispatcher", None, 5, "django_push.nothing"])
def test_a_process_starts_without_it(settings, caplog, path):
    """Otherwise manage.py check could not tell what is wrong."""
    settings.PUSH_DISPATCHER = path
    _import_dispatcher()
    assert "manage.py check" in caplog.text


def test_a_process_starts_with_it(caplog):
    """Nothing is logged where all is well."""
    _import_dispatcher()
    assert caplog.text == ""
