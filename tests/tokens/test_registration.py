from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser

from django_push import AmbiguousBackend, InvalidPushBackend, InvalidToken, register_token, unregister_token
from django_push.backends.locmem import LocMemBackend
from django_push.models import get_token_model
from django_push.tokens import apply, deactivate, set_enabled
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


class LaxBackend(LocMemBackend):
    """Takes anything at all for a token."""

    def accepts(self, token):
        return True


class TestRegister:
    def test_new(self, ann):
        """A new token gets an active row with the facts that were given."""
        row, created = register_token(
            "tok",
            user=ann,
            backend="other",
            device_id="d",
            platform="ios",
            device_name="Ann's phone",
            app_version="1.2",
            locale="de-AT",
            timezone="Europe/Vienna",
            metadata={"a": [1]},
        )
        row = fresh(row)
        assert created
        assert (row.user, row.backend, row.status, row.enabled) == (ann, "other", ACTIVE, True)
        assert (row.device_id, row.platform, row.device_name) == ("d", "ios", "Ann's phone")
        assert (row.app_version, row.locale, row.timezone) == ("1.2", "de-AT", "Europe/Vienna")
        assert row.metadata == {"a": [1]}
        assert row.last_seen_at is not None
        assert row.status_source == "registration"

    def test_again(self, ann):
        """Registering again keeps the row, and the facts that are not given."""
        row = register("tok", ann, device_id="d", locale="de")
        again, created = register_token("tok", user=ann, backend="default", app_version="2")
        assert not created
        assert again.pk == row.pk
        assert (fresh(row).device_id, fresh(row).locale, fresh(row).app_version) == ("d", "de", "2")

    def test_returned_row_is_as_stored(self, ann, bob):
        """The row that is returned has what the database has, also after a change of everything."""
        register("tok", ann, device_id="d")
        unregister_token("tok")
        for token, user in [("tok", bob), ("new", ann), ("tok", ann), ("tok", None)]:
            row = register(token, user, locale="fr")
            stored = fresh(row)
            for field in get_token_model()._meta.concrete_fields:
                assert getattr(row, field.attname) == getattr(stored, field.attname), field.attname

    def test_moves_registered_at_forward(self, ann):
        """Each registration is later than the one before."""
        times = [fresh(register("tok", ann)).registered_at for _ in range(5)]
        assert times == sorted(set(times))

    @pytest.mark.parametrize("status", [UNREGISTERED, RETIRED, REPLACED, "invalid"])
    def test_reactivates(self, ann, status):
        """Whatever its status was, a token that registers is active, and nothing is left of the reason."""
        row = register("tok", ann)
        deactivate(Tokens.filter(pk=row.pk), code="x", source="admin", status=status)
        register("tok", ann)
        row = fresh(row)
        assert (row.status, row.status_code, row.status_source) == (ACTIVE, "", "registration")
        assert row.replaced_by is None
        assert row.user == ann

    def test_last_login_owns_the_phone(self, ann, bob):
        """A token that another user registers is theirs, in the same row."""
        row = register("tok", ann)
        assert register("tok", bob).pk == row.pk
        assert fresh(row).user == bob

    def test_mute_is_kept(self, ann):
        """A user's mute outlives their registrations and rotations."""
        row = register("tok", ann, device_id="d")
        set_enabled(Tokens.all(), False)
        register("tok", ann)
        register("tok-2", ann, device_id="d")
        assert not fresh(row).enabled

    def test_mute_ends_with_its_owner(self, ann, bob):
        """What one user muted is not muted for the next."""
        row = register("tok", ann)
        set_enabled(Tokens.all(), False)
        register("tok", bob)
        assert fresh(row).enabled

    def test_mute_does_not_wait_for_the_next_owner(self, ann, bob):
        """A mute ends when its owner logs out and the install is used by nobody, then by another."""
        row = register("tok", ann)
        set_enabled(Tokens.all(), False)
        unregister_token("tok")
        register("tok")
        register("tok", bob)
        assert fresh(row).enabled

    def test_mute_of_the_device_is_kept_in_a_merge(self, ann):
        """The mute of the device's current row holds when an old token of it comes back."""
        old = register("tok", ann, device_id="d")
        age(old, days=1)
        current = register("cur", ann)
        register("cur", ann, device_id="e")
        set_enabled(Tokens.filter(pk=current.pk), False)
        register("tok", ann, device_id="e")
        assert not fresh(old).enabled
        assert state(old, current) == [ACTIVE, REPLACED]

    def test_anonymous_then_claimed(self, ann):
        """A token without a user is claimed by the first who registers it."""
        row = register("tok")
        assert fresh(row).user is None
        register("tok", ann)
        assert fresh(row).user == ann

    def test_anonymous_keeps_the_owner_of_an_active_row(self, ann):
        """An app that registers before its user is known takes nothing from them."""
        row = register("tok", ann)
        register("tok")
        assert fresh(row).user == ann

    def test_anonymous_after_logout_has_no_owner(self, ann):
        """After a logout the install is nobody's until somebody logs in."""
        row = register("tok", ann)
        unregister_token("tok")
        register("tok")
        assert (fresh(row).user, fresh(row).status) == (None, ACTIVE)

    def test_aliases_are_apart(self, ann):
        """The same token in two aliases is two rows."""
        one, two = register("tok", ann), register("tok", ann, backend="other")
        assert one.pk != two.pk

    def test_case_of_a_token_matters(self, ann):
        """Tokens that differ in case, accents or final spaces are different, on MySQL too."""
        assert register("tok", ann).pk != register("TOK", ann).pk

    @pytest.mark.django_db(transaction=True)
    def test_user_gone(self, ann):
        """A user who was deleted meanwhile is an error of form, not of the database."""
        get_user_model().objects.filter(pk=ann.pk).delete()
        with pytest.raises(InvalidToken, match="saved user"):
            register("tok", ann)
        assert not Tokens.exists()

    def test_deleting_the_user_deletes_the_tokens(self, ann):
        """A user's tokens go with the user, whatever points to them."""
        old, new = register("a", ann), register("b", ann)
        age(old, days=1)
        apply([canonical(old, "b")], fresh(new).registered_at + timedelta(hours=1))
        assert state(old) == [REPLACED]
        ann.delete()
        assert not Tokens.exists()

    def test_deleting_the_successor_clears_the_pointer(self, ann):
        """A row whose successor is deleted points to nothing."""
        old, new = register("a", ann), register("b", ann)
        apply([canonical(old, "b")], fresh(new).registered_at + timedelta(hours=1))
        Tokens.filter(pk=new.pk).delete()
        assert fresh(old).replaced_by_id is None


class TestDevice:
    def test_rotation_keeps_the_row(self, ann):
        """A new token of the same device and user takes the row, its pk and its settings."""
        row = register("a", ann, device_id="d", locale="de")
        new, created = register_token("b", user=ann, backend="default", device_id="d")
        assert (new.pk, created) == (row.pk, False)
        assert (fresh(row).token, fresh(row).locale) == ("b", "de")
        assert Tokens.matching("b").get() == row
        assert not Tokens.matching("a").exists()

    def test_rotation_forgets_the_project(self, ann):
        """A project was learned of the old token, not of the new one."""
        row = register("a", ann, device_id="d")
        Tokens.filter(pk=row.pk).update(project="@ann/app")
        register("a", ann, device_id="d")
        assert fresh(row).project == "@ann/app"
        register("b", ann, device_id="d")
        assert fresh(row).project == ""

    def test_rotation_of_an_unclaimed_row(self, ann):
        """A row that is nobody's goes to the first user who registers its device."""
        row = register("a", device_id="d")
        assert register("b", ann, device_id="d").pk == row.pk
        assert fresh(row).user == ann

    def test_rotation_of_a_dead_row(self, ann):
        """A device whose token died comes back in the same row."""
        row = register("a", ann, device_id="d")
        deactivate(Tokens.all(), code="x", source="ticket", status=UNREGISTERED)
        assert register("b", ann, device_id="d").pk == row.pk
        assert (fresh(row).status, fresh(row).token) == (ACTIVE, "b")

    def test_both_exist(self, ann):
        """If the new token has a row already, the device's old row is replaced by it."""
        old, own = register("a", ann, device_id="d"), register("b", ann)
        assert register("b", ann, device_id="d").pk == own.pk
        assert state(old, own) == [REPLACED, ACTIVE]
        assert fresh(old).replaced_by == own
        assert (fresh(old).status_code, fresh(old).status_source) == ("rotated", "registration")

    def test_nothing_across_users(self, ann, bob):
        """A device id that another user has changes nothing of theirs."""
        register("a", ann, device_id="d")
        before = snapshot()
        new = register("b", bob, device_id="d")
        assert [row for row in snapshot() if row["id"] != new.pk] == before

    def test_nothing_across_aliases(self, ann):
        """A device has one token in each alias."""
        one, two = register("a", ann, device_id="d"), register("b", ann, "other", device_id="d")
        assert state(one, two) == [ACTIVE, ACTIVE]

    def test_case_of_a_device_matters(self, ann):
        """Device ids that differ in case or accents are different devices, on MySQL too."""
        one, two = register("a", ann, device_id="ab"), register("b", ann, device_id="AB")
        three = register("c", ann, device_id="áb")
        assert state(one, two, three) == [ACTIVE] * 3

    def test_empty_device_is_no_device(self, ann):
        """Two rows without a device id have nothing in common."""
        one, two = register("a", ann, device_id=""), register("b", ann, device_id="")
        assert state(one, two) == [ACTIVE, ACTIVE]

    def test_user_switch_to_a_user_with_a_row(self, ann, bob):
        """One row of the device is left when a phone changes hands and its token is known to both."""
        theirs, own = register("a", bob, device_id="d"), register("b", ann, device_id="d")
        register("b", bob)
        assert state(theirs, own) == [REPLACED, ACTIVE]
        assert fresh(own).user == bob

    def test_anonymous_registration_of_a_users_second_row(self, ann):
        """One row of the device is left when a user's other token is registered without the user."""
        old, own = register("a", ann, device_id="d"), register("b", ann)
        register("b", device_id="d")
        assert state(old, own) == [REPLACED, ACTIVE]

    def test_old_token_comes_back(self, ann):
        """One row of the device is left when a replaced token registers again without a device id."""
        old, own = register("a", ann, device_id="d"), register("b", ann)
        register("b", ann, device_id="d")
        register("a", ann)
        assert state(old, own) == [ACTIVE, REPLACED]
        assert fresh(own).replaced_by == old
        assert fresh(old).replaced_by is None


class TestForm:
    @pytest.mark.parametrize("token", ["", "a\0b", "a b", "ä", "\ud800", "x" * 4097, None, 7, b"tok"])
    def test_refused(self, token):
        """What is no token is refused before the database sees it."""
        with pytest.raises(InvalidToken):
            register(token)

    @pytest.mark.parametrize("token", ["a\0b", "\ud800", "", "x" * 4097])
    def test_refused_whatever_the_backend_takes(self, settings, token):
        """What a database cannot store is refused, if the backend takes it too."""
        settings.PUSH_BACKENDS = {"lax": {"BACKEND": f"{__name__}.LaxBackend"}}
        with pytest.raises(InvalidToken):
            register(token, backend="lax")

    @pytest.mark.parametrize("token", ["x" * 4096, "📱" * 4096, "tōken ·"])
    def test_stored_whatever_it_is(self, settings, token):
        """A long or a strange token is stored whole, and found."""
        settings.PUSH_BACKENDS = {"lax": {"BACKEND": f"{__name__}.LaxBackend"}}
        row = register(token, backend="lax")
        assert fresh(row).token == token
        assert register(token, backend="lax").pk == row.pk
        assert Tokens.matching(token).get() == row

    @pytest.mark.parametrize(
        "facts",
        [
            {"device_id": "d" * 256},
            {"locale": "x" * 36},
            {"platform": "a\0"},
            {"device_name": "\ud800"},
            {"timezone": 5},
            {"kind": "topic"},
        ],
    )
    def test_facts_refused(self, facts):
        """A fact that a column cannot hold is refused by name, not by the database."""
        with pytest.raises(InvalidToken):
            register("tok", **facts)

    def test_facts_that_fit(self, ann):
        """A fact may have emoji and fill its column."""
        row = register("tok", ann, device_name="📱" * 255, device_id="d" * 255)
        assert fresh(row).device_name == "📱" * 255

    @pytest.mark.parametrize("user", [AnonymousUser(), get_user_model()()])
    def test_user_refused(self, user):
        """A user who is not saved cannot own a token."""
        with pytest.raises(InvalidToken):
            register("tok", user)

    def test_alias(self):
        """The alias must be known, or be the only one that takes the token."""
        with pytest.raises(AmbiguousBackend):
            register_token("tok")
        with pytest.raises(InvalidPushBackend):
            register("tok", backend="nope")

    def test_alias_inferred(self, settings):
        """An alias that is not given is the one that accepts the token."""
        settings.PUSH_BACKENDS = {
            "expo": {"BACKEND": "django_push.backends.expo.ExpoBackend"},
            "gcm": {
                "BACKEND": "django_push.backends.gcm.GCMBackend",
                "OPTIONS": {"endpoint": "https://x.test/", "api_key": "k"},
            },
        }
        assert register_token("ExponentPushToken[x]")[0].backend == "expo"
        assert register_token("a-gcm-id")[0].backend == "gcm"


class TestUnregister:
    def test_retires(self, ann):
        """A logout retires the token, and says why."""
        row = register("tok", ann)
        assert unregister_token("tok") == 1
        row = fresh(row)
        assert (row.status, row.status_code, row.status_source) == (RETIRED, "logout", "registration")

    def test_twice(self, ann):
        """A second logout changes nothing."""
        register("tok", ann)
        unregister_token("tok")
        before = snapshot()
        assert unregister_token("tok") == 0
        assert snapshot() == before

    @pytest.mark.parametrize("token", ["nope", "", "a\0", "\ud800", None, 5])
    def test_unknown(self, ann, token):
        """A token that is not known is no error."""
        assert unregister_token(token) == 0

    def test_any_alias_or_one(self, ann):
        """It finds the token in any alias, unless one is named."""
        one, two = register("tok", ann), register("tok", ann, "other")
        assert unregister_token("tok", backend="other") == 1
        assert state(one, two) == [ACTIVE, RETIRED]
        assert unregister_token("tok") == 1

    def test_only_ones_own(self, ann, bob):
        """With a user it retires only what is theirs."""
        row = register("tok", ann)
        assert unregister_token("tok", user=bob) == 0
        assert unregister_token("tok", user=AnonymousUser()) == 0
        assert state(row) == [ACTIVE]
        assert unregister_token("tok", user=ann) == 1

    def test_late_verdict_after_logout(self, ann, now):
        """A verdict on a token that has logged out changes nothing."""
        row = register("tok", ann)
        sent_at = now()
        unregister_token("tok")
        assert not apply([dead(row)], sent_at)
        assert state(row) == [RETIRED]


@pytest.mark.parametrize(
    "metadata",
    [{"a": float("nan")}, {"a": "\0"}, {"a": "\ud800"}, {1: {2}}, ["a"], {"a": "x" * 20_000}],
    ids=["nan", "nul", "surrogate", "set", "list", "long"],
)
def test_metadata_that_no_database_stores(metadata):
    """Metadata that is no JSON object, or cannot be stored everywhere, is refused in words."""
    with pytest.raises(InvalidToken, match="metadata"):
        register_token("a", backend="default", metadata=metadata)
    assert not get_token_model().objects.exists()
