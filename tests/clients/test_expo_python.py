"""Expo's community SDK for Python, unchanged."""

import pytest

sdk = pytest.importorskip("exponent_server_sdk")

pytestmark = pytest.mark.clients

TOKEN = "ExponentPushToken[aaa]"


@pytest.fixture
def client(emulator):
    requests = pytest.importorskip("requests")
    with requests.Session() as session:
        session.headers.update({"accept": "application/json", "content-type": "application/json"})
        yield sdk.PushClient(host=emulator.url, session=session)


def message(token=TOKEN, **fields):
    return sdk.PushMessage(to=token, **{"title": "Hi", **fields})


def test_publish(client, emulator):
    """A message with every field of the SDK is accepted."""
    ticket = client.publish(
        message(
            body="b", data={"a": 1}, sound="default", ttl=60, expiration=1_800_000_000, priority="high",
            badge=1, category="c", display_in_foreground=True, channel_id="c", subtitle="s",
            mutable_content=True,
        )
    )  # fmt: skip
    ticket.validate_response()
    assert ticket.is_success()
    assert emulator.state.accepted == {TOKEN: 1}


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("unregistered", sdk.DeviceNotRegisteredError),
        ("too-big", sdk.MessageTooBigError),
        ("rate", sdk.MessageRateExceededError),
        ("setup", sdk.PushTicketError),
    ],
)
def test_ticket_errors(client, word, error):
    """A failed ticket is raised as the SDK's own exception."""
    ticket = client.publish(message(f"ExponentPushToken[{word}-1]"))
    with pytest.raises(error):
        ticket.validate_response()


def test_request_errors(client):
    """A refused request is raised with Expo's errors."""
    with pytest.raises(sdk.PushServerError) as caught:
        client.publish(message(priority="urgent"))
    assert caught.value.errors[0]["code"] == "VALIDATION_ERROR"


def test_many_and_receipts(client, emulator):
    """250 messages go in three requests, and their receipts are found."""
    words = ["receipt-unregistered-1", *(f"t{i}" for i in range(249))]
    tickets = client.publish_multiple([message(f"ExponentPushToken[{word}]") for word in words])
    assert emulator.state.requests == 3
    receipts = client.check_receipts_multiple(tickets)
    assert len(receipts) == 250
    failed = [receipt for receipt in receipts if not receipt.is_success()]
    assert [receipt.details["error"] for receipt in failed] == ["DeviceNotRegistered"]
