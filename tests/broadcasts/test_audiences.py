"""Who a broadcast goes to: each filter on tokens that fit and do not, and everything that is no audience."""

import json
import uuid
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.db import connection, connections
from django.db.models import Count, F, Window
from django.db.models.functions import RowNumber
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from django_push import Topic, get_token_model
from django_push.broadcasts import audiences, filters
from django_push.broadcasts.audiences import chosen, counts, describe, fixed, specification, tokens_of
from django_push.broadcasts.filters import FILTER_NAMES, MAX_SECONDS, duration_in_words, seconds, version_key
from django_push.exceptions import InvalidAudience
from django_push.message import Condition
from django_push.models import PushTokenQuerySet
from tests.sending.conftest import make_tokens

Token = get_token_model()
Users = get_user_model().objects
TOKEN = "ExponentPushToken[abcdefghijklmnopqrstuv]"


def make(name, **fields):
    return Token.objects.create(**{"backend": "default", "token": name, **fields})


def names(spec):
    """The tokens of an audience, as often as the database gives them."""
    return sorted(tokens_of(spec).values_list("token", flat=True))


def of(**filters):
    return names(specification(filters))


class UsersElsewhere:
    """A router that keeps users apart from tokens."""

    def db_for_write(self, model, **hints):
        return "elsewhere" if model is get_user_model() else None


@pytest.mark.django_db
class TestFilters:
    """Each filter finds the tokens that it is meant for, and no others."""

    @pytest.mark.parametrize(
        ("wanted", "expected"),
        [
            ("de", ["de", "de-AT", "de_at"]),
            ("DE", ["de", "de-AT", "de_at"]),
            ("de-AT", ["de-AT", "de_at"]),
            ("de_AT", ["de-AT", "de_at"]),
            ("de-CH", []),
            ("d_", None),
            ("zh-Hans", ["zh_Hans-CN"]),
            ("zh-hans-cn", ["zh_Hans-CN"]),
            ("zh", ["zh_Hans-CN"]),
            (["de-AT", "den"], ["de-AT", "de_at", "den"]),
        ],
    )
    def test_locale(self, wanted, expected):
        """A language has all its regions; a region is itself, however it is spelt."""
        for locale in ("de", "de-AT", "de_at", "den", "d", "zh_Hans-CN", "", "en"):
            make(locale or "none", locale=locale)
        if expected is None:
            with pytest.raises(InvalidAudience):
                of(locale=wanted)
        else:
            assert expected == of(locale=wanted)

    def test_locale_has_no_wildcards(self):
        """An underscore in a row or in the filter stands for itself."""
        make("a", locale="de_AT")
        make("b", locale="dexAT")
        assert ["a"] == of(locale="de_AT") == of(locale="de")

    def test_platform(self):
        """In any case; several are any of them."""
        for platform in ("ios", "iOS", "android", ""):
            make(f"t-{platform}", platform=platform)
        assert sorted(["t-iOS", "t-ios"]) == of(platform="IOS")
        assert sorted(["t-android", "t-iOS", "t-ios"]) == of(platform=["ios", "android"])

    def test_backend(self):
        """By alias."""
        make("a")
        make("b", backend="other")
        assert (of(backend="other"), of(backend=["other", "default"])) == (["b"], ["a", "b"])

    def test_user_and_anonymous(self):
        """By the user's key, as a number or as text, or by having none."""
        ada, bob = Users.create(username="ada"), Users.create(username="bob")
        make("a", user=ada)
        make("b", user=bob)
        make("n")
        assert ["a"] == of(user=ada.pk) == of(user=str(ada.pk))
        assert ["a", "b"] == of(user=[ada.pk, bob.pk]) == of(anonymous=False)
        assert (of(anonymous=True), of(anonymous=True, user=ada.pk)) == (["n"], [])

    def test_group(self):
        """By group, each token once, however many of the groups its user is in."""
        ada, bob = Users.create(username="ada"), Users.create(username="bob")
        groups = [Group.objects.create(name=name) for name in ("beta", "staff")]
        ada.groups.set(groups)
        make("a1", user=ada)
        make("a2", user=ada)
        make("b", user=bob)
        make("n")
        assert ["a1", "a2"] == of(group=["beta", "staff"]) == of(group="beta")
        assert of(group="gamma") == []
        assert counts(specification({"group": ["beta", "staff"]})).total == 2

    def test_a_user_model_without_groups(self, monkeypatch):
        """A site of its own making is told what to use in their place."""
        monkeypatch.setattr(filters, "get_user_model", lambda: Group)
        with pytest.raises(InvalidAudience, match="the user model has no groups"):
            of(group="beta")

    def test_users_in_another_database(self, settings):
        """A join cannot reach them."""
        settings.DATABASE_ROUTERS = [UsersElsewhere()]
        with pytest.raises(InvalidAudience, match="users are in another database"):
            of(group="beta")

    def test_seen(self):
        """By when the install was last seen, or registered if it never was."""
        now = timezone.now()
        make("seen", last_seen_at=now - timedelta(days=2))
        make("unseen", last_seen_at=now - timedelta(days=40))
        make("new")
        old = make("old")
        Token.objects.filter(pk=old.pk).update(created=now - timedelta(days=40))
        assert of(seen_within="30d") == ["new", "seen"]
        assert of(unseen_for="30d") == ["old", "unseen"]
        assert ["new"] == of(seen_within="36h") == of(seen_within=36 * 3600)
        assert of(seen_within="3d", unseen_for="1d") == ["seen"]

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({"app_version": "2.0"}, ["2.0"]),
            ({"app_version": ["2.0", "10.1"]}, ["10.1", "2.0"]),
            ({"app_version_below": "2.0"}, ["1.9.9", "v1.10"]),
            ({"app_version_from": "2.0"}, ["10.1", "2.0", "2.0.0-beta", "2.0.1"]),
            ({"app_version_from": "2", "app_version_below": "10"}, ["2.0", "2.0.0-beta", "2.0.1"]),
            ({"app_version_from": "99"}, []),
            ({"app_version_below": "0"}, []),
        ],
    )
    def test_app_version(self, filters, expected):
        """Versions compare by their numbers; what is none is neither below nor from."""
        for version in ("1.9.9", "v1.10", "2.0", "2.0.0-beta", "2.0.1", "10.1", "dev", ""):
            make(version or "none", app_version=version)
        assert expected == of(**filters)

    def test_too_many_versions(self, monkeypatch):
        """A site with a version for each build gets a clear word, not a query of any length."""
        monkeypatch.setattr(filters, "MOST_VERSIONS", 3)
        for n in range(4):
            make(str(n), app_version=f"1.{n}")
        with pytest.raises(InvalidAudience, match="more than 3 different versions"):
            of(app_version_from="1.2")
        assert of(app_version="1.2") == ["2"]

    @pytest.mark.parametrize(
        "wanted", ["1", 1, 1.5, True, False, "true", "null", "", 'a"b\\c%', "ä", "A", "a"]
    )
    def test_metadata_is_exact(self, wanted):
        """A scalar is equal to itself and to no other type's, on every database."""
        values = ["1", 1, 1.5, True, False, "true", "false", None, "null", "", [1], ["1"], {"k": 1}]
        values += ['a"b\\c%', "ä", "A", "a", [True], "1.5"]
        for n, value in enumerate(values):
            make(str(n), metadata={"k": value, "other": wanted})
        make("none", metadata={})
        make("list", metadata=["k"])
        same = [str(n) for n, value in enumerate(values) if type(value) is type(wanted) and value == wanted]
        assert same == of(metadata={"k": wanted})

    def test_metadata_is_top_level(self):
        """A key is a key at the top, whatever lookup its name resembles; keys are combined by AND."""
        make("nested", metadata={"a": {"b": 1}})
        make("flat", metadata={"a__b": 1, "plan": "pro"})
        make("other", metadata={"a__b": 1, "plan": "free"})
        assert of(metadata={"a__b": 1}) == ["flat", "other"]
        assert of(metadata={"a__b": 1, "plan": ["pro", "team"]}) == ["flat"]
        assert [] == of(metadata={"plan__startswith": "p"}) == of(metadata={"isnull": False})

    def test_filters_are_combined_by_and(self):
        """A token has to pass them all."""
        make("a", platform="ios", locale="de")
        make("b", platform="ios", locale="en")
        make("c", platform="android", locale="de")
        assert of(platform="ios", locale="de") == ["a"]

    def test_only_sendable_tokens(self):
        """Neither muted nor dead tokens, whatever the audience."""
        make("a", platform="ios")
        make("muted", platform="ios", enabled=False)
        make("dead", platform="ios", status="unregistered")
        assert ["a"] == of(platform="ios") == names({"kind": "everyone"})

    def test_it_can_be_filtered_further(self):
        """By key and alias, in the order of the keys, as claims read it."""
        rows = [make(str(n), platform="ios") for n in range(4)]
        page = tokens_of(specification({"platform": "ios"})).filter(backend="default", pk__gt=rows[0].pk)
        assert [rows[1].pk, rows[2].pk] == list(page.order_by("pk").values_list("pk", flat=True)[:2])


class TestBadInput:
    """What is no audience says so, and says what there is."""

    @pytest.mark.parametrize(
        ("filters", "said"),
        [
            ({}, "Name a filter"),
            ({"token__startswith": "E"}, "There is no filter 'token__startswith'; there are: anonymous"),
            ({"user__password": "x"}, "There is no filter"),
            ({"pk": 1}, "There is no filter"),
            ({"kind": "everyone", "platform": "android"}, "There is no filter 'kind'"),
            ({"kind": "named", "name": "x", "locale": "de"}, "There is no filter 'kind'"),
            ({5: 1}, "There is no filter"),
            ({"backend": "gone"}, "not in PUSH_BACKENDS (there: 'default', 'other')"),
            ({"backend": ""}, "give a text"),
            ({"backend": 5}, "give a text"),
            ({"backend": None}, "give a text"),
            ({"backend": []}, "give 1 to 100 values"),
            ({"platform": ["ios"] * 101}, "give 1 to 100 values"),
            ({"platform": "x" * 17}, "give a text of 1 to 16"),
            ({"platform": {"ios": 1}}, "give a text"),
            ({"platform": [["ios"]]}, "give a text"),
            ({"platform": "i\0s"}, "give a text"),
            ({"group": "\ud800"}, "give a text"),
            ({"group": "x" * 256}, "give a text"),
            ({"locale": "d"}, "give a locale"),
            ({"locale": "de%"}, "give a locale"),
            ({"locale": "de-"}, "give a locale"),
            ({"locale": "de\n"}, "give a locale"),
            ({"locale": "x" * 36}, "give a locale"),
            ({"locale": 5}, "give a locale"),
            ({"app_version_below": "dev"}, "begins with numbers"),
            ({"app_version_below": ["1"]}, "give a text"),
            ({"app_version_from": 2}, "give a text"),
            ({"user": True}, "give the ID of a user"),
            ({"user": "ada"}, "give the ID of a user"),
            ({"user": None}, "give the ID of a user"),
            ({"user": 1.5}, "give the ID of a user"),
            ({"user": 2**63}, "give the ID of a user"),
            ({"user": "9" * 5000}, "give the ID of a user"),
            ({"user": list(range(1001))}, "give 1 to 1000 values"),
            ({"seen_within": "30 days"}, "give seconds"),
            ({"seen_within": "-1d"}, "give seconds"),
            ({"seen_within": 0}, "give seconds"),
            ({"seen_within": True}, "give seconds"),
            ({"seen_within": float("nan")}, "give seconds"),
            ({"seen_within": float("inf")}, "give seconds"),
            ({"unseen_for": "11y"}, "give seconds"),
            ({"unseen_for": "9999w"}, "give seconds"),
            ({"unseen_for": None}, "give seconds"),
            ({"anonymous": 1}, "give True or False"),
            ({"anonymous": "yes"}, "give True or False"),
            ({"metadata": {}}, "give a mapping of 1 to 10 keys"),
            ({"metadata": "plan"}, "give a mapping"),
            ({"metadata": dict.fromkeys("abcdefghijk", 1)}, "give a mapping of 1 to 10 keys"),
            ({"metadata": {"a.b": 1}}, "a key is"),
            ({"metadata": {"0": 1}}, "a key is"),
            ({"metadata": {"1_0": 1}}, "a key is"),
            ({"metadata": {"": 1}}, "a key is"),
            ({"metadata": {"k\n": 1}}, "a key is"),
            ({"metadata": {"ключ": 1}}, "a key is"),
            ({"metadata": {5: 1}}, "a key is"),
            ({"metadata": {"k" * 65: 1}}, "a key is"),
            ({"metadata": {"k": None}}, "give texts, numbers"),
            ({"metadata": {"k": {"x": 1}}}, "give texts, numbers"),
            ({"metadata": {"k": [[1]]}}, "give texts, numbers"),
            ({"metadata": {"k": float("nan")}}, "give texts, numbers"),
            ({"metadata": {"k": 2**60}}, "give texts, numbers"),
            ({"metadata": {"k": []}}, "give 1 to 100 values"),
        ],
    )
    def test_filters(self, filters, said):
        """A filter that there is not, or a value that is none, by whichever way it comes in."""
        with pytest.raises(InvalidAudience) as caught:
            specification(filters)
        assert said in str(caught.value)
        if said not in ("not in PUSH_BACKENDS (there: 'default', 'other')",):
            with pytest.raises(InvalidAudience):
                tokens_of({"kind": "filters", "filters": filters})

    @pytest.mark.parametrize(
        "audience", [None, 5, b"everyone", object(), Topic("news"), Condition("'a' in topics")]
    )
    def test_no_audience(self, audience):
        """What is neither a name nor filters nor tokens."""
        with pytest.raises(InvalidAudience, match="give 'everyone', a name in PUSH_AUDIENCES"):
            specification(audience)

    @pytest.mark.parametrize(
        "spec",
        [
            {},
            {"kind": None},
            {"kind": "raw", "sql": "1=1"},
            {"kind": "Everyone"},
            {"kind": ["everyone"]},
            {"kind": "filters"},
            {"kind": "filters", "filters": []},
            {"kind": "named"},
            {"kind": "named", "name": ["x"]},
        ],
    )
    def test_a_row_that_somebody_has_edited(self, spec):
        """What is kept with a broadcast is checked again whenever it is read."""
        for read in (tokens_of, specification):
            with pytest.raises(InvalidAudience):
                read(spec)

    @pytest.mark.parametrize("moment", [{"at": "now"}, {"at": 1e30}, {"versions": []}, [1], "x"])
    def test_a_moment_that_cannot_be_read(self, moment):
        """The same goes for what was fixed."""
        with pytest.raises(InvalidAudience, match="fixed"):
            tokens_of({"kind": "filters", "filters": {"seen_within": 5}, "fixed": moment})

    def test_a_list_is_not_read_again(self):
        """Its tokens are kept elsewhere."""
        with pytest.raises(InvalidAudience, match="when its broadcast is made"):
            tokens_of({"kind": "list"})

    def test_a_token_in_the_place_of_a_name(self):
        """A token that is taken for a name is not repeated."""
        with pytest.raises(InvalidAudience) as caught:
            specification(TOKEN)
        assert TOKEN not in str(caught.value)
        assert "there are: 'everyone'" in str(caught.value)


class TestSpecification:
    """What is kept is plain JSON, and is its own specification."""

    @pytest.mark.parametrize(
        ("audience", "expected", "said"),
        [
            ("everyone", {"kind": "everyone"}, "everyone"),
            ("beta testers", {"kind": "named", "name": "beta testers"}, "named: beta testers"),
            (
                {"platform": "ios", "locale": ("de_AT", "en")},
                {"kind": "filters", "filters": {"platform": ["ios"], "locale": ["de-AT", "en"]}},
                "platform ios; locale de-AT or en",
            ),
            (
                {"seen_within": timedelta(days=30), "unseen_for": "90"},
                {"kind": "filters", "filters": {"seen_within": 2592000, "unseen_for": 90}},
                "seen within 30d; unseen for 90s",
            ),
            (
                {"anonymous": False, "user": [1, "2"]},
                {"kind": "filters", "filters": {"anonymous": False, "user": [1, 2]}},
                "not anonymous; user 1 or 2",
            ),
            (
                {"metadata": {"plan": "pro", "n": [1, True]}, "anonymous": True},
                {
                    "kind": "filters",
                    "filters": {"metadata": {"plan": ["pro"], "n": [1, True]}, "anonymous": True},
                },
                "metadata plan pro, metadata n 1 or True; anonymous",
            ),
            (
                {"app_version_below": "2.0", "user": list(range(12))},
                {"kind": "filters", "filters": {"app_version_below": "2.0", "user": list(range(12))}},
                "app version below 2.0; user 0 or 1 or 2 or 3 or 4 or 5 or 6 or 7 or 8 or 9 or 2 more",
            ),
            ([], {"kind": "list"}, "a list of tokens"),
            (Token.objects, {"kind": "list"}, "a list of tokens"),
            (Token.objects.all()[:5], {"kind": "list"}, "a list of tokens"),
            (iter([1]), {"kind": "list"}, "a list of tokens"),
            (Token(pk=1), {"kind": "list"}, "a list of tokens"),
        ],
    )
    def test_each_kind(self, settings, audience, expected, said):
        """Each way to name an audience, what is kept of it, and how it reads."""
        settings.PUSH_AUDIENCES = {"beta testers": lambda tokens: tokens}
        spec = specification(audience)
        assert (expected, said) == (spec, describe(spec))
        assert spec == json.loads(json.dumps(spec)) == specification(spec)

    def test_what_was_fixed_is_not_kept(self):
        """A specification that is used again begins anew."""
        spec = fixed(specification({"seen_within": 5}))
        assert specification(spec) == {"kind": "filters", "filters": {"seen_within": 5}}

    @pytest.mark.parametrize("spec", [{}, {"kind": 5}, {"kind": "filters"}, {"kind": "named", "name": 5}])
    def test_describe_never_raises(self, spec):
        """A row that cannot be read can be listed."""
        assert describe(spec)

    def test_users_with_keys_that_are_no_numbers(self, monkeypatch):
        """A UUID is kept as text."""
        key = uuid.uuid4()
        monkeypatch.setattr(filters, "_user_key", lambda value: uuid.UUID(str(value)))
        spec = specification({"user": [key, str(key)]})
        assert {"user": [str(key), str(key)]} == spec["filters"]
        assert spec == specification(spec)


@pytest.mark.django_db
class TestFixed:
    """An audience stays what it was when its broadcast began."""

    def test_durations_count_from_then(self):
        """A token that was seen recently enough then is in it for good."""
        spec = json.loads(json.dumps(fixed(specification({"seen_within": "1d"}))))
        token = make("a")
        spec["fixed"]["at"] -= 40 * 86400
        Token.objects.filter(pk=token.pk).update(created=timezone.now() - timedelta(days=40, hours=1))
        assert names(spec) == ["a"]
        assert of(seen_within="1d") == []

    def test_versions_are_read_once(self, django_assert_num_queries):
        """Then a claim is one query, as for other filters."""
        make("a", app_version="1.0")
        make("b", app_version="2.0")
        with django_assert_num_queries(1):
            spec = json.loads(json.dumps(fixed(specification({"app_version_below": "2"}))))
        make("c", app_version="1.5")
        with django_assert_num_queries(1):
            assert names(spec) == ["a"]
        with django_assert_num_queries(2):
            assert of(app_version_below="2") == ["a", "c"]

    @pytest.mark.parametrize("spec", [{"kind": "everyone"}, {"kind": "named", "name": "x"}, {"kind": "list"}])
    def test_others_are_as_they_were(self, spec, django_assert_num_queries):
        """There is nothing to fix, and nothing is asked."""
        with django_assert_num_queries(0):
            assert spec == fixed(spec)
            assert fixed({"kind": "filters", "filters": {"platform": "ios"}})["fixed"] == {}


def by_window(tokens):
    """The newest token of each user."""
    rank = Window(RowNumber(), partition_by=F("user_id"), order_by=F("pk").desc())
    return tokens.annotate(rank=rank).filter(rank=1)


def broken(tokens):
    raise KeyError(TOKEN)


@pytest.mark.django_db
class TestNamed:
    """A site's own function decides, and only among sendable tokens."""

    @pytest.fixture
    def tokens(self):
        ada = Users.create(username="ada")
        ada.groups.set(Group.objects.create(name=str(n)) for n in range(3))
        make("a1", user=ada, locale="de")
        make("a2", user=ada, locale="de")
        make("n", locale="en")
        make("muted", user=ada, enabled=False)
        make("dead", user=ada, status="retired")

    @pytest.mark.parametrize(
        ("function", "expected"),
        [
            (lambda tokens: tokens, ["a1", "a2", "n"]),
            (lambda tokens: tokens.active().via("default"), ["a1", "a2", "n"]),
            (lambda tokens: tokens.none(), []),
            (lambda tokens: Token.objects.all(), ["a1", "a2", "n"]),
            (lambda tokens: Token.objects.using("default").order_by("-token").reverse(), ["a1", "a2", "n"]),
            (lambda tokens: tokens.select_related("user").only("token"), ["a1", "a2", "n"]),
            (lambda tokens: tokens.select_for_update(), ["a1", "a2", "n"]),
            (lambda tokens: tokens.filter(user__username="ada"), ["a1", "a2"]),
            (lambda tokens: tokens.filter(user__groups__name__gte="1"), ["a1", "a2"]),
            (lambda tokens: tokens.filter(user__groups__name__gte="1").distinct(), ["a1", "a2"]),
            (lambda tokens: tokens.annotate(n=Count("user__groups")).filter(n__gt=2), ["a1", "a2"]),
            (lambda tokens: tokens.annotate(locale_too=F("locale")).filter(locale_too="en"), ["n"]),
            (lambda tokens: Token.objects.filter(user__groups__name__gte="1"), ["a1", "a2"]),
            (by_window, ["a2", "n"]),
        ],
    )
    @pytest.mark.usefixtures("tokens")
    def test_every_kind_of_queryset(self, settings, function, expected):
        """Each token comes once, in pages and in counts alike."""
        settings.PUSH_AUDIENCES = {"x": function}
        spec = specification("x")
        assert expected == names(spec)
        assert len(expected) == counts(spec).total == sum(counts(spec, "default").by_locale.values())
        rows = tokens_of(spec)
        assert not rows.query.order_by
        found, last = [], 0
        while page := list(rows.filter(pk__gt=last).order_by("pk").values_list("pk", "token")[:1]):
            found.append(page[0][1])
            last = page[0][0]
        assert expected == sorted(found)

    @pytest.mark.parametrize(
        ("function", "said"),
        [
            (lambda tokens: tokens[:5], "returned a slice"),
            (lambda tokens: tokens.union(tokens), "cannot be filtered further"),
            (lambda tokens: tokens.values("pk"), "cannot be filtered further"),
            (lambda tokens: tokens.values_list("pk"), "cannot be filtered further"),
            (lambda tokens: tokens.values("locale").annotate(n=Count("pk")), "cannot be filtered further"),
            (lambda tokens: tokens.distinct("user"), "cannot be filtered further"),
            (lambda tokens: None, "returned NoneType, no queryset"),
            (list, "returned list, no queryset"),
            (lambda tokens: Token.objects, "no queryset"),
            (lambda tokens: Token.objects.raw("SELECT 1"), "returned RawQuerySet, no queryset"),
            (lambda tokens: Users.all(), "returned a queryset of User, not of tokens"),
            (lambda tokens: tokens.filter(nothing=1), "raised FieldError"),
            (broken, "raised KeyError"),
            (lambda: None, "raised TypeError"),
            ("tests.broadcasts.test_audiences.broken", "raised KeyError"),
            ("tests.broadcasts.test_audiences.nothing", "cannot be imported: ImportError"),
            ("nowhere.at_all", "cannot be imported: ModuleNotFoundError"),
            ("", "cannot be imported"),
            ("tests.broadcasts.test_audiences.TOKEN", "is no function"),
            (5, "is no function"),
            (None, "is no function"),
        ],
    )
    def test_every_kind_of_wrongness(self, settings, function, said):
        """A short text names the audience and says what is wrong, without a token in it."""
        settings.PUSH_AUDIENCES = {"beta": function}
        with pytest.raises(InvalidAudience) as caught:
            tokens_of({"kind": "named", "name": "beta"})
        assert said in str(caught.value)
        assert "PUSH_AUDIENCES['beta']" in str(caught.value)
        assert TOKEN not in str(caught.value)
        assert len(str(caught.value)) < 200

    def test_a_name_that_is_gone(self, settings):
        """A broadcast whose audience was taken out of the settings says which there are."""
        settings.PUSH_AUDIENCES = {"staff": by_window}
        with pytest.raises(InvalidAudience, match="no audience 'beta'; there are: 'everyone', 'staff'"):
            tokens_of({"kind": "named", "name": "beta"})

    def test_settings_that_cannot_be_read(self, settings):
        """A setting of a wrong type is told as what it means here."""
        settings.PUSH_AUDIENCES = ["staff"]
        with pytest.raises(InvalidAudience, match="must be a dictionary"):
            specification("staff")

    def test_everyone_is_everyone(self, settings):
        """The word cannot be given another meaning."""
        settings.PUSH_AUDIENCES = {"everyone": broken}
        assert specification("everyone") == {"kind": "everyone"}

    @pytest.mark.usefixtures("tokens")
    def test_a_sites_manager_does_not_choose(self, monkeypatch):
        """Rows that the default manager hides are tokens too."""
        monkeypatch.setattr(
            Token._default_manager.__class__, "get_queryset", lambda self: PushTokenQuerySet(Token).none()
        )
        assert names({"kind": "everyone"}) == ["a1", "a2", "n"]


@pytest.mark.django_db
class TestCounts:
    """How many there are, before anything is sent."""

    def test_by_alias_and_locale(self, django_assert_num_queries):
        """One query, whatever is asked of its answer."""
        make_tokens(3, backend="default", locale="de")
        make_tokens(2, backend="other", locale="en")
        make("x", locale="en")
        make("gone", backend="gone")
        make("muted", enabled=False)
        with django_assert_num_queries(1):
            found = counts({"kind": "everyone"})
        assert (found.total, found.by_alias) == (7, {"default": 4, "gone": 1, "other": 2})
        assert (found.by_locale, found.unconfigured) == ({"": 1, "de": 3, "en": 3}, {"gone": 1})
        assert counts({"kind": "everyone"}, using="other").tokens == {("other", "en"): 2}

    def test_nobody(self):
        """An empty audience is no error."""
        found = counts({"kind": "everyone"})
        assert (found.total, found.by_alias, found.by_locale, found.unconfigured) == (0, {}, {}, {})

    def test_every_filter_is_one_query(self, django_assert_num_queries):
        """But for versions that compare."""
        wanted = {
            "anonymous": True, "app_version": "1", "backend": "default", "group": "g", "locale": "de",
            "metadata": {"k": 1}, "platform": "ios", "seen_within": 5, "unseen_for": 5, "user": 1,
        }  # fmt: skip
        assert set(FILTER_NAMES) - set(wanted) == {"app_version_below", "app_version_from"}
        with django_assert_num_queries(1):
            assert counts(specification(wanted)).total == 0


@pytest.mark.django_db
class TestChosen:
    """A list is read once, page by page."""

    def test_pages_of_one_alias(self):
        """Tokens, users and querysets, each token once, with its row and its owner."""
        ada = Users.create(username="ada")
        rows = [make("a", user=ada), make("b", backend="other"), make("c", user=ada)]
        make("muted", user=ada, enabled=False)
        for audience in (Token.objects, Token.objects.all(), [*rows, ada], iter([*rows, rows[0]])):
            found = dict(chosen(audience))
            assert [rows[0].pk, rows[2].pk] == [target.pk for target in found["default"]]
            assert [(rows[1].pk, None)] == [(target.pk, target.user_id) for target in found["other"]]
            assert {ada.pk} == {target.user_id for target in found["default"]}
        assert [alias for alias, _ in chosen(rows, using="other")] == ["other"]
        assert list(chosen([])) == []

    def test_what_is_skipped(self):
        """Counted by reason, if somebody asks."""
        rows = [make("a", enabled=False), make("b", backend="gone")]
        skipped = audiences.Counter()
        assert list(chosen(rows, skipped=skipped)) == []
        assert skipped == {"disabled": 1, "unknown_backend": 1}

    def test_a_string_that_has_a_row_is_that_row(self, settings):
        """It is registered."""
        settings.PUSH_BACKENDS = {"default": settings.PUSH_BACKENDS["default"]}
        row = make("abc")
        [(alias, [target])] = chosen(["abc"])
        assert ("default", row.pk) == (alias, target.pk)

    @pytest.mark.parametrize(
        ("audience", "said"),
        [
            ([TOKEN], "Name the backend"),
            ([Topic("news")], "Name the backend"),
            ([Token(backend="default", token=TOKEN)], "register it first"),
            ([5], "int is no user, token"),
            ([None], "NoneType is no user, token"),
            (TOKEN, "A single string"),
            (Topic("news"), "Name the backend"),
            (5, "Cannot push to int"),
            ({"kind": "list"}, "Cannot push to dict"),
            (Group.objects.all(), "Cannot push to a queryset of Group"),
            (Token.objects.values("locale").annotate(n=Count("pk")), "Cannot push to values"),
        ],
    )
    def test_what_is_no_list(self, audience, said):
        """Whatever has no row to come back to; the text holds no whole token."""
        with pytest.raises(InvalidAudience, match=said) as caught:
            list(chosen(audience))
        assert TOKEN not in str(caught.value)

    @pytest.mark.parametrize(
        ("item", "said"),
        [
            (TOKEN, "register it first"),
            (Topic("news"), "A topic is no audience"),
            (Condition("'a' in topics"), "A con"),
        ],
    )
    def test_what_has_an_alias_but_no_row(self, item, said):
        """With an alias they could be sent to, but a broadcast keeps rows."""
        with pytest.raises(InvalidAudience, match=said):
            list(chosen([item], using="default"))


@pytest.mark.django_db
@pytest.mark.skipif(connection.vendor != "sqlite", reason="the plan is SQLite's")
class TestPlan:
    """The scan of a broadcast reads an index in the order of its pages."""

    @pytest.mark.parametrize("audience", ["everyone", {"platform": "ios"}, {"group": "beta"}, "many"])
    def test_pages_use_the_index(self, settings, audience):
        """(backend, status, id), with nothing sorted, on a table with many of another alias."""
        settings.PUSH_AUDIENCES = {"many": lambda tokens: tokens.filter(user__groups__name="beta")}
        make_tokens(300, backend="default")
        make_tokens(50, backend="other")
        with connections["default"].cursor() as cursor:
            cursor.execute("ANALYZE")
        rows = tokens_of(specification(audience)).filter(backend="default", pk__gt=5, pk__lte=500)
        plan = rows.order_by("pk").values_list("pk", "token", "user_id")[:100].explain()
        assert "backend_" in plan
        assert "(backend=? AND status=? AND id>? AND id<?)" in plan
        assert "TEMP B-TREE" not in plan


class TestDurations:
    """Durations as people write them."""

    @given(st.integers(1, MAX_SECONDS))
    def test_words_and_seconds_are_inverse(self, value):
        """What is written is read as the same duration, in the largest unit that fits."""
        said = duration_in_words(value)
        assert (
            value
            == seconds(said)
            == seconds(value)
            == seconds(timedelta(seconds=value))
            == seconds(str(value))
        )
        assert said == duration_in_words(seconds(f" {said.upper()} "))

    @pytest.mark.parametrize(
        ("text", "expected"), [("30d", 2592000), ("12h", 43200), ("2w", 1209600), ("5 m", 300), ("9s", 9)]
    )
    def test_units(self, text, expected):
        """Seconds, minutes, hours, days and weeks."""
        assert expected == seconds(text)

    @given(st.text(max_size=12) | st.none() | st.booleans() | st.binary(max_size=3) | st.floats())
    def test_anything_else_is_refused(self, value):
        """Nothing but a ValueError, and never a duration that is none."""
        try:
            found = seconds(value)
        except ValueError:
            return
        assert 1 <= found <= MAX_SECONDS


class TestVersions:
    """Versions as the numbers that they begin with."""

    @given(
        st.lists(st.integers(0, 10**6), min_size=1, max_size=5), st.sampled_from(["", "-rc1", " (7)", "+b"])
    )
    def test_numbers_decide(self, numbers, rest):
        """A prefix, a suffix and zeros at the end make no difference; another number does."""
        text = ".".join(map(str, numbers))
        assert version_key(text) == version_key(f"v{text}.0{rest}") == version_key(f" V{text}{rest}")
        assert version_key(text) < version_key(f"{text}.1{rest}") < version_key(f"{text}.10")
        assert version_key(text) < version_key(str(numbers[0] + 1))

    @pytest.mark.parametrize("text", ["", "dev", "-1", ".5", "v", "x1.0", "٣.1"])
    def test_what_begins_with_none(self, text):
        """It is no version that compares."""
        assert version_key(text) is None

    @given(st.text(max_size=20))
    def test_any_text(self, text):
        """Nothing raises, and a key has no zero at its end."""
        key = version_key(text)
        assert key is None or not key or key[-1] != 0


@pytest.mark.django_db
@given(
    language=st.sampled_from(["de", "DE", "zh", "fil"]),
    script=st.sampled_from(["", "Hans", "Latn"]),
    region=st.sampled_from(["", "AT", "CN", "419"]),
    separators=st.tuples(*[st.sampled_from("-_")] * 2),
)
def test_a_locale_finds_its_own(language, script, region, separators):
    """Each locale is found by itself, and by itself without its region, in any spelling."""
    parts = [part for part in (language, script, region) if part]
    spelt = "".join(f"{part}{separator}" for part, separator in zip(parts, [*separators, ""], strict=False))
    spelt = spelt.strip("-_")
    Token.objects.all().delete()
    make("t", locale=spelt)
    assert ["t"] == of(locale="-".join(parts)) == of(locale="_".join(parts).lower()) == of(locale=language)
    assert of(locale="-".join(part for part in (language, script) if part)) == ["t"]
    assert [] == of(locale=f"{language}-XX") == of(locale=f"{language}x")
