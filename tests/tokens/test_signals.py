import logging
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from django_push import signals, unregister_token
from django_push.models import get_token_model
from django_push.tokens import apply, deactivate, move, prune, reactivate, replace, set_enabled
from tests.tokens.helpers import ACTIVE, age, canonical, dead, register, state

pytestmark = pytest.mark.django_db
Tokens = get_token_model().objects


class TestEvents:
    """What a receiver hears of each verb."""

    def test_register(self, committed, ann):
        """A new token is registered, and nothing else."""
        heard = committed(register, "a", ann)
        assert heard.names == ["token_registered"]
        [about] = heard.of("token_registered")
        assert (about["sender"], about["token"].token, about["created"]) == (get_token_model(), "a", True)
        heard = committed(register, "a", ann)
        assert [(name, about["created"]) for name, about in heard] == [("token_registered", False)]

    def test_transfer(self, committed, ann, bob):
        """A user switch tells whose it was; the row shows whose it is."""
        committed(register, "a", ann)
        heard = committed(register, "a", bob)
        assert heard.names == ["token_registered", "token_transferred"]
        [about] = heard.of("token_transferred")
        assert (about["token"].user, about["previous_user_id"]) == (bob, ann.pk)

    def test_claim_is_no_transfer(self, committed, ann):
        """A token that was nobody's is claimed without a transfer."""
        committed(register, "a")
        assert committed(register, "a", ann).names == ["token_registered"]

    def test_rotation(self, committed, ann):
        """A rotation tells the token that was."""
        row = register("a", ann, device_id="d")
        [about] = committed(register, "b", ann, device_id="d").of("token_replaced")
        assert (about["token"].token, about["previous_token"], about["replaced_id"]) == ("b", "a", None)
        assert about["token"].pk == row.pk

    def test_supersede(self, committed, ann):
        """A row that is put aside is named beside the one that lives on."""
        old, own = register("a", ann, device_id="d"), register("b", ann)
        [about] = committed(register, "b", ann, device_id="d").of("token_replaced")
        assert (about["token"], about["previous_token"], about["replaced_id"]) == (own, "a", old.pk)

    def test_death_and_return(self, committed, ann, now):
        """A death tells why; a registration brings the token back."""
        row = register("a", ann)
        [about] = committed(apply, [dead(row)], now()).of("token_deactivated")
        assert {key: about[key] for key in ("status", "code", "source")} == {
            "status": "unregistered",
            "code": "DeviceNotRegistered",
            "source": "ticket",
        }
        assert about["token"].status == "unregistered"
        heard = committed(register, "a", ann)
        assert heard.names == ["token_registered", "token_reactivated"]
        assert heard.of("token_reactivated")[0]["source"] == "registration"

    def test_canonical(self, committed, ann, bob, now):
        """A canonical id tells the token that was, and the owner if the row changed hands."""
        row = register("a", ann)
        [about] = committed(apply, [canonical(row, "b")], now()).of("token_replaced")
        assert (about["token"].token, about["previous_token"], about["replaced_id"]) == ("b", "a", None)
        old = register("c", bob)
        heard = committed(apply, [canonical(old, "b")], now())
        assert heard.names == ["token_transferred", "token_replaced"]
        assert heard.of("token_transferred")[0]["previous_user_id"] == ann.pk
        assert heard.of("token_replaced")[0]["replaced_id"] == old.pk

    def test_logout(self, committed, ann):
        """A logout is a deactivation."""
        register("a", ann)
        [about] = committed(unregister_token, "a").of("token_deactivated")
        assert (about["status"], about["code"], about["source"]) == ("retired", "logout", "registration")

    def test_staff(self, committed, ann):
        """Staff's verbs are told with their source."""
        row = register("a", ann)
        heard = committed(deactivate, Tokens.all(), code="x", source="admin")
        assert (heard.names, heard[0][1]["source"]) == (["token_deactivated"], "admin")
        heard = committed(reactivate, Tokens.all(), source="admin")
        assert (heard.names, heard[0][1]["source"]) == (["token_reactivated"], "admin")
        assert committed(set_enabled, Tokens.all(), False).names == []
        assert committed(replace, row, "b", source="admin").names == ["token_replaced"]

    def test_clean_up(self, committed, ann):
        """A prune tells what it retires; a move changes no status and tells nothing."""
        row = register("a", ann)
        assert committed(move, "default", "other").names == []
        age(row, days=40)
        heard = committed(prune, unseen_for=timedelta(days=30))
        assert [(name, about["source"]) for name, about in heard] == [("token_deactivated", "prune")]

    def test_repeated(self, committed, ann, now):
        """What changes nothing tells nothing."""
        one, two, three = register("a", ann), register("b", ann), register("c", ann)
        reply, sent_at = [dead(one), canonical(two, "c"), canonical(three, "d")], now()
        assert len(committed(apply, reply, sent_at)) == 3
        assert committed(apply, reply, sent_at) == []
        assert committed(unregister_token, "a") == []
        assert committed(deactivate, Tokens.filter(pk=one.pk), code="x", source="admin") == []
        assert committed(reactivate, Tokens.active(), source="admin") == []

    def test_each_row_once_in_order(self, committed, ann, now):
        """Every row of a large reply is told once."""
        rows = [register(f"t{n}", ann) for n in range(30)]
        heard = committed(apply, [dead(row) for row in rows], now())
        assert [about["token"] for about in heard.of("token_deactivated")] == rows

    def test_deleted_before_it_is_told(self, heard, ann, django_capture_on_commit_callbacks):
        """A row that is gone when its event leaves has nothing to show."""
        with django_capture_on_commit_callbacks(execute=True):
            register("a", ann)
            Tokens.all().delete()
        assert heard == []


@pytest.mark.django_db(transaction=True)
class TestCommit:
    """Events are about what has been committed."""

    def test_after_the_commit(self, heard, ann):
        """Nothing is told before the outermost transaction has committed."""
        with transaction.atomic():
            with transaction.atomic():
                register("a", ann)
            assert heard == []
        assert heard.names == ["token_registered"]

    def test_rollback(self, heard, ann):
        """What is rolled back is not told."""
        with transaction.atomic():
            register("a", ann)
            transaction.set_rollback(True)
        with transaction.atomic(), transaction.atomic():
            register("b", ann)
            transaction.set_rollback(True)
        assert heard == []
        assert not Tokens.exists()

    def test_page_by_page(self, heard, ann, monkeypatch):
        """A page that is committed is told, whatever becomes of the next."""
        from django_push.tokens import writing

        rows = [register(f"t{n}", ann) for n in range(4)]
        heard.clear()
        monkeypatch.setattr(writing, "PAGE", 2)
        write, calls = writing.write, []

        def fail(*args):
            calls.append(args)
            if len(calls) == 2:
                raise ZeroDivisionError
            return write(*args)

        monkeypatch.setattr(writing, "write", fail)
        with pytest.raises(ZeroDivisionError):
            deactivate(Tokens.all(), code="x", source="admin")
        assert [about["token"] for about in heard.of("token_deactivated")] == rows[:2]

    def test_robust(self, heard, ann, caplog):
        """A receiver that fails is logged, and stops neither the others nor the caller."""

        def fail(**about):
            raise ZeroDivisionError("in a receiver")

        signals.token_registered.connect(fail)
        late = []
        signals.token_registered.connect(lambda **about: late.append(about), weak=False, dispatch_uid="late")
        try:
            with caplog.at_level(logging.ERROR):
                row = register("a", ann)
        finally:
            signals.token_registered.disconnect(fail)
            signals.token_registered.disconnect(dispatch_uid="late")
        assert state(row) == [ACTIVE]
        assert heard.names == ["token_registered"]
        assert len(late) == 1
        assert "ZeroDivisionError" in caplog.text

    def test_receiver_may_use_the_verbs(self, ann, bob):
        """A receiver may change tokens itself."""

        def mute(token, **about):
            set_enabled(Tokens.filter(pk=token.pk), False)

        signals.token_registered.connect(mute)
        try:
            row = register("a", ann)
        finally:
            signals.token_registered.disconnect(mute)
        row.refresh_from_db()
        assert not row.enabled

    def test_free_without_a_receiver(self, ann):
        """Without a receiver an event costs no query."""
        with CaptureQueriesContext(connection) as silent:
            register("a", ann)
        signals.token_registered.connect(print)
        try:
            with CaptureQueriesContext(connection) as told:
                register("b", ann)
        finally:
            signals.token_registered.disconnect(print)
        assert len(told) == len(silent) + 1
