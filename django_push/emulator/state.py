"""What the emulator remembers, for one running server: the oracle that tests ask. Thread-safe."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django_push.emulator import markers
from django_push.emulator.exchange import Call
from django_push.emulator.faults import Faults, seconds
from django_push.emulator.markers import Marker
from django_push.outcomes import mask

#: How many pushes the inbox shows, and how many raw requests are kept.
INBOX_SIZE = 200
RECORDED_SIZE = 200
#: How long Expo keeps a receipt, and Google an access token. Seconds.
RECEIPT_LIFETIME = 24 * 3600.0
ACCESS_TOKEN_LIFETIME = 3600
_SECRET_HEADERS = frozenset({"authorization", "cookie"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a server behaves.

    ``receipt_delay`` is the seconds until a receipt is ready, ``retry_after`` the seconds that
    Retry-After asks for. The credentials, if given, are demanded exactly; else any will do that
    does not begin with ``wrong``.
    """

    receipt_delay: float = 0.0
    retry_after: int = 1
    expo_access_token: str | None = field(default=None, repr=False)
    gcm_key: str | None = field(default=None, repr=False)
    fcm_project: str | None = None


class Push(NamedTuple):
    """One push to one target, and what was said to it: ``said`` is the provider's own word."""

    provider: str
    target: str
    kind: str
    said: str
    is_accepted: bool
    at: float
    content: Mapping[str, Any]


class Recorded(NamedTuple):
    """A raw request as it came, its credentials left out, and the status that answered it (0: none)."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    status: int


class AccessToken(NamedTuple):
    """An OAuth token that was issued, to whom, and until when."""

    client_email: str
    expires_at: float


class State:
    """Counts, inbox, receipts and access tokens of one server, and the faults that are on.

    ``accepted`` counts the accepted pushes per token, topic or condition, ``seen`` all of them, whether
    or not the answer arrived; ``accepted_at`` counts them per provider and whole second. ``requests``
    counts the POSTs. ``inbox`` holds the latest pushes and ``recorded`` the latest raw requests, both
    oldest first. Dry runs are in ``recorded`` alone. ``faults`` and ``latency`` (the seconds before
    each answer) may be set at any time.
    """

    def __init__(
        self, options: Options | None = None, *, faults: Faults | None = None, latency: float = 0.0
    ) -> None:
        self.options = options or Options()
        self._lock = threading.Lock()
        self._first = (faults or Faults(), seconds("latency", latency))
        self.reset()
        self.faults = self._first[0]  # the caller's own, who may read what was applied

    def reset(self) -> None:
        """Forget everything, issued access tokens too; faults and latency are again those of the start."""
        with self._lock:
            self.faults, self.latency = self._first[0].again(), self._first[1]
            self.accepted: Counter[str] = Counter()
            self.accepted_at: Counter[tuple[str, int]] = Counter()
            self.seen: Counter[str] = Counter()
            self.requests = 0
            self.inbox: deque[Push] = deque(maxlen=INBOX_SIZE)
            self.recorded: deque[Recorded] = deque(maxlen=RECORDED_SIZE)
            self._receipts: OrderedDict[str, tuple[float, Mapping[str, Any]]] = OrderedDict()
            self._access_tokens: dict[str, AccessToken] = {}
            self._failures: Counter[str] = Counter()
            self._ahead = 0.0

    # --- time -------------------------------------------------------------------------------------

    def now(self) -> float:
        """Return the emulator's time, in Unix seconds."""
        return time.time() + self._ahead

    def advance(self, seconds: float) -> None:
        """Move the emulator's clock forward, so that receipts get ready and access tokens expire."""
        self._ahead += seconds

    # --- pushes -----------------------------------------------------------------------------------

    def record(self, call: Call, status: int) -> None:
        """Keep a request that was answered."""
        headers = {name: value for name, value in call.headers.items() if name not in _SECRET_HEADERS}
        with self._lock:
            self.requests += 1
            self.recorded.append(Recorded(call.path, headers, call.body, status))

    def note(self, pushes: Iterable[Push]) -> None:
        """Count pushes and show them in the inbox."""
        pushes = list(pushes)
        with self._lock:
            self.inbox.extend(pushes)
            self.seen.update(push.target for push in pushes)
            self.accepted.update(push.target for push in pushes if push.is_accepted)
            self.accepted_at.update((push.provider, int(push.at)) for push in pushes if push.is_accepted)

    def counts(self) -> dict[str, Any]:
        """Return the numbers of the oracle: ``doubled`` counts the pushes to a token beyond its first."""
        with self._lock:
            busiest: dict[str, int] = {}
            for (provider, _), count in self.accepted_at.items():
                busiest[provider] = max(count, busiest.get(provider, 0))
            total = self.accepted.total()
            return {
                "accepted_total": total,
                "tokens": len(self.accepted),
                "max_per_token": max(self.accepted.values(), default=0),
                "doubled": total - len(self.accepted),
                "max_per_second": busiest,
                "requests": self.requests,
            }

    def latest(self) -> list[Push]:
        """Return the inbox, newest first."""
        with self._lock:
            return list(reversed(self.inbox))

    def marker(self, token: str) -> Marker | None:
        """Return what the token asks for this time, and count it. Ask once per token and request."""
        marker = markers.find(token)
        if marker is None or not marker.times:
            return marker
        with self._lock:
            self._failures[token] += 1
            return marker if self._failures[token] <= marker.times else None

    # --- receipts ---------------------------------------------------------------------------------

    def file_receipts(self, receipts: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep receipts by ticket id, to be told when the delay is over."""
        now = self.now()
        ready_at = now + self.options.receipt_delay
        with self._lock:
            for ticket_id, receipt in receipts.items():
                self._receipts[ticket_id] = (ready_at, receipt)
            while self._receipts:
                oldest, (at, _) = next(iter(self._receipts.items()))
                if at + RECEIPT_LIFETIME > now:
                    break
                del self._receipts[oldest]

    def receipts(self, ids: Iterable[str]) -> dict[str, Mapping[str, Any]]:
        """Return those receipts that are ready and not yet too old."""
        now = self.now()
        with self._lock:
            found = ((i, self._receipts[i]) for i in ids if i in self._receipts)
            return {i: receipt for i, (at, receipt) in found if at <= now < at + RECEIPT_LIFETIME}

    # --- access tokens ----------------------------------------------------------------------------

    def issue_access_token(self, client_email: str) -> str:
        """Return a new OAuth access token of one hour."""
        token = f"ya29.emulator.{secrets.token_urlsafe(24)}"
        with self._lock:
            self._access_tokens[token] = AccessToken(client_email, self.now() + ACCESS_TOKEN_LIFETIME)
        return token

    def access_token(self, token: str) -> AccessToken | None:
        """Return what is known of an access token; an expired one is still known."""
        with self._lock:
            return self._access_tokens.get(token)

    def expire_access_tokens(self) -> None:
        """Let all access tokens that are out expire now."""
        with self._lock:
            for token, known in self._access_tokens.items():
                self._access_tokens[token] = known._replace(expires_at=0.0)


def summary(pushes: Iterable[Push]) -> str:
    """Say in one line what became of some pushes: counts by word, and the first few tokens masked."""
    pushes = list(pushes)
    counts = Counter(push.said for push in pushes)
    words = ", ".join(f"{n} {word}" for word, n in counts.most_common())
    shown = " ".join(shown_target(push) for push in pushes[:3])
    return f"{words}: {shown}{' …' if len(pushes) > 3 else ''}"


def shown_target(push: Push) -> str:
    """Return a topic or condition as it is, and a token masked."""
    return push.target if push.kind in ("topic", "condition") else mask(push.target)
