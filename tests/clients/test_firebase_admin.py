"""Google's firebase-admin, unchanged but for the address that it holds in a constant."""

import datetime

import pytest

from django_push.emulator import service_account

firebase_admin = pytest.importorskip("firebase_admin")
messaging = pytest.importorskip("firebase_admin.messaging")
exceptions = pytest.importorskip("firebase_admin.exceptions")

pytestmark = [
    pytest.mark.clients,
    # Since 2026 it warns of registration tokens, whose successor is the installation id.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    # It never closes its HTTP sessions.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def app(emulator, monkeypatch):
    url = f"{emulator.url}/v1/projects/{{0}}/messages:send"
    monkeypatch.setattr(messaging._MessagingService, "FCM_URL", url)
    key = service_account(token_uri=f"{emulator.url}/token")
    app = firebase_admin.initialize_app(firebase_admin.credentials.Certificate(key), name="emulator")
    yield app
    firebase_admin.delete_app(app)


def everything():
    return {
        "data": {"k": "v"},
        "notification": messaging.Notification(title="t", body="b", image="https://example.com/a.png"),
        "android": messaging.AndroidConfig(
            collapse_key="c",
            priority="high",
            ttl=datetime.timedelta(seconds=3.5),
            restricted_package_name="p",
            data={"k": "v"},
            notification=messaging.AndroidNotification(
                title="t", body="b", icon="i", color="#00ff00", sound="s", tag="t", click_action="c",
                body_loc_key="k", body_loc_args=["a"], title_loc_key="k", title_loc_args=["a"],
                channel_id="c", image="i", ticker="t", sticky=True,
                event_timestamp=datetime.datetime(2026, 1, 1), local_only=False, priority="high",
                vibrate_timings_millis=[100, 50], default_vibrate_timings=False, default_sound=True,
                light_settings=messaging.LightSettings(
                    color="#aabbcc", light_on_duration_millis=100, light_off_duration_millis=1500
                ),
                default_light_settings=False, visibility="public", notification_count=3,
            ),
            fcm_options=messaging.AndroidFCMOptions(analytics_label="a"),
        ),
        "apns": messaging.APNSConfig(
            headers={"apns-priority": "10"},
            payload=messaging.APNSPayload(
                aps=messaging.Aps(
                    alert=messaging.ApsAlert(title="t", subtitle="s", body="b"), badge=1, sound="default",
                    content_available=True, mutable_content=True, category="c", thread_id="t",
                ),
                custom=1,
            ),
            fcm_options=messaging.APNSFCMOptions(analytics_label="a", image="i"),
        ),
        "webpush": messaging.WebpushConfig(
            headers={"TTL": "15"},
            data={"k": "v"},
            notification=messaging.WebpushNotification(title="t", body="b"),
            fcm_options=messaging.WebpushFCMOptions(link="https://example.com/"),
        ),
        "fcm_options": messaging.FCMOptions(analytics_label="a"),
    }  # fmt: skip


def test_send(app, emulator):
    """A message with every field of the SDK is accepted, to a token, a topic and a condition."""
    for target in ({"token": "a"}, {"topic": "news"}, {"condition": "'a' in topics"}):
        name = messaging.send(messaging.Message(**target, **everything()), app=app)
        assert name.startswith("projects/emulator/messages/")
    assert sum(emulator.state.accepted.values()) == 3


def test_dry_run(app, emulator):
    """A dry run has a fake id and counts nothing."""
    name = messaging.send(messaging.Message(token="a"), dry_run=True, app=app)
    assert name == "projects/emulator/messages/fake_message_id"
    assert not emulator.state.accepted


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("unregistered", messaging.UnregisteredError),
        ("mismatch", messaging.SenderIdMismatchError),
        ("setup", messaging.ThirdPartyAuthError),
        ("rate", messaging.QuotaExceededError),
        ("invalid", exceptions.InvalidArgumentError),
        ("payload", exceptions.InvalidArgumentError),
        ("request-html", exceptions.FirebaseError),
    ],
)
def test_errors(app, word, error):
    """Each error is raised as the SDK's own exception."""
    with pytest.raises(error):
        messaging.send(messaging.Message(token=word), app=app)


def test_many(app, emulator):
    """Many messages are answered one by one, in order."""
    batch = messaging.send_each([messaging.Message(token=t) for t in ("a", "unregistered", "b")], app=app)
    assert [response.success for response in batch.responses] == [True, False, True]
    assert isinstance(batch.responses[1].exception, messaging.UnregisteredError)
    assert emulator.state.accepted == {"a": 1, "b": 1}


def test_fid(app, emulator):
    """An installation id is taken where the SDK knows them."""
    try:
        message = messaging.Message(fid="cAbc")
    except TypeError:
        pytest.skip("this release knows no fid")
    messaging.send(message, app=app)
    assert emulator.state.inbox[0].kind == "fid"
