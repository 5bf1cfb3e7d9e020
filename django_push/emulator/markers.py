"""Which tokens fail, and how: a word in a token decides, like the numbers of test payment cards.

A marker stands at the start of a token (inside an Expo token's brackets) or after ``-``, ``_`` or
``:``, and no letter may follow it: ``ExponentPushToken[unregistered-17]``, ``anna-unregistered``.
The leftmost marker counts. A word for which a provider has no answer means that the push is accepted.

About one token; the others of its request are not concerned, except where it says *request*: then
Expo refuses it whole and names the recipient (``payload``: the message) by its place.

=================== ========================= ========================== ==========================
marker              Expo                      GCM                        FCM v1
=================== ========================= ========================== ==========================
``unregistered``    DeviceNotRegistered       NotRegistered              404 UNREGISTERED
``invalid``         request: VALIDATION_ERROR InvalidRegistration        400 INVALID_ARGUMENT (1)
``invalid-field``   request: VALIDATION_ERROR InvalidRegistration        400 INVALID_ARGUMENT (2)
``payload``         request: VALIDATION_ERROR InvalidDataKey             400 INVALID_ARGUMENT (3)
``mismatch``        MismatchSenderId          MismatchSenderId           403 SENDER_ID_MISMATCH
``package``         accepted                  InvalidPackageName (4)     accepted
``too-big``         MessageTooBig             MessageTooBig              400 without details
``setup``           InvalidCredentials        InvalidApnsCredential      401 THIRD_PARTY_AUTH_ERROR
``rate``            MessageRateExceeded       DeviceMessageRateExceeded  429 QUOTA_EXCEEDED (5)
``unavailable``     ProviderError             Unavailable (6)            503 UNAVAILABLE
``internal``        ExpoError                 InternalServerError        500 INTERNAL
``developer``       DeveloperError            accepted                   accepted
``code-WORD``       WORD                      WORD                       400 WORD
``replaced-by-NEW`` accepted                  accepted, canonical id NEW accepted
=================== ========================= ========================== ==========================

(1) Only FcmError and a text that names the registration token. (2) FcmError and a BadRequest that names
``message.token``. (3) A BadRequest that names ``message.data[0].value``. (4) If the request demands a
package by ``restricted_package_name``; else accepted. (5) With a QuotaFailure that names the device, or
the topic. (6) With a Retry-After; in plain text, which has no such word, HTTP 500.

``NEW`` is the rest of the token, markers included: ``a-replaced-by-c`` and ``b-replaced-by-c`` lead
to the one ``c``, ``a-replaced-by-b-replaced-by-c`` is a chain.

With ``receipt-`` before it, Expo accepts the push and says it in the receipt instead (GCM and FCM have
no receipts and accept it). All words above but ``invalid``, ``invalid-field``, ``payload``,
``package`` and ``replaced-by-`` can be so used, and two more: ``receipt-mismatch-nested`` is a
ProviderError with FCM's own MismatchSenderId inside, and ``receipt-never`` has no receipt.

The whole request fails, whatever else is in it:

======================= =====================================================================
marker                  every provider
======================= =====================================================================
``request-rate``        429 with Retry-After: the project sends too much
``request-unavailable`` 503 with Retry-After
``request-internal``    500 in the provider's own words
``request-html``        502 with a proxy's HTML page
``request-empty``       500 with nothing
======================= =====================================================================

With ``-once`` or ``-twice`` after it, any marker (but ``replaced-by-``) works for the first one or
two requests with that token; then the push is accepted: ``unavailable-once-17``.

In an Expo token ``project-NAME`` says whose it is (NAME of letters and digits; else all belong to one
project) and may stand beside another marker: ``ExponentPushToken[project-shop-unregistered-1]``.
For an FCM installation id that is not valid Google says UNREGISTERED. A topic can be
``unavailable``, ``internal``, ``rate`` and ``code-WORD``, and has the markers of the whole request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple


class Words(NamedTuple):
    """What the providers say to one marker; "" for a push that is accepted."""

    expo: str
    gcm: str
    fcm: str


#: About one token. ``code`` and ``replaced`` carry a value of their own.
TOKEN = {
    "unregistered": Words("DeviceNotRegistered", "NotRegistered", "UNREGISTERED"),
    "invalid": Words("VALIDATION_ERROR", "InvalidRegistration", "INVALID_ARGUMENT"),
    "invalid-field": Words("VALIDATION_ERROR", "InvalidRegistration", "INVALID_ARGUMENT"),
    "payload": Words("VALIDATION_ERROR", "InvalidDataKey", "INVALID_ARGUMENT"),
    "mismatch": Words("MismatchSenderId", "MismatchSenderId", "SENDER_ID_MISMATCH"),
    "package": Words("", "InvalidPackageName", ""),
    "too-big": Words("MessageTooBig", "MessageTooBig", "INVALID_ARGUMENT"),
    "setup": Words("InvalidCredentials", "InvalidApnsCredential", "THIRD_PARTY_AUTH_ERROR"),
    "rate": Words("MessageRateExceeded", "DeviceMessageRateExceeded", "QUOTA_EXCEEDED"),
    "unavailable": Words("ProviderError", "Unavailable", "UNAVAILABLE"),
    "internal": Words("ExpoError", "InternalServerError", "INTERNAL"),
    "developer": Words("DeveloperError", "", ""),
}
#: In Expo's receipt. "" has no receipt at all.
RECEIPT = {
    "unregistered": "DeviceNotRegistered",
    "mismatch": "MismatchSenderId",
    "mismatch-nested": "ProviderError",
    "too-big": "MessageTooBig",
    "setup": "InvalidCredentials",
    "rate": "MessageRateExceeded",
    "unavailable": "ProviderError",
    "internal": "ExpoError",
    "developer": "DeveloperError",
    "never": "",
}
#: The whole request, by HTTP status.
REQUEST = {"rate": 429, "unavailable": 503, "internal": 500, "html": 502, "empty": 500}
#: What can be wrong with a topic.
TOPIC = frozenset({"rate", "unavailable", "internal", "code"})

_TIMES = {None: 0, "-once": 1, "-twice": 2}


class Marker(NamedTuple):
    """What a token's marker asks for.

    ``scope`` is ``token``, ``receipt`` or ``request``; ``value`` the WORD of ``code`` or the NEW of
    ``replaced``; ``times`` how often it works, 0 for always.
    """

    scope: str
    word: str
    value: str = ""
    times: int = 0


def _either(words: Iterable[str]) -> str:
    """Return a pattern of alternatives, the longest first."""
    return "|".join(sorted(words, key=len, reverse=True))


_MARKER = re.compile(
    r"(?<![A-Za-z0-9])(?:replaced-by-(?P<new>[^\]]+)|(?:"
    rf"request-(?P<request>{_either(REQUEST)})"
    rf"|receipt-(?:(?P<receipt>{_either(RECEIPT)})|code-(?P<late>[A-Za-z_]+))"
    rf"|(?P<token>{_either(TOKEN)})|code-(?P<code>[A-Za-z_]+)"
    r")(?P<times>-once|-twice)?(?![A-Za-z]))"
)
_PROJECT = re.compile(r"(?<![A-Za-z0-9])project-([A-Za-z0-9]+)")


def find(token: str) -> Marker | None:
    """Return the leftmost marker of a token."""
    found = _MARKER.search(token)
    if found is None:
        return None
    groups = found.groupdict()
    times = _TIMES[groups["times"]]
    if groups["new"]:
        return Marker("token", "replaced", groups["new"])
    for scope in ("request", "receipt", "token"):
        if groups[scope]:
            return Marker(scope, groups[scope], times=times)
    if groups["late"]:
        return Marker("receipt", "code", groups["late"], times)
    return Marker("token", "code", groups["code"], times)


def project(token: str) -> str:
    """Return the Expo project that the token belongs to, in Expo's form ``@owner/slug``."""
    found = _PROJECT.search(token)
    return f"@emulator/{found[1] if found else 'app'}"
