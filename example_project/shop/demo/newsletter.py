"""A broadcast to some thousands of tokens, one of whose workers is killed in the middle."""

import time
from collections import Counter
from datetime import datetime, timezone

from django.core.management import call_command
from django.core.management.base import CommandError
from django.db.models import Count, Max, Sum

from django_push import get_token_model
from django_push.broadcasts import begin, broadcast
from django_push.models import BatchStatus, Broadcast, BroadcastBatch
from shop.demo.workers import Workers

NAME = "demo newsletter"
#: Tokens of each alias, and every which of them is dead.
CROWD = {"expo": 3000, "fcm": 500, "gcm": 2500}
DEAD_EVERY = 50
FORMS = {
    "expo": "ExponentPushToken[{}-news-{:08d}]",
    "fcm": "{}-news-fcm-{:018d}",
    "gcm": "{}-news-gcm-{:018d}",
}
#: How many tokens are claimed at once: what a worker has claimed when it dies may be sent twice.
BATCH_SIZE = 100
#: How long the emulated providers think before they answer. Seconds.
LATENCY = 0.1
#: When a worker is killed: so much of the whole has been accepted.
MIDDLE = 0.4
#: Longer than this it never takes. Seconds.
PATIENCE = 150.0


class Newsletter:
    """The broadcast, and what is known of it: by the table, and by the emulator, who counts by itself."""

    def __init__(self, stdout, style, emulator, workers):
        self.stdout = stdout
        self.say = stdout.write
        self.style = style
        self.emulator = emulator
        self.workers = Workers.of(workers, emulator)

    def run(self):
        """Send it, kill a worker, let others go on; return what is wrong, "" for nothing."""
        self.workers.check()
        Broadcast.objects.filter(name=NAME).delete()
        self.tokens = self.register()
        self.emulator.state.reset()
        self.emulator.state.latency = LATENCY
        parts = ", ".join(f"{count:,} of {alias}" for alias, count in CROWD.items())
        self.say(f"{len(self.tokens):,} tokens get a newsletter: {parts}. One in {DEAD_EVERY} is dead.")
        self.say(f"It is sent by {self.workers}.")
        self.began = time.monotonic()
        with self.workers:
            self.row = self.begin()
            self.kill_one()
            self.go_on()
        return self.report()

    def register(self):
        """Make the subscribers' tokens, and return their aliases."""
        model = get_token_model()
        aliases = {}
        for alias, count in CROWD.items():
            for number in range(count):
                word = "healthy" if (number + 1) % DEAD_EVERY else "unregistered"
                aliases[FORMS[alias].format(word, number)] = alias
        about = {"metadata": {"newsletter": True}, "platform": "android"}
        rows = [model(token=token, backend=alias, **about) for token, alias in aliases.items()]
        model.objects.bulk_create(rows, batch_size=500)
        return aliases

    def begin(self):
        """Write the broadcast down and let workers have it."""
        row = broadcast(
            "newsletter",
            name=NAME,
            title="Tea of the month",
            body="A Darjeeling, first flush.",
            batch_size=BATCH_SIZE,
            start=False,
        )
        begin(row, workers=0)
        self.workers.start(row)
        return row

    # --- the crash ----------------------------------------------------------------------------------

    def kill_one(self):
        """Wait until much is sent, and more is known to the providers than to the table; then kill."""
        self.wait_for(lambda: self.accepted() >= MIDDLE * len(self.tokens), "The middle")
        self.wait_for(lambda: self.in_doubt() >= BATCH_SIZE or self.is_over(), "Something in flight")
        victim = self.workers.kill()
        seconds = time.monotonic() - self.began
        self.say(self.style.WARNING(f"{victim} is killed after {seconds:.1f} s. What it leaves:"))
        time.sleep(2 * LATENCY)  # the emulator reads what was on its way
        self.show_state()

    def show_state(self):
        """Tell what a crash leaves behind."""
        recorded = self.row.progress.counts.total()
        self.say(f"    {self.reached():,} pushes have reached the providers")
        self.say(f"    {recorded:,} verdicts are in the table")
        leased = BroadcastBatch.objects.filter(lane__broadcast=self.row, status=BatchStatus.LEASED)
        found = leased.values("lane__backend").order_by("lane__backend")
        for lane in found.annotate(batches=Count("pk"), tokens=Sum("pending"), until=Max("due_at")):
            left = max(0.0, (lane["until"] - datetime.now(timezone.utc)).total_seconds())
            claimed = f"{lane['tokens']:,} tokens of {lane['lane__backend']}, in {lane['batches']} batches"
            self.say(f"    {claimed}, are in flight: leased for another {left:.1f} s")

    def go_on(self):
        """Let others finish; this process too, unless workers do by themselves."""
        self.say(self.workers.explain(self.row))
        if self.workers.go_on_by_themselves:
            self.wait_for(self.is_over, "The end")
            call_command("push_broadcast", status=self.row.pk, stdout=self.stdout)
        else:
            call_command("push_broadcast", resume=self.row.pk, interactive=False, stdout=self.stdout)
        self.row.refresh_from_db()
        self.say(f"All of it took {time.monotonic() - self.began:.1f} s.")

    # --- what is known ------------------------------------------------------------------------------

    def accepted(self):
        return self.emulator.state.counts()["accepted_total"]

    def reached(self):
        """Return how many pushes the providers were sent, whatever they said to them."""
        return self.emulator.state.seen.total()

    def in_doubt(self):
        """Return how many pushes are out of which the table does not know yet what became of them."""
        return self.reached() - self.row.progress.counts.total()

    def is_over(self):
        return Broadcast.objects.get(pk=self.row.pk).is_final

    def wait_for(self, condition, what):
        end = time.monotonic() + PATIENCE
        while not condition():
            self.workers.look_after()
            if time.monotonic() > end:
                raise CommandError(f"{what} did not come within {PATIENCE:.0f} s.")
            time.sleep(0.02)

    def report(self):
        """Print what the providers counted beside what the table promised; return what is wrong."""
        sent = Counter(self.emulator.state.seen)
        states = dict(get_token_model().objects.filter(user=None).values_list("token", "status"))
        promised = {lane.backend: lane.resent for lane in self.row.progress.lanes}
        line = "{:<6} {:>7} {:>7} {:>15} {:>14} {:>7} {:>12}  {}"
        head = "Alias", "Tokens", "Missed", "Twice at most", "Really twice", "Dead", "Deactivated", "That is"
        self.say("")
        self.say(line.format(*head))
        self.say("-" * 92)
        wrong = []
        for alias in CROWD:
            tokens = [token for token, own in self.tokens.items() if own == alias]
            dead = {token for token in tokens if token.count("unregistered")}
            found = {token for token in tokens if states[token] != "active"}
            missed = sum(not sent[token] for token in tokens)
            twice = sum(max(0, sent[token] - 1) for token in tokens)
            is_right = not missed and twice <= promised.get(alias, 0) and dead == found
            if not is_right:
                wrong.append(alias)
            verdict = self.style.SUCCESS("right") if is_right else self.style.ERROR("WRONG")
            self.say(
                line.format(
                    alias, len(tokens), missed, promised.get(alias, 0), twice, len(dead), len(found), verdict
                )
            )
        self.say("")
        self.say("At most: what the table says may have been sent twice. Really: what the providers counted.")
        told = self.row.progress
        if self.row.status != "done" or told.accepted + told.failed != len(self.tokens):
            wrong.append(f"the broadcast ended as {self.row.status}")
        return ", ".join(wrong)
