"""What an outcome means, in words for the person at the terminal."""

from __future__ import annotations

from django_push.outcomes import Outcome, Ticket

EXPLANATIONS = {
    Outcome.ACCEPTED: "The provider took it. Whether it arrived, it does not say.",
    Outcome.UNREGISTERED: "The app is no longer installed there. The token is deactivated.",
    Outcome.INVALID_TOKEN: "That is no token of this provider. A registered one is deactivated.",
    Outcome.SENDER_MISMATCH: "The token belongs to another sender or project than our key. It is kept.",
    Outcome.MESSAGE_REJECTED: "The message is at fault, not the token. It is kept.",
    Outcome.PROVIDER_SETUP: "The project's own push credentials at the provider (APNs, FCM) are at fault. "
    "The token is kept.",
    Outcome.CREDENTIALS_REJECTED: "The provider refused our key: see the alias's OPTIONS. The token is kept.",
    Outcome.RATE_LIMITED: "Too much at once. Send it again later. The token is kept.",
    Outcome.UNAVAILABLE: "The provider cannot serve now. Send it again later. The token is kept.",
    Outcome.NOT_SENT: "No connection was made, so nothing was sent. The token is kept.",
    Outcome.REJECTED: "The provider refused, with a code that we do not know. The token is kept.",
    Outcome.UNKNOWN: "It may have been sent: no readable answer came. Sending again may double it. "
    "The token is kept.",
    Outcome.PLANNED: "A dry run: it would have been sent.",
}
#: What PushResult.skipped counts.
SKIPPED = {
    "disabled": "its user has muted it",
    "inactive": "it is not active",
    "duplicate": "it was named twice",
    "deleted": "its row is gone",
    "transferred": "it belongs to another user by now",
    "other_backend": "it belongs to another backend than the one named",
    "unknown_backend": "its backend is not in PUSH_BACKENDS",
}


def explain(ticket: Ticket) -> str:
    """Return a ticket as a line or two: to whom, what the provider said, and what it means."""
    said = ", ".join(filter(None, (ticket.code, ticket.detail)))
    where = f"{ticket.backend}: {ticket.target!r}" if ticket.target.value else "?"
    again = f" Wait {ticket.retry_after:.0f} s first." if ticket.retry_after else ""
    return (
        f"{where}\n  {ticket.outcome}{f' ({said})' if said else ''}\n  {EXPLANATIONS[ticket.outcome]}{again}"
    )
