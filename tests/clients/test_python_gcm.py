"""python-gcm, unchanged: its address is an attribute."""

import pytest

gcm = pytest.importorskip("gcm")
errors = pytest.importorskip("gcm.gcm")

pytestmark = [
    pytest.mark.clients,
    # It opens a session for each request and closes none.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def client(emulator, monkeypatch):
    monkeypatch.setattr(errors.time, "sleep", lambda seconds: None)
    client = gcm.GCM("key")
    client.url = f"{emulator.url}/gcm/send"
    return client


def test_json(client, emulator):
    """Success, canonical ids and errors come back by registration id."""
    found = client.json_request(
        registration_ids=["a", "old-replaced-by-new", "unregistered", "mismatch"],
        data={"k": "v"}, collapse_key="c", delay_while_idle=True, time_to_live=60,
        restricted_package_name="p", priority="high",
    )  # fmt: skip
    assert set(found["success"]) == {"a", "old-replaced-by-new"}
    assert found["canonical"] == {"old-replaced-by-new": "new"}
    assert found["errors"] == {"NotRegistered": ["unregistered"], "MismatchSenderId": ["mismatch"]}
    assert emulator.state.accepted == {"a": 1, "old-replaced-by-new": 1}


def test_retry(client, emulator):
    """What is unavailable once is accepted at its next try."""
    client.json_request(registration_ids=["a", "unavailable-once"], data={"k": "v"})
    assert emulator.state.accepted == {"a": 1, "unavailable-once": 1}


def test_plaintext(client):
    """Plain text is answered with nothing, a canonical id, or an error."""
    assert client.plaintext_request(registration_id="old-replaced-by-new", data={"k": "v"}) == "new"
    with pytest.raises(errors.GCMNotRegisteredException):
        client.plaintext_request(registration_id="unregistered", data={"k": "v"})
    with pytest.raises(errors.GCMInvalidRegistrationException):
        client.plaintext_request(registration_id="invalid", data={"k": "v"})


def test_plaintext_retry(client, emulator):
    """What is unavailable in plain text is tried again."""
    client.plaintext_request(registration_id="unavailable-twice", data={"k": "v"})
    assert emulator.state.accepted == {"unavailable-twice": 1}


def test_topic(client):
    """A topic is answered with a message id."""
    assert client.send_topic_message(topic="news", data={"k": "v"})


def test_wrong_key(emulator):
    """A wrong key is an authentication error."""
    client = gcm.GCM("wrong")
    client.url = f"{emulator.url}/gcm/send"
    with pytest.raises(errors.GCMAuthenticationException):
        client.json_request(registration_ids=["a"], data={"k": "v"})


def test_bad_request(client):
    """What GCM cannot read is a malformed request."""
    with pytest.raises(errors.GCMMalformedJsonException):
        client.json_request(registration_ids=["a"], data={"k": {"nested": 1}})
