"""The real engine's functions behind the model's interface. Time passes by moving what is due."""

import copy
from collections import Counter
from datetime import timedelta
from unittest import mock

from django.contrib.auth import get_user_model
from django.db import transaction

from django_push import Outcome, Ticket, broadcast, register_token, unregister_token
from django_push.broadcasts import claims, control, results
from django_push.broadcasts.packing import unpack
from django_push.broadcasts.rows import batches, lanes
from django_push.exceptions import InvalidBroadcast
from django_push.models import COUNTED, BroadcastLane, get_token_model
from tests.broadcasts.protocol.words import (
    ACCEPTED,
    DEAD,
    LEASE,
    REFUSED,
    UNKNOWN,
    UNSENT,
    Died,
    Held,
    Row,
)

OUTCOMES = {
    ACCEPTED: Outcome.ACCEPTED,
    DEAD: Outcome.UNREGISTERED,
    REFUSED: Outcome.RATE_LIMITED,
    UNKNOWN: Outcome.UNKNOWN,
}
WORDS = {outcome.value: word for word, outcome in OUTCOMES.items()}


class Orm:
    """One broadcast in the database, undone at the end."""

    def __init__(self):
        self.atomic = transaction.atomic()
        self.atomic.__enter__()
        self.tokens = get_token_model()._base_manager
        self.users = [get_user_model().objects.create(username=f"u{n}") for n in range(2)]
        self.user_keys = {user.pk: n for n, user in enumerate(self.users)}
        self.names = 0

    def close(self):
        transaction.set_rollback(True)
        self.atomic.__exit__(None, None, None)

    def begin(self, setup):
        self.setup = setup
        made = [(self.register(alias, None, user), alias, user) for alias, user in setup.tokens]
        self.broadcast = broadcast(
            self.tokens.all() if setup.is_list else "everyone",
            title="Hello",
            batch_size=setup.size,
            max_sends=setup.max_sends,
            on_unknown=setup.on_unknown,
            start=False,
        )
        assert control.start(self.broadcast)
        self.lane_keys = dict(self._lanes().values_list("backend", "pk"))
        return made

    def _lanes(self):
        return BroadcastLane.objects.filter(broadcast_id=self.broadcast.pk)

    def _batches(self):
        return batches().filter(lane__broadcast_id=self.broadcast.pk)

    # --- time and tokens -------------------------------------------------------------------------

    def elapse(self, seconds):
        by = timedelta(seconds=seconds)
        for pk, due in batches().values_list("pk", "due_at"):
            batches().filter(pk=pk).update(due_at=due - by)
        for pk, until in lanes().exclude(hold_until=None).values_list("pk", "hold_until"):
            lanes().filter(pk=pk).update(hold_until=until - by)

    def register(self, alias, pk, user):
        owner = None if user is None else self.users[user]
        if pk is None:
            self.names += 1
            name = f"token-{self.names}"
        else:
            name = self.tokens.values_list("token", flat=True).get(pk=pk)
        row, created = register_token(name, user=owner, backend=alias)
        assert created is (pk is None)
        assert row.pk == pk or created
        return row.pk

    def unregister(self, pk):
        unregister_token(self.tokens.get(pk=pk).token)

    def delete(self, pk):
        self.tokens.filter(pk=pk).delete()

    def active(self):
        found = self.tokens.filter(status="active").values_list("pk", "user_id")
        return {pk: self.user_keys.get(user) for pk, user in found}

    # --- claims and results ----------------------------------------------------------------------

    def claim(self, alias, dies=False):
        if dies:
            with mock.patch.object(claims, "_insert", _die), mock.patch.object(claims, "_take", _die):
                claims.claim(self.broadcast, self.lane_keys[alias], self.setup.size, LEASE)
            return None
        found = claims.claim(self.broadcast, self.lane_keys[alias], self.setup.size, LEASE)
        if isinstance(found, claims.Idle):
            return found.wait
        return Held(alias, found.batch, found.number, tuple(target.pk for target in found.targets), found)

    def renew(self, held):
        return results.renew(held.raw, LEASE)

    def progress(self, held, answers, is_confirmed=True):
        def write(raw):
            return results.record_progress(self.broadcast, raw, self._result(held, answers), LEASE)

        if not is_confirmed:
            write(copy.deepcopy(held.raw))
        return write(held.raw)

    def record(self, held, answers, wait=0, is_confirmed=True):
        def write(raw):
            return results.record(self.broadcast, raw, self._result(held, answers, wait))

        told = write(held.raw if is_confirmed else copy.deepcopy(held.raw))
        if not is_confirmed:
            assert not write(held.raw), "once: a result is taken twice"
        return told

    def _result(self, held, answers, wait=0):
        result = results.Result(wait=wait)
        lists = {REFUSED: result.refused, UNKNOWN: result.unknown}
        targets = {target.pk: target for target in held.raw.targets}
        for pk, word in answers.items():
            if word == UNSENT:
                result.unsent.append(targets[pk])
                continue
            ticket = Ticket(target=targets[pk], outcome=OUTCOMES[word], backend=held.alias, code=word)
            lists.get(word, result.final).append(ticket)
        return result

    # --- control ---------------------------------------------------------------------------------

    def pause(self, alias=""):
        return control.pause(self.broadcast, lane=alias)

    def resume(self, alias=""):
        return self._or_over(control.resume, lane=alias)

    def cancel(self, alias=""):
        return control.cancel(self.broadcast, lane=alias)

    def resend(self):
        return self._or_over(control.resend_unknown)

    def _or_over(self, verb, **about):
        try:
            return verb(self.broadcast, **about)
        except InvalidBroadcast:
            return 0

    def settle(self):
        return control.settle(self.broadcast)

    def sweep(self):
        control.sweep()

    # --- to look at ------------------------------------------------------------------------------

    def rows(self):
        columns = ("pk", "lane__backend", "status", "pks", "size", "pending", "claim_no", "sends", "resent")
        found = self._batches().values_list(*columns, "skipped", *COUNTED)
        return [self._row(*values) for values in found]

    def _row(self, pk, alias, status, pks, *numbers):
        size, pending, number, sends, resent, skipped, *counts = numbers
        chosen = frozenset(pk for pk, _ in unpack(pks))
        told = Counter({WORDS.get(name, name): n for name, n in zip(COUNTED, counts, strict=True) if n})
        return Row(pk, alias, status, chosen, size, pending, number, sends, resent, skipped, told)

    def status(self):
        return type(self.broadcast).objects.values_list("status", flat=True).get(pk=self.broadcast.pk)

    def lane(self, alias):
        return self._lanes().values_list("status", flat=True).get(backend=alias)


def _die(*args, **kwargs):
    raise Died
