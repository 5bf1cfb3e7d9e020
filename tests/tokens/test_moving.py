import pytest
from django.db.models import F

from django_push import InvalidPushBackend
from django_push.models import get_token_model
from django_push.tokens import Moved, apply, deactivate, move, writing
from tests.tokens.helpers import (
    ACTIVE,
    REPLACED,
    RETIRED,
    UNREGISTERED,
    canonical,
    dead,
    fresh,
    register,
    snapshot,
    state,
)

pytestmark = pytest.mark.django_db
Tokens = get_token_model().objects


def crossing():
    return Tokens.filter(replaced_by__isnull=False).exclude(replaced_by__backend=F("backend"))


def test_moves(ann):
    """The rows of one alias become the other's, with all that they have."""
    rows = [register(f"t{n}", ann, locale="de") for n in range(3)]
    deactivate(Tokens.filter(pk=rows[2].pk), code="x", source="admin")
    told = []
    assert move("default", "other", on_page=told.append) == Moved(3)
    assert {fresh(row).backend for row in rows} == {"other"}
    assert state(*rows) == [ACTIVE, ACTIVE, RETIRED]
    assert told == [3]


def test_verdict_on_a_send_before(now):
    """A verdict of the old provider does not reach a token that has moved."""
    row = register("a")
    sent_at = now()
    move("default", "other")
    assert not apply([dead(row)], sent_at)


def test_merges_by_the_rule_of_canonical_ids(ann, bob):
    """A token that the target has already is merged: the newer registration keeps its owner."""
    old, newer = register("a", ann), register("b", bob)
    twin, twin_of_newer = register("a", bob, "other"), register("b", ann, "other")
    register("b", bob)
    assert move("default", "other") == Moved(0, 2)
    assert state(old, newer, twin, twin_of_newer) == [REPLACED, REPLACED, ACTIVE, ACTIVE]
    assert (fresh(twin).user, fresh(twin_of_newer).user) == (bob, bob)
    assert fresh(old).status_code == "moved"
    assert fresh(old).replaced_by is None


def test_registered_in_the_source_after_the_send(ann, now):
    """A registration in the source that came after a send by the target protects the merged row."""
    twin = register("a", ann, "other")
    sent_at = now()
    register("a", ann)
    move("default", "other")
    assert not apply([dead(twin)], sent_at)


def test_dead_row_does_not_wake_its_twin(ann):
    """A dead row is merged without a word about the row that is there."""
    row, twin = register("a", ann), register("a", ann, "other")
    deactivate(Tokens.all(), code="x", source="ticket", status=UNREGISTERED)
    assert move("default", "other") == Moved(0, 1)
    assert state(row, twin) == [REPLACED, UNREGISTERED]


def test_active_row_wakes_a_dead_twin(ann):
    """An active row makes the row that it is merged into active."""
    twin = register("a", ann, "other")
    deactivate(Tokens.all(), code="x", source="ticket", status=UNREGISTERED)
    row = register("a", ann)
    move("default", "other")
    assert state(row, twin) == [REPLACED, ACTIVE]


def test_merges_into_the_end_of_a_chain(ann, now):
    """A twin that was replaced itself leads to the row that stands in its place."""
    twin, end = register("a", ann, "other"), register("b", ann, "other")
    apply([canonical(twin, "b")], now())
    row = register("a", ann)
    assert move("default", "other") == Moved(0, 1)
    assert state(row, twin, end) == [REPLACED, REPLACED, ACTIVE]


def test_again(ann):
    """Run again, it finds nothing to do."""
    register("a", ann)
    register("b", ann)
    register("b", ann, "other")
    move("default", "other")
    before = snapshot()
    assert move("default", "other") == Moved()
    assert snapshot() == before


def test_dry_run(ann, now):
    """A dry run counts the same and changes nothing."""
    old, _ = register("a", ann), register("b", ann)
    apply([canonical(old, "b")], now())
    register("c", ann)
    register("c", ann, "other")
    before = snapshot()
    planned = move("default", "other", dry_run=True)
    assert snapshot() == before
    assert move("default", "other") == planned == Moved(2, 1)


@pytest.mark.parametrize("page", [1, 2, 100])
def test_pointers_stay_within_the_alias(page, ann, now, monkeypatch):
    """A replaced row moves with its successor, or loses the pointer."""
    monkeypatch.setattr(writing, "PAGE", page)
    a, b, c, _ = (register(name, ann) for name in "abcd")
    apply([canonical(a, "b"), canonical(c, "d")], now())
    register("d", ann, "other")
    move("default", "other")
    assert not crossing().exists()
    assert fresh(a).replaced_by == b
    assert (fresh(a).backend, fresh(b).backend) == ("other", "other")
    assert fresh(c).replaced_by is None
    assert move("default", "other") == Moved()


def test_tokens_of_another_form_stay(settings, ann):
    """A token that the target does not accept stays where it can be sent to."""
    settings.PUSH_BACKENDS = {
        "default": {"BACKEND": "django_push.backends.locmem.LocMemBackend"},
        "expo": {"BACKEND": "django_push.backends.expo.ExpoBackend"},
    }
    stays, goes = register("a", ann), register("ExponentPushToken[x]", ann)
    fid = register("ExponentPushToken[y]", ann, kind="fid")
    assert move("default", "expo") == Moved(1, 0, 2)
    assert [fresh(row).backend for row in (stays, goes, fid)] == ["default", "expo", "default"]


def test_source_may_be_gone(settings, ann):
    """The source need not be configured any more."""
    row = register("a", ann)
    settings.PUSH_BACKENDS = {"other": settings.PUSH_BACKENDS["other"]}
    assert move("default", "other") == Moved(1)
    assert fresh(row).backend == "other"


@pytest.mark.parametrize(("source", "target"), [("default", "nope"), ("other", "other")])
def test_target_that_cannot_be(source, target, ann):
    """An unknown target, or the source itself, is refused before anything is changed."""
    register("a", ann)
    with pytest.raises(InvalidPushBackend):
        move(source, target)


def test_device_that_has_registered_at_the_target(ann, bob):
    """An install that has a newer token at the target keeps that one; another user's row is let be."""
    old = register("old", ann, device_id="d")
    new = register("new", ann, backend="other", device_id="d")
    theirs = register("theirs", bob, backend="other", device_id="d")
    assert move("default", "other") == Moved(0, 1)
    assert state(old, new, theirs) == [REPLACED, ACTIVE, ACTIVE]


def test_device_that_has_registered_at_the_source_since(ann):
    """An install whose newer token is the one that moves loses the older one at the target."""
    old = register("old", ann, backend="other", device_id="d")
    new = register("new", ann, device_id="d")
    assert move("default", "other") == Moved(1)
    assert state(old, new) == [REPLACED, ACTIVE]
    assert fresh(old).replaced_by_id == new.pk
