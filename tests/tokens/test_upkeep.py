from datetime import timedelta

import pytest
from django.contrib.auth.models import Group
from django.db.models import Count, Q

from django_push.models import get_token_model
from django_push.tokens import Pruned, apply, deactivate, prune, reactivate, set_enabled, writing
from django_push.tokens.writing import pages
from tests.tokens.helpers import (
    ACTIVE,
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


@pytest.fixture
def small_pages(monkeypatch):
    monkeypatch.setattr(writing, "PAGE", 3)


class TestVerbs:
    def test_deactivate(self, ann):
        """Staff retires tokens with a reason; those that are inactive keep theirs."""
        one, two = register("a", ann), register("b", ann)
        assert deactivate(Tokens.filter(pk=one.pk), code="spam", source="admin") == 1
        assert deactivate(Tokens.all(), code="more", source="admin") == 1
        assert [fresh(one).status_code, fresh(two).status_code] == ["spam", "more"]
        assert state(one, two) == [RETIRED, RETIRED]

    def test_reactivate(self, ann, now):
        """Staff brings tokens back, and nothing is left of the reason."""
        old, _ = register("a", ann), register("b", ann)
        apply([canonical(old, "b")], now())
        assert reactivate(Tokens.all(), source="admin") == 1
        old = fresh(old)
        assert (old.status, old.status_code, old.status_source) == (ACTIVE, "", "admin")
        assert old.replaced_by is None
        before = snapshot()
        assert reactivate(Tokens.all(), source="admin") == 0
        assert snapshot() == before

    def test_reactivation_is_no_registration(self, now):
        """A verdict on a send before the reactivation still counts: nobody has registered."""
        row = register("a")
        sent_at = now()
        apply([dead(row)], sent_at)
        reactivate(Tokens.all(), source="admin")
        assert apply([dead(row)], sent_at)

    def test_undo_one_broadcast(self, now):
        """The deactivations of one broadcast can be undone by their source."""
        one, two, three = register("a"), register("b"), register("c")
        apply([dead(one), dead(two)], now(), source="broadcast:7")
        apply([dead(three)], now(), source="receipt")
        assert reactivate(Tokens.filter(status_source="broadcast:7"), source="admin") == 2
        assert state(one, two, three) == [ACTIVE, ACTIVE, UNREGISTERED]

    def test_set_enabled(self, ann):
        """The wish is not the status."""
        row = register("a", ann)
        assert set_enabled(Tokens.all(), False) == 1
        assert set_enabled(Tokens.all(), False) == 0
        assert (fresh(row).enabled, fresh(row).status) == (False, ACTIVE)
        assert not Tokens.sendable().exists()
        assert set_enabled(Tokens.all(), True) == 1

    def test_status_changed(self):
        """The monitor column moves with the status, and only with it."""
        row = register("a")
        age(row, days=3)
        before = fresh(row).status_changed
        set_enabled(Tokens.all(), False)
        assert fresh(row).status_changed == before
        deactivate(Tokens.all(), code="x", source="admin")
        assert fresh(row).status_changed > before


@pytest.mark.usefixtures("small_pages")
class TestQuerysets:
    """Any queryset of tokens will do, over more than a page."""

    @pytest.fixture
    def many(self, ann, bob):
        for user in (ann, bob):
            user.groups.add(*[Group.objects.create(name=f"{user} {n}") for n in range(3)])
        return [register(f"t{n}", (ann, bob)[n % 2]) for n in range(10)]

    @pytest.mark.parametrize(
        "which",
        [
            Tokens.all,
            lambda: Tokens,
            lambda: Tokens.order_by("-token"),
            lambda: Tokens.order_by("token").reverse(),
            Tokens.reverse,
            lambda: (
                Tokens.filter(user__groups__name__startswith="ann").order_by("user__username")
                | Tokens.filter(user__username="bob")
            ),
            lambda: Tokens.filter(user__groups__isnull=False).distinct(),
            lambda: Tokens.annotate(n=Count("user__groups")).filter(n=3),
            lambda: Tokens.select_related("user").only("token"),
            lambda: Tokens.filter(~Q(user=None)).values("token"),
            lambda: Tokens.order_by("token")[:10],
            lambda: Tokens.filter(user__username="ann").union(Tokens.filter(user__username="bob")),
        ],
    )
    def test_whole(self, many, which):
        """Each row is changed once, whatever the order, the joins or the form of the queryset."""
        assert deactivate(which(), code="x", source="admin") == 10
        assert not Tokens.active().exists()
        assert reactivate(which(), source="admin") == 10

    def test_slice(self, many):
        """Of a slice only its rows are changed."""
        assert deactivate(Tokens.order_by("-pk")[2:6], code="x", source="admin") == 4
        assert state(*many) == [ACTIVE] * 4 + [RETIRED] * 4 + [ACTIVE] * 2

    def test_related(self, many, ann):
        """A user's own tokens are changed, nobody else's."""
        assert set_enabled(ann.push_tokens.active(), False) == 5
        assert Tokens.sendable().count() == 5

    def test_pages_are_read_by_key(self, many, django_assert_num_queries):
        """A page begins after the last key of the page before."""
        with django_assert_num_queries(5):
            found = list(pages(Tokens.all()))
        assert [len(page) for page in found] == [3, 3, 3, 1]
        assert [pk for page in found for pk in page] == [row.pk for row in many]


class TestPrune:
    def test_unseen(self, ann):
        """Active tokens that were not seen for so long are retired, the others are left alone."""
        stale, seen = register("a", ann), register("b", ann)
        age(stale, days=31)
        assert prune(unseen_for=timedelta(days=30)) == Pruned(retired=1)
        stale = fresh(stale)
        assert (stale.status, stale.status_code, stale.status_source) == (RETIRED, "stale", "prune")
        assert state(seen) == [ACTIVE]

    def test_never_seen(self):
        """A row that was imported and never seen counts from its creation."""
        row = Tokens.create(token="a", backend="default")
        assert prune(unseen_for=timedelta(days=30)) == Pruned()
        Tokens.filter(pk=row.pk).update(created=row.created - timedelta(days=31))
        assert prune(unseen_for=timedelta(days=30)) == Pruned(1)

    def test_dead(self, ann):
        """Rows that were dead for so long are deleted, with what pointed to them kept."""
        old, new, live = (register(name, ann) for name in "abc")
        deactivate(Tokens.filter(pk=new.pk), code="x", source="admin")
        deactivate(Tokens.filter(pk=old.pk), code="x", source="admin", status=REPLACED)
        Tokens.filter(pk=old.pk).update(replaced_by=new)
        age(new, days=91)
        age(live, days=91)
        assert prune(dead_for=timedelta(days=90)) == Pruned(deleted=1)
        assert set(Tokens.all()) == {old, live}
        assert fresh(old).replaced_by is None

    def test_both(self, ann):
        """What is retired now is not deleted now."""
        row = register("a", ann)
        age(row, days=400)
        assert prune(unseen_for=timedelta(days=30), dead_for=timedelta(days=90)) == Pruned(1, 0)

    def test_dry_run(self, ann):
        """A dry run counts the same and changes nothing."""
        for name in "abc":
            age(register(name, ann), days=400)
        deactivate(Tokens.filter(token="a"), code="x", source="admin")
        age(Tokens.get(token="a"), days=400)
        before = snapshot()
        ask = {"unseen_for": timedelta(days=30), "dead_for": timedelta(days=90)}
        assert prune(**ask, dry_run=True) == Pruned(2, 1)
        assert snapshot() == before
        assert prune(**ask) == Pruned(2, 1)

    def test_nothing_asked(self, ann):
        """Without a limit nothing is pruned."""
        age(register("a", ann), days=4000)
        assert prune() == Pruned()

    @pytest.mark.usefixtures("small_pages")
    def test_many(self, ann):
        """A prune goes on until all is done."""
        for n in range(10):
            age(register(f"t{n}", ann), days=400)
        assert prune(unseen_for=timedelta(days=30)) == Pruned(10)
        for row in Tokens.all():
            age(row, days=800)
        assert prune(dead_for=timedelta(days=90)) == Pruned(deleted=10)
        assert not Tokens.exists()
