"""Token state against a small model of it, in random orders."""

import hypothesis.strategies as st
import pytest
from django.contrib.auth import get_user_model
from django.db import transaction
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from django_push import register_token, unregister_token
from django_push.models import database_now, get_token_model
from django_push.tokens import apply, deactivate, move, reactivate, replace
from tests.tokens.helpers import ACTIVE, canonical, dead

Tokens = get_token_model().objects
TOKENS = st.sampled_from("abcde")
DEVICES = st.sampled_from([None, "", "d", "d", "D"])
ALIASES = st.sampled_from(["default", "other"])


class Machine(RuleBasedStateMachine):
    """Apps register, rotate and log out; providers answer sends of now and of long ago."""

    sends = Bundle("sends")

    def __init__(self):
        super().__init__()
        self.atomic = transaction.atomic()
        self.atomic.__enter__()
        self.users = [get_user_model().objects.create(username=f"u{n}") for n in range(2)]
        self.registered = {}  # (alias, token): the time of the last registration
        self.clock = 0
        self.alive = set()  # what an install stands behind: (alias, token)

    def teardown(self):
        transaction.set_rollback(True)
        self.atomic.__exit__(None, None, None)

    def tick(self):
        self.clock += 1
        return self.clock

    @rule(token=TOKENS, alias=ALIASES, device=DEVICES, user=st.sampled_from([None, 0, 0, 1]))
    def register(self, token, alias, device, user):
        """A registration leaves one active row of the token, and of its device."""
        owner = None if user is None else self.users[user]
        row, _ = register_token(token, user=owner, backend=alias, device_id=device)
        row = Tokens.get(pk=row.pk)
        assert (row.token, row.backend, row.status, row.replaced_by) == (token, alias, ACTIVE, None)
        assert owner is None or row.user == owner
        assert device is None or row.device_id == device
        if device:
            theirs = Tokens.active().filter(backend=alias, user=row.user)
            assert [other for other in theirs if other.device_id == row.device_id] == [row]
        self.registered[alias, token] = self.tick()
        self.alive.add((alias, token))
        active = set(Tokens.active().values_list("backend", "token"))
        self.alive &= active | {(alias, token)}

    @rule(token=TOKENS, device=st.sampled_from([None, "d"]))
    def register_at_home(self, token, device):
        """The same user registers again and again, so that rows meet."""
        self.register(token, "default", device, 0)

    @rule(token=TOKENS)
    def log_out(self, token):
        """A logout leaves no active row of the token."""
        unregister_token(token)
        assert not Tokens.active().matching(token).exists()
        self.alive -= {(alias, token) for alias in ("default", "other")}

    @rule(target=sends)
    def send(self):
        """A send reads the active rows, at a time of the database's clock."""
        sent_at = database_now("default")
        return sent_at, self.tick(), list(Tokens.order_by("pk").active())

    @rule(send=sends, data=st.data())
    def answer(self, send, data):
        """A verdict kills or replaces what was sent to, unless it has registered since."""
        sent_at, sent, rows = send
        if not rows:
            return
        reply = []
        for row in data.draw(st.lists(st.sampled_from(rows), max_size=4)):
            new = data.draw(st.sampled_from(["", "a", "b", "c", "g", "h"]))
            reply.append(canonical(row, new) if new else dead(row))
        newer = {key for key in self.active() if self.registered.get(key, 0) > sent}
        before = len(self.active())
        changes = apply(reply, sent_at)
        assert newer <= self.active()
        assert before - len(self.active()) <= changes.deactivated + changes.replaced
        gone = {(t.backend, t.token) for t in reply if t.outcome.is_dead}
        renamed = {(t.backend, t.token): (t.backend, t.replacement) for t in reply if t.replacement}
        for key in list(self.alive - self.active()):
            assert key in gone or key in renamed
            self.alive.discard(key)
        once = list(Tokens.order_by("pk").values())
        assert not apply(reply, sent_at)
        assert list(Tokens.order_by("pk").values()) == once
        # Nothing is lost: what was replaced, and is not called dead, lives on somewhere.
        for row in Tokens.filter(pk__in={t.pk for t in reply if t.replacement}).exclude(replaced_by=None):
            assert self.end(row).status != "replaced"

    @rule(token=TOKENS, new=TOKENS, alias=ALIASES)
    def rename(self, token, new, alias):
        """A replacement by hand leaves no active row of the old token."""
        row = Tokens.active().filter(backend=alias).matching(token).first()
        if row is not None and replace(row, new, source="admin"):
            assert not Tokens.active().filter(backend=alias).matching(token).exists()
            self.alive.discard((alias, token))

    @rule(token=TOKENS)
    def staff(self, token):
        """What staff takes away it can give back."""
        found = Tokens.matching(token)
        was = found.active().count()
        assert deactivate(found, code="x", source="admin") == was
        assert reactivate(found.filter(status_code="x"), source="admin") >= was

    @rule(there=st.booleans())
    def move_alias(self, there):
        """A move leaves in the source only what has been replaced."""
        source, target = ("default", "other") if there else ("other", "default")
        move(source, target)
        assert not Tokens.active().filter(backend=source).exists()
        moved = {key for key in self.alive if key[0] == source}
        self.alive = (self.alive - moved) | {(target, token) for _, token in moved} & self.active()
        for alias, token in self.alive - self.active():  # only for a newer row of the same install
            row = Tokens.matching(token).get(backend=alias)
            newer = Tokens.active().filter(backend=target, device_id=row.device_id, user=row.user)
            assert (row.status_code, newer.count()) == ("rotated", 1)
        self.alive &= self.active()
        for (alias, token), at in list(self.registered.items()):
            if alias == source:
                self.registered[target, token] = max(at, self.registered.get((target, token), 0))
                del self.registered[alias, token]

    def active(self):
        return set(Tokens.active().values_list("backend", "token"))

    def end(self, row):
        for _ in range(50):
            if row.status != "replaced" or row.replaced_by is None:
                return row
            row = row.replaced_by
        raise AssertionError("a circle")

    @invariant()
    def one_row_per_token(self):
        """A token is in an alias once, and found by its digest."""
        rows = list(Tokens.all())
        assert len({(row.backend, row.token) for row in rows}) == len(rows)
        assert all(row in Tokens.matching(row.token) for row in rows)

    @invariant()
    def pointers(self):
        """Only replaced rows point, within their alias, and never in a circle."""
        for row in Tokens.exclude(replaced_by=None).select_related("replaced_by"):
            assert row.status == "replaced"
            assert row.replaced_by.backend == row.backend
            self.end(row)

    @invariant()
    def nobody_alive_is_lost(self):
        """A token that registered, and that nothing was said about, has an active row."""
        assert self.alive <= self.active()


@pytest.mark.slow
@pytest.mark.django_db
def test_token_state():
    """Whatever happens in whatever order, the promises about token state hold."""
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
