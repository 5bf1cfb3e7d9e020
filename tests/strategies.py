"""Hypothesis strategies: what providers, networks and callers may come up with."""

import json
import string
from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from django_push.message import INTERRUPTION_LEVELS, MAX_TTL, PRIORITIES, PushMessage
from django_push.outcomes import Outcome
from django_push.wire import Failure, Reply

# A busy machine is no failure.
settings.register_profile("push", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("push")

#: Text that can be sent: without surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_numbers = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
#: A JSON value as a caller may put into ``data``.
json_values = st.recursive(
    st.none() | st.booleans() | _numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
json_objects = st.dictionaries(texts, json_values, max_size=4)

messages = st.builds(
    PushMessage,
    title=texts.filter(bool),
    body=st.none() | texts,
    subtitle=st.none() | texts,
    data=st.none() | json_objects,
    image=st.none() | texts,
    sound=st.none() | texts | st.fixed_dictionaries({"name": texts, "critical": st.booleans()}),
    badge=st.none() | st.integers(0, 2**31 - 1),
    ttl=st.none() | st.integers(0, MAX_TTL) | st.timedeltas(timedelta(0), timedelta(seconds=MAX_TTL)),
    priority=st.none() | st.sampled_from(PRIORITIES),
    interruption_level=st.none() | st.sampled_from(INTERRUPTION_LEVELS),
    collapse_key=st.none() | texts,
    tag=st.none() | texts,
    content_available=st.none() | st.booleans(),
    mutable_content=st.none() | st.booleans(),
    provider_options=st.dictionaries(
        st.sampled_from(["expo", "gcm", "fcm", "acme"]), json_objects, max_size=2
    ),
)

_WORDS = (
    "data", "errors", "error", "results", "status", "ok", "details", "id", "message", "code", "name",
    "message_id", "registration_id", "expoPushToken", "fcm", "apns", "errorCode", "@type", "fieldViolations",
    "field", "message.token", "violations", "DeviceNotRegistered", "NotRegistered", "InvalidRegistration",
    "UNREGISTERED", "INVALID_ARGUMENT", "VALIDATION_ERROR", "PUSH_TOO_MANY_EXPERIENCE_IDS", "Unavailable",
    "type.googleapis.com/google.firebase.fcm.v1.FcmError", "type.googleapis.com/google.rpc.BadRequest",
    "type.googleapis.com/google.rpc.QuotaFailure", "[0].to[1] is bad", "outcome", "accepted",
)  # fmt: skip
_words = st.sampled_from(_WORDS)
#: A JSON value made of the providers' words, in any place.
answers = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | _words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_words, inner, max_size=5),
    max_leaves=25,
)
bodies = answers.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60)
retry_afters = st.text(max_size=30) | st.text(string.digits + " ,:GMTJan+-", max_size=40)
replies = st.builds(
    Reply,
    status=st.sampled_from([200, 200, 200, 400, 401, 403, 404, 429, 500, 503]) | st.integers(0, 999),
    headers=st.fixed_dictionaries({}, optional={"retry-after": retry_afters}),
    body=bodies,
    failure=st.none() | st.none() | st.none() | st.sampled_from(Failure),
    reason=st.text(max_size=10),
)

outcomes = st.sampled_from(Outcome)
tokens = st.text(string.ascii_letters + string.digits + "_-:[]. \n", max_size=300) | st.text(max_size=60)


@st.composite
def partitions(draw, items, most=4):
    """Return the items dealt out to at most ``most`` lists, some of which may be empty."""
    parts = [[] for _ in range(most)]
    for item in items:
        parts[draw(st.integers(0, most - 1))].append(item)
    return parts
