"""PyFCM, unchanged but for the address that it holds in a constant."""

import json

import pytest

from django_push.emulator import service_account

pyfcm = pytest.importorskip("pyfcm")
errors = pytest.importorskip("pyfcm.errors")

pytestmark = [
    pytest.mark.clients,
    # It never closes its HTTP sessions.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def client(emulator, monkeypatch, tmp_path):
    monkeypatch.setattr(pyfcm.FCMNotification, "FCM_END_POINT_BASE", f"{emulator.url}/v1/projects")
    path = tmp_path / "account.json"
    path.write_text(json.dumps(service_account(token_uri=f"{emulator.url}/token")))
    return pyfcm.FCMNotification(service_account_file=str(path), project_id="emulator")


def test_notify(client, emulator):
    """A message is accepted, to a token and to a topic."""
    fields = {
        "notification_title": "t", "notification_body": "b", "data_payload": {"k": "v"},
        "android_config": {"priority": "high", "ttl": "60s"},
        "apns_config": {"headers": {"apns-priority": "10"}},
    }  # fmt: skip
    assert client.notify(fcm_token="a", **fields)["name"].startswith("projects/emulator/messages/")
    assert client.notify(topic_name="news", **fields)
    assert emulator.state.accepted == {"a": 1, "news": 1}


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("unregistered", errors.FCMNotRegisteredError),
        ("mismatch", errors.FCMSenderIdMismatchError),
        ("payload", errors.InvalidDataError),
    ],
)
def test_errors(client, word, error):
    """Each error is raised as the client's own exception."""
    with pytest.raises(error):
        client.notify(fcm_token=word, notification_title="t")


def test_expired_access_token(client, emulator):
    """An access token that has expired is renewed, and the push sent again."""
    client.notify(fcm_token="a", notification_title="t")
    emulator.state.expire_access_tokens()
    client.notify(fcm_token="a", notification_title="t")
    assert emulator.state.accepted == {"a": 2}
