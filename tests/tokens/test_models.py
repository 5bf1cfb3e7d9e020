import json

import pytest
from django.core import serializers
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.db.models import Q

from django_push.models import AbstractPushToken, database_now, digest, get_token_model
from django_push.outcomes import mask
from django_push.tokens.registration import _of_device
from tests.tokens.helpers import fresh, register

pytestmark = pytest.mark.django_db
Model = get_token_model()
Tokens = Model.objects


def right(row):
    """Whether the row is found by its token."""
    row = fresh(row)
    return row.token_digest == digest(row.token) and row in Tokens.matching(row.token)


class TestDigest:
    """Whatever way a row is written, it is found by its token."""

    def test_save(self):
        """A row that is saved, changed and saved again."""
        row = Model(token="a", backend="default")
        row.save()
        assert right(row)
        row.token = "b"
        row.save()
        assert right(row)
        row.token = "c"
        row.save(update_fields=["token"])
        assert (fresh(row).token, right(row)) == ("c", True)

    def test_update_fields_without_the_token(self):
        """Other columns are written alone."""
        row = Tokens.create(token="a", backend="default")
        row.token, row.device_name = "b", "x"
        row.save(update_fields=["device_name"])
        assert (fresh(row).token, right(row)) == ("a", True)

    def test_deferred(self, django_assert_num_queries):
        """A row without its token loaded is saved without loading it."""
        Tokens.create(token="a", backend="default")
        for rows in (Tokens.only("device_name"), Tokens.defer("token", "registered_at")):
            row = rows.get()
            row.device_name += "x"
            with django_assert_num_queries(1):
                row.save()
        assert right(row)
        assert (fresh(row).device_name, fresh(row).status) == ("xx", "active")

    def test_deferred_and_rotated(self):
        """A row without its token loaded does not write the digest that the token had."""
        Tokens.create(token="a", backend="default")
        row = Tokens.defer("token").get()
        Tokens.filter(pk=row.pk).update(token="b")
        row.save()
        assert right(row)

    def test_refresh(self):
        """A row that is read again has what was written meanwhile."""
        row = Tokens.create(token="a", backend="default")
        Tokens.filter(pk=row.pk).update(token="b")
        row.refresh_from_db()
        assert (row.token, row.token_digest) == ("b", digest("b"))

    def test_update(self):
        """A queryset's update."""
        row = Tokens.create(token="a", backend="default")
        Tokens.filter(pk=row.pk).update(token="b")
        assert right(row)

    def test_bulk(self, django_assert_num_queries):
        """Bulk creation, with one reading of the clock, and bulk update."""
        rows = Tokens.bulk_create([Model(token=f"t{n}", backend="default") for n in range(3)])
        rows = list(Tokens.order_by("pk"))
        assert all(map(right, rows))
        assert {row.registered_at for row in rows} == {rows[0].registered_at}
        for row in rows:
            row.token += "x"
        Tokens.bulk_update(rows, ["token"])
        assert all(map(right, rows))

    def test_bulk_create_with_conflicts(self):
        """A row that is there already is left, or updated."""
        row = Tokens.create(token="a", backend="default")
        Tokens.bulk_create([Model(token="a", backend="default")], ignore_conflicts=True)
        assert Tokens.get() == row

    def test_get_or_create(self):
        """The shortcuts of the manager, and those of a user's own tokens."""
        row, created = Tokens.get_or_create(token="a", backend="default")
        assert created
        assert right(row)
        row, created = Tokens.update_or_create(pk=row.pk, defaults={"token": "b"})
        assert (fresh(row).token, right(row)) == ("b", True)

    def test_fixture(self):
        """A dump that is loaded again."""
        row = register("a")
        dumped = serializers.serialize("json", Tokens.all())
        Tokens.all().delete()
        for loaded in serializers.deserialize("json", dumped):
            loaded.save()
        assert right(row)
        assert fresh(row).registered_at is not None
        assert json.loads(dumped)[0]["fields"]["token_digest"] == digest("a")


class TestSchema:
    def test_unique_in_its_alias(self):
        """A token is in an alias once, and may be in another."""
        Tokens.create(token="a", backend="default")
        Tokens.create(token="a", backend="other")
        with pytest.raises(IntegrityError), transaction.atomic():
            Tokens.create(token="a", backend="default")

    def test_no_migration_is_missing(self):
        """The models and the first migration say the same."""
        call_command("makemigrations", check=True, dry_run=True, verbosity=0)

    @pytest.mark.parametrize(
        "setting", [{"USE_TZ": False}, {"DEFAULT_AUTO_FIELD": "django.db.models.AutoField"}]
    )
    def test_no_setting_changes_the_schema(self, settings, setting):
        """No setting but the swap asks for a migration."""
        for name, value in setting.items():
            setattr(settings, name, value)
        call_command("makemigrations", "django_push", check=True, dry_run=True, verbosity=0)

    def test_registered_at_is_set(self):
        """A row that nobody has registered has the time of its creation, by the database's clock."""
        before = database_now("default")
        row = Tokens.create(token="a", backend="default")
        assert before <= fresh(row).registered_at <= database_now("default")

    def test_words_of_a_row(self):
        """A row never shows its token."""
        token = "ExponentPushToken[abcdefghijklmnopqrstuv]"
        row = Tokens.create(token=token, backend="default")
        assert row.masked == mask(token)
        assert token not in f"{row} {row!r}"
        assert mask(token) in str(row)
        assert mask(token) in repr(row)

    def test_adjectives(self):
        """The queryset's words: active, inactive, enabled, sendable, via, matching."""
        one = Tokens.create(token="a", backend="default")
        two = Tokens.create(token="b", backend="other", enabled=False)
        three = Tokens.create(token="a", backend="other", status="retired")
        assert set(Tokens.active()) == {one, two}
        assert set(Tokens.inactive()) == {three}
        assert set(Tokens.enabled()) == {one, three}
        assert set(Tokens.sendable()) == {one}
        assert set(Tokens.via("other")) == {two, three}
        assert set(Tokens.matching("a")) == {one, three}
        assert [row.is_sendable for row in (one, two, three)] == [True, False, False]

    @pytest.mark.parametrize("label", ["nope", "nope.Nope", "auth.User"])
    def test_wrong_setting(self, settings, label):
        """A setting that names no token model is an error that says so."""
        settings.PUSH_TOKEN_MODEL = label
        with pytest.raises(ImproperlyConfigured, match="PUSH_TOKEN_MODEL"):
            get_token_model()

    def test_is_abstract(self):
        """The token model is a subclass of the abstract one."""
        assert issubclass(Model, AbstractPushToken)


@pytest.mark.django_db(transaction=True)  # MySQL's ANALYZE commits
class TestPlans:
    """What is asked often is answered from an index."""

    @pytest.fixture
    def many(self, ann):
        rows = [
            Model(
                token=f"t{n}",
                backend=f"alias-{n % 40}",
                status="unregistered" if n % 10 else "active",
                device_id=f"d{n}",
            )
            for n in range(8000)
        ]
        Tokens.bulk_create(rows, batch_size=1000)
        with connection.cursor() as cursor:
            if connection.vendor == "mysql":
                cursor.execute(f"ANALYZE TABLE {Model._meta.db_table}")
            else:
                cursor.execute("ANALYZE")
        return Tokens.order_by("pk").first().pk

    def index(self, *fields):
        return next(index.name for index in Model._meta.indexes if index.fields == list(fields))

    def test_broadcast_scan(self, many):
        """A page of a broadcast is read from the index of alias, status and key, without sorting."""
        rows = Tokens.via("alias-20").sendable().filter(pk__gt=many, pk__lte=many + 10**6).order_by("pk")
        plan = rows.values_list("pk", "token")[:100].explain()
        assert self.index("backend", "status", "id") in plan
        assert "TEMP B-TREE" not in plan.upper()
        assert "filesort" not in plan

    def test_token(self, many):
        """A token is found by the unique index of its digest."""
        plan = Tokens.filter(token_digest=digest("t77"), backend="alias-37").explain()
        assert any(name in plan for name in ("unique_token", "token_digest"))
        assert "Seq Scan" not in plan

    def test_device(self, many, ann):
        """A registration's token and device are found by their indexes."""
        which = _of_device("d77", ann.pk)
        plan = Tokens.filter(which, backend="alias-37").explain()
        assert self.index("device_id", "backend") in plan
        both = Tokens.filter(Q(token_digest=digest("t77")) | which, backend="alias-37").explain()
        assert "Seq Scan" not in both
        assert "SCAN" not in both.replace("BITMAP INDEX SCAN", "")
        assert "index_merge" in both or connection.vendor != "mysql"
