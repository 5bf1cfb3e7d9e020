from itertools import pairwise, permutations

import pytest

from django_push import unregister_token
from django_push.exceptions import InvalidToken
from django_push.models import get_token_model
from django_push.outcomes import TokenChanges
from django_push.tokens import apply, deactivate, replace, set_enabled
from tests.tokens.helpers import (
    ACTIVE,
    INVALID,
    REPLACED,
    RETIRED,
    UNREGISTERED,
    age,
    canonical,
    dead,
    fresh,
    register,
    snapshot,
    state,
)

pytestmark = pytest.mark.django_db
Tokens = get_token_model().objects


class TestRename:
    def test_row_takes_the_new_token(self, ann, now):
        """A canonical id without a row is written into the old one's row."""
        row = register("a", ann, locale="de")
        assert apply([canonical(row, "b")], now()) == TokenChanges(0, 1)
        row = fresh(row)
        assert (row.token, row.user, row.locale, row.status) == ("b", ann, "de", ACTIVE)
        assert Tokens.matching("b").get() == row

    def test_moves_registered_at_forward(self, now):
        """A verdict on a send before the replacement no longer counts."""
        row = register("a")
        sent_at = now()
        apply([canonical(row, "b")], sent_at)
        assert not apply([dead(fresh(row))], sent_at)
        assert state(row) == [ACTIVE]

    def test_registered_after_the_send(self, now):
        """A token that registered after the send keeps its name."""
        row = register("a")
        sent_at = now()
        register("a")
        assert not apply([canonical(row, "b")], sent_at)

    def test_itself(self, now):
        """A token that is replaced by itself changes nothing."""
        row = register("a")
        before = snapshot()
        assert not apply([canonical(row, "a")], now())
        assert snapshot() == before

    @pytest.mark.parametrize("new", ["b" * 4097, "b\0"])
    def test_that_cannot_be_stored(self, new, now):
        """A canonical id that no row can hold is left out, and stops nothing."""
        row, other = register("a"), register("c")
        assert apply([canonical(row, new), dead(other)], now()) == TokenChanges(1, 0)
        assert fresh(row).token == "a"

    def test_other_alias(self, now):
        """The same token in another alias is another install's."""
        row, other = register("a"), register("b", backend="other")
        apply([canonical(row, "b")], now())
        assert (fresh(row).token, state(row, other)) == ("b", [ACTIVE, ACTIVE])


class TestMerge:
    def test_old_points_to_new(self, ann, now):
        """If the new token has a row, the old one becomes replaced and points to it."""
        old, new = register("a", ann), register("b", ann)
        assert apply([canonical(old, "b")], now()) == TokenChanges(0, 1)
        old = fresh(old)
        assert (old.status, old.status_code, old.status_source) == (REPLACED, "canonical", "ticket")
        assert (old.replaced_by, old.token) == (new, "a")
        assert state(new) == [ACTIVE]

    def test_newer_holder_keeps_its_owner(self, ann, bob, now):
        """The user who registered last owns the install: here the holder's."""
        old, new = register("a", ann, device_id="d1"), register("b", bob, device_id="d2")
        apply([canonical(old, "b")], now())
        assert (fresh(new).user, fresh(new).device_id) == (bob, "d2")

    def test_newer_old_row_brings_its_owner(self, ann, bob, now):
        """The user who registered last owns the install: here the old row's."""
        new, old = register("b", bob, device_id="d2"), register("a", ann, device_id="d1")
        set_enabled(Tokens.filter(pk=old.pk), False)
        apply([canonical(old, "b")], now())
        new = fresh(new)
        assert (new.user, new.device_id, new.enabled) == (ann, "d1", False)
        assert new.last_seen_at == fresh(old).last_seen_at

    def test_anonymous_old_row_takes_no_owner_away(self, bob, now):
        """A later registration without a user takes nothing from an active row's owner."""
        new, old = register("b", bob), register("a")
        set_enabled(Tokens.filter(pk=old.pk), False)
        apply([canonical(old, "b")], now())
        assert (fresh(new).user, fresh(new).enabled) == (bob, True)

    @pytest.mark.parametrize("status", [UNREGISTERED, INVALID])
    def test_dead_holder_lives_again(self, ann, bob, now, status):
        """A holder that was called dead is alive, since the provider names it."""
        old, new = register("a", ann), register("b", bob)
        deactivate(Tokens.filter(pk=new.pk), code="x", source="ticket", status=status)
        apply([canonical(old, "b")], now())
        assert state(old, new) == [REPLACED, ACTIVE]
        assert fresh(new).user == bob

    def test_logged_out_holder_stays_so(self, ann, bob, now):
        """A user who logged out of the install after the old row's registration is not told."""
        old, new = register("a", ann), register("b", bob)
        unregister_token("b")
        apply([canonical(old, "b")], now())
        assert state(old, new) == [REPLACED, RETIRED]

    def test_logged_out_holder_of_an_older_registration(self, ann, bob, now):
        """A logout before the old row's registration is over."""
        new = register("b", bob)
        unregister_token("b")
        old = register("a", ann)
        apply([canonical(old, "b")], now())
        assert state(old, new) == [REPLACED, ACTIVE]
        assert fresh(new).user == ann

    def test_repeated(self, ann, now):
        """A replacement that is repeated changes nothing more."""
        old, _ = register("a", ann), register("b", ann)
        sent_at = now()
        apply([canonical(old, "b")], sent_at)
        before = snapshot()
        assert not apply([canonical(old, "b")], sent_at)
        assert not apply([canonical(old, "b")], now())
        assert snapshot() == before


class TestChains:
    @pytest.mark.parametrize("order", ["ab", "ba"])
    def test_two_to_one_without_a_row(self, order, ann, bob, now):
        """Of two old ids with one new id, one row takes it, one points there; the newer owner keeps it."""
        rows = {"a": register("a", ann), "b": register("b", bob)}
        changes = apply([canonical(rows[name], "c") for name in order], now())
        assert changes == TokenChanges(0, 2)
        holder = Tokens.get(token="c")
        assert (holder.user, holder.status) == (bob, ACTIVE)
        assert Tokens.active().count() == 1
        assert Tokens.get(status=REPLACED).replaced_by == holder

    @pytest.mark.parametrize("order", ["ab", "ba"])
    def test_two_to_one_in_two_replies(self, order, ann, bob, now):
        """The newer registration keeps its owner, whichever reply comes first."""
        rows = {"a": register("a", ann), "b": register("b", bob)}
        for name in order:
            apply([canonical(rows[name], "c")], now())
        assert Tokens.get(status=ACTIVE).user == bob
        assert Tokens.get(status=ACTIVE).token == "c"

    @pytest.mark.parametrize("order", list(permutations("abc")))
    def test_chain_in_one_reply(self, order, now):
        """A chain of replacements in one reply ends at its end, in any order."""
        rows = {name: register(name) for name in "abc"}
        following = {"a": "b", "b": "c", "c": "d"}
        apply([canonical(rows[name], following[name]) for name in order], now())
        assert list(Tokens.active().values_list("token", flat=True)) == ["d"]
        assert Tokens.filter(status=REPLACED, replaced_by=Tokens.get(token="d")).count() == 2

    def test_crossed_in_one_reply(self, now):
        """A circle within one reply is nobody's replacement."""
        a, b = register("a"), register("b")
        before = snapshot()
        assert not apply([canonical(a, "b"), canonical(b, "a")], now())
        assert snapshot() == before

    def test_crossed_in_two_replies_of_one_time(self, now):
        """Two replies that contradict each other leave one active row, and then have nothing to say."""
        a, b = register("a"), register("b")
        sent_at = now()
        apply([canonical(a, "b")], sent_at)
        apply([canonical(b, "a")], sent_at)
        assert state(a, b) == [ACTIVE, REPLACED]
        before = snapshot()
        assert not apply([canonical(a, "b"), dead(a)], sent_at)
        assert not apply([canonical(b, "a"), dead(b)], sent_at)
        assert snapshot() == before

    def test_chain_in_two_replies_of_one_time(self, ann, bob, now):
        """A chain whose links come in two replies ends at its end, with the newest owner."""
        rows = [register("b", bob), register("c", bob), register("a", ann)]
        sent_at = now()
        apply([canonical(rows[2], "b")], sent_at)
        apply([canonical(rows[0], "c")], sent_at)
        assert state(*rows) == [REPLACED, ACTIVE, REPLACED]
        assert fresh(rows[1]).user == ann

    def test_back_again_later(self, now):
        """What the provider says later counts: an id may become canonical again."""
        a, b = register("a"), register("b")
        apply([canonical(a, "b")], now())
        apply([canonical(b, "a")], now())
        assert state(a, b) == [ACTIVE, REPLACED]
        assert (fresh(a).replaced_by, fresh(b).replaced_by) == (None, a)

    def test_named_one_was_replaced_by_an_active_one(self, now):
        """A replacement that was itself replaced leads to the end of its chain."""
        a, b, c = register("a"), register("b"), register("c")
        apply([canonical(b, "c")], now())
        apply([canonical(a, "b")], now())
        assert state(a, b, c) == [REPLACED, REPLACED, ACTIVE]
        assert fresh(a).replaced_by == c

    def test_end_of_the_chain_is_dead(self, now):
        """If the chain of the named id ends at a dead row, the named id is alive itself."""
        a, b, c = register("a"), register("b"), register("c")
        apply([canonical(b, "c")], now())
        apply([dead(c)], now())
        apply([canonical(a, "b")], now())
        assert state(a, b, c) == [REPLACED, ACTIVE, UNREGISTERED]

    @pytest.mark.parametrize("length", [15, 60])
    def test_long_chain(self, length, now, django_assert_max_num_queries):
        """A chain of any length ends with one row to send to, in bounded queries."""
        rows = [register(f"t{n}") for n in range(length)]
        for old, new in pairwise(rows):
            apply([canonical(old, new.token)], now())
        last = register("last")
        with django_assert_max_num_queries(40):
            apply([canonical(last, "t0")], now())
        active = list(Tokens.active())
        assert len(active) == (1 if length == 15 else 2)
        assert state(last) == [REPLACED]

    def test_circle_in_the_table(self, now):
        """A circle of pointers, however it came about, is walked once."""
        a, b, c = register("a"), register("b"), register("c")
        deactivate(Tokens.filter(pk__in=[b.pk, c.pk]), code="x", source="admin", status=REPLACED)
        Tokens.filter(pk=b.pk).update(replaced_by=c)
        Tokens.filter(pk=c.pk).update(replaced_by=b)
        apply([canonical(a, "b")], now())
        assert state(a, b) == [REPLACED, ACTIVE]


class TestReplace:
    def test_by_hand(self, ann):
        """The verb renames a row as a canonical id would."""
        row = register("a", ann)
        assert replace(row, "b", source="admin")
        assert fresh(row).token == "b"

    def test_merge(self, ann):
        """The verb merges into the row that has the token."""
        old, new = register("a", ann), register("b", ann)
        assert replace(old, "b", source="admin")
        assert (fresh(old).replaced_by, fresh(old).status_code) == (new, "replaced")
        assert fresh(old).status_source == "admin"

    def test_nothing_to_do(self, ann):
        """Itself, an inactive row or a row that has changed meanwhile is not replaced."""
        row = register("a", ann, device_id="d")
        assert not replace(row, "a", source="admin")
        register("b", ann, device_id="d")
        assert not replace(row, "c", source="admin")
        unregister_token("b")
        assert not replace(fresh(row), "c", source="admin")
        Tokens.all().delete()
        assert not replace(row, "c", source="admin")

    def test_form(self, ann):
        """The new token must be one of the backend."""
        with pytest.raises(InvalidToken):
            replace(register("a", ann), "b b", source="admin")

    def test_old_registration_is_not_newer_for_being_renamed(self, ann, bob):
        """A rename is no registration: the owner is still who registered last."""
        old, newer = register("a", ann), register("b", bob)
        age(old, days=30)
        replace(fresh(old), "a2", source="admin")
        replace(fresh(newer), "a2", source="admin")
        assert Tokens.get(token="a2").user == bob
