import dataclasses
from datetime import timedelta

import pytest
from django.db.models import Q

from django_push import Outcome, unregister_token
from django_push.models import get_token_model
from django_push.outcomes import Target, TargetKind, TokenChanges, checksum
from django_push.tokens import apply, deactivate, set_enabled
from django_push.tokens.writing import write
from tests.tokens.helpers import (
    ACTIVE,
    INVALID,
    RETIRED,
    UNREGISTERED,
    canonical,
    dead,
    fresh,
    register,
    snapshot,
    state,
    ticket,
)

pytestmark = pytest.mark.django_db
Tokens = get_token_model().objects


def of_receipt(row, token):
    """Return the verdict of a receipt for a push to this token, of which only the checksum was kept."""
    return dataclasses.replace(dead(row), target=Target(str(checksum(token)), row.pk, TargetKind.CHECKSUM))


class TestDeath:
    def test_unregistered(self, now):
        """DeviceNotRegistered deactivates exactly that token, and says why."""
        row, other = register("a"), register("b")
        assert apply([dead(row), ticket(other)], now()) == TokenChanges(deactivated=1)
        row = fresh(row)
        assert (row.status, row.status_code, row.status_source) == (
            UNREGISTERED,
            "DeviceNotRegistered",
            "ticket",
        )
        assert state(other) == [ACTIVE]

    def test_invalid(self, now):
        """A malformed token becomes invalid."""
        row = register("a")
        apply([ticket(row, Outcome.INVALID_TOKEN, code="InvalidRegistration")], now(), source="receipt")
        assert (fresh(row).status, fresh(row).status_source) == (INVALID, "receipt")

    @pytest.mark.parametrize("outcome", [o for o in Outcome if not o.is_dead])
    def test_nothing_else_deactivates(self, outcome, now, django_assert_num_queries):
        """No other outcome touches the token, or the database."""
        row = register("a")
        sent_at = now()
        before = snapshot()
        with django_assert_num_queries(0):
            assert not apply([ticket(row, outcome, code="X", detail="bad")], sent_at)
        assert snapshot() == before

    def test_repeated(self, now):
        """A verdict that is repeated changes nothing more."""
        row = register("a")
        sent_at = now()
        apply([dead(row)], sent_at)
        before = snapshot()
        assert apply([dead(row, code="Other")], sent_at) == TokenChanges()
        assert snapshot() == before

    def test_registered_after_the_send(self, now):
        """A token that registered after the send lives."""
        row = register("a")
        sent_at = now()
        register("a")
        assert not apply([dead(row)], sent_at)
        assert state(row) == [ACTIVE]

    def test_registered_at_the_very_time_of_the_send(self):
        """Equal is not before."""
        row = fresh(register("a"))
        assert not apply([dead(row)], row.registered_at)
        assert apply([dead(row)], row.registered_at + timedelta(microseconds=1))

    def test_whole_second(self):
        """A time without microseconds orders as any other, on SQLite too."""
        row = fresh(register("a"))
        whole = row.registered_at.replace(microsecond=0)
        write(Q(pk=row.pk), {"registered_at": whole})
        assert not apply([dead(row)], whole - timedelta(microseconds=1))
        assert not apply([dead(row)], whole)
        assert apply([dead(row)], whole + timedelta(microseconds=1))

    def test_other_token_in_the_row(self, now):
        """A verdict on a token that the row no longer has is not about the row."""
        row = register("a", device_id="d")
        register("b", device_id="d")
        assert not apply([dead(row, token="a")], now())
        assert state(row) == [ACTIVE]

    def test_receipt_after_rotation(self, ann, now):
        """A receipt, which knows only the row, does not reach a token that came after the send."""
        row = register("a", ann, device_id="d")
        sent_at = now()
        register("b", ann, device_id="d")
        assert not apply([of_receipt(row, "b")], sent_at, source="receipt")
        assert not apply([of_receipt(row, "a")], now(), source="receipt")
        assert apply([of_receipt(row, "b")], now(), source="receipt")

    def test_another_alias(self, now):
        """What the old alias's provider says of a row that was moved meanwhile is not about it."""
        row = register("a")
        ticket = dead(row)
        Tokens.update(backend="other")
        assert not apply([ticket], now())
        assert fresh(row).status == ACTIVE

    @pytest.mark.parametrize("status", [RETIRED, INVALID, UNREGISTERED])
    def test_inactive_already(self, now, status):
        """A reason that is there already is kept."""
        row = register("a")
        deactivate(Tokens.all(), code="first", source="admin", status=status)
        assert not apply([dead(row)], now())
        assert fresh(row).status_code == "first"

    def test_muted(self, now):
        """A muted token dies as any other, and stays muted."""
        row = register("a")
        set_enabled(Tokens.all(), False)
        apply([dead(row)], now())
        assert (fresh(row).status, fresh(row).enabled) == (UNREGISTERED, False)

    def test_row_gone(self, now):
        """A ticket for a row that was deleted is nothing to do."""
        row, other = register("a"), register("b")
        Tokens.filter(pk=row.pk).delete()
        assert apply([dead(row), canonical(row, "c"), dead(other)], now()) == TokenChanges(1)

    def test_without_a_row(self, now, django_assert_num_queries):
        """A raw string, a topic or a condition has no row to change."""
        row = register("a")
        row.pk, sent_at = None, now()
        with django_assert_num_queries(0):
            assert not apply([dead(row)], sent_at)

    def test_same_row_twice(self, committed, now):
        """Two verdicts on one row in one call count, and are told, once."""
        row = register("a")
        changes = []
        heard = committed(
            lambda: changes.append(
                apply([dead(row), dead(row, code="Other"), dead(row)], now()),
            )
        )
        assert changes == [TokenChanges(1)]
        assert [about["code"] for about in heard.of("token_deactivated")] == ["DeviceNotRegistered"]

    def test_reasons_apart(self, now):
        """Each row keeps its own reason."""
        rows = [register(f"t{n}") for n in range(6)]
        tickets = [dead(row, code=f"code-{n % 3}") for n, row in enumerate(rows)]
        assert apply(tickets, now()).deactivated == 6
        assert [fresh(row).status_code for row in rows] == [f"code-{n % 3}" for n in range(6)]

    def test_strange_code(self, now):
        """A code that a provider made up, of any length, is kept as far as it can be."""
        row = register("a")
        apply([dead(row, code="x\0\ud800" + "y" * 500)], now())
        assert fresh(row).status_code.startswith("x")
        assert len(fresh(row).status_code) <= 200

    def test_many(self, now):
        """Every verdict of a large reply is written, page by page."""
        Tokens.bulk_create([get_token_model()(token=f"t{n}", backend="default") for n in range(2500)])
        rows = list(Tokens.order_by("pk"))
        assert apply((dead(row) for row in rows[:2400]), now()) == TokenChanges(2400)
        assert Tokens.active().count() == 100


class TestMixed:
    def test_one_reply(self, now):
        """Deaths, replacements and projects of one reply are written together."""
        a, b, c, d = (register(name) for name in "abcd")
        reply = [dead(a), canonical(b, "b2"), ticket(c, project="@x/app"), ticket(d)]
        assert apply(reply, now()) == TokenChanges(1, 1)
        assert fresh(b).token == "b2"
        assert fresh(c).project == "@x/app"
        assert state(a, b, c, d) == [UNREGISTERED, ACTIVE, ACTIVE, ACTIVE]
        before = snapshot()
        assert not apply(reply, now())
        assert snapshot() == before

    def test_dead_and_replaced(self, now):
        """Of a death and a replacement of one token, the death counts."""
        row = register("a")
        assert apply([canonical(row, "a2"), dead(row)], now()) == TokenChanges(1, 0)
        assert (fresh(row).token, fresh(row).status) == ("a", UNREGISTERED)

    def test_dead_with_a_replacement(self, now):
        """A replacement beside a death is no replacement."""
        row = register("a")
        assert apply([dead(row, replacement="a2")], now()) == TokenChanges(1, 0)
        assert fresh(row).token == "a"

    def test_replaced_by_a_dead_one(self, now):
        """Something is left to send to when the canonical id is called dead in the same reply."""
        a, b = register("a"), register("b")
        apply([canonical(a, "b"), dead(b)], now())
        assert ACTIVE in state(a, b)

    def test_project_is_learned_once(self, now, django_assert_num_queries):
        """A project that is known is not written again."""
        row = register("a")
        apply([ticket(row, project="@x/app")], now())
        modified = fresh(row).modified
        apply([ticket(row, project="@x/app")], now())
        assert fresh(row).modified == modified

    @pytest.mark.parametrize("project", ["p" * 256, "p\0"])
    def test_project_that_cannot_be_stored(self, project, now):
        """A project that no column holds is not learned, and stops nothing."""
        row, other = register("a"), register("b")
        apply([ticket(row, project=project), dead(other)], now())
        assert fresh(row).project == ""
        assert state(other) == [UNREGISTERED]

    def test_project_of_another_token(self, ann, now):
        """A project is not learned of a token that the row no longer has."""
        row = register("a", ann, device_id="d")
        register("b", ann, device_id="d")
        apply([ticket(row, token="a", project="@x/app")], now())
        assert fresh(row).project == ""

    def test_logged_out_meanwhile(self, now):
        """A token that logged out after the send is not renamed."""
        row = register("a")
        sent_at = now()
        unregister_token("a")
        assert not apply([canonical(row, "a2")], sent_at)
        assert fresh(row).token == "a"
