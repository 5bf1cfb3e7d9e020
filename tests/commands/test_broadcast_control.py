"""push_broadcast on broadcasts that there are: status, pause, resume, cancel, resend, undo."""

import zoneinfo
from datetime import datetime, timedelta

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.utils import timezone

from django_push import broadcasts, get_token_model, testing
from django_push.broadcasts import claims, control, rates
from django_push.broadcasts.rows import batches, moment
from django_push.management.commands import push_broadcast
from django_push.models import (
    BatchStatus,
    Broadcast,
    BroadcastLane,
    BroadcastStatus,
    LaneStatus,
    PauseReason,
    ReceiptBatch,
    TokenStatus,
)
from django_push.outcomes import Outcome
from tests.commands.conftest import latest, push, send

Token = get_token_model()
ACTIONS = ["--pause", "--resume", "--cancel", "--resend-unknown", "--undo"]


@pytest.fixture
def row(shop):
    """A broadcast that runs, and that nobody sends."""
    return make()


def make(**more):
    row = broadcasts.broadcast("everyone", title="Hi", name="Sale", start=False, **more)
    broadcasts.begin(row, workers=0)
    return row


def lane(row, alias="a"):
    return BroadcastLane.objects.get(broadcast=row, backend=alias)


# --- what does not go -----------------------------------------------------------------------------


@pytest.mark.parametrize("action", [*ACTIONS, "--status"])
def test_an_id_that_there_is_not(shop, action):
    """Is one line."""
    ran = push(action, "12345", "--no-input")
    assert (ran.code, "no broadcast 12345" in ran.error) == (1, True)


@pytest.mark.parametrize("key", ["x", "-1", "0", "1.5", "99999999999999999999", "²"])
def test_an_id_that_is_none(key):
    """Is one line, without a query."""
    ran = push(f"--pause={key}")
    assert (ran.code, "whole number" in ran.error) == (1, True)


@pytest.mark.parametrize("action", ["--pause", "--resume", "--cancel", "--resend-unknown"])
def test_a_lane_that_there_is_not(row, action):
    """Is told with those that there are."""
    ran = push(action, row.pk, "--lane", "c", "--no-input")
    assert (ran.code, "no lane 'c'; there are: a, b." in ran.error) == (1, True)


@pytest.mark.parametrize(
    "args",
    [
        ["--pause", "1", "--title", "x"],
        ["--resume", "1", "--everyone"],
        ["--resume", "1", "--not-anonymous"],
        ["--resume", "1", "--workers", "2"],
        ["--cancel", "1", "--enqueue"],
        ["--status", "--lane", "a"],
        ["--undo", "1", "--lane", "a"],
        ["--undo", "1", "--dry-run"],
        ["--resend-unknown", "1", "--key", "k"],
        ["--status", "--as", "ada"],
    ],
)
def test_what_does_not_go_together(args):
    """Is a wrong usage."""
    ran = push(*args)
    assert (ran.code, "go" in ran.error) == (2, True)


def test_two_acts_at_once():
    """Are refused."""
    assert "not allowed with" in push("--pause", "1", "--resume", "1").error


@pytest.mark.parametrize("action", ["--pause", "--resume", "--cancel"])
def test_one_that_is_over(shop, action):
    """Says so; of the unknown it says how to send to them."""
    testing.answer("a-0", Outcome.UNKNOWN)
    send("--everyone", "--on-unknown", "skip")
    ran = push(action, latest().pk, "--no-input")
    assert (ran.code, "is done; there is nothing to" in ran.error) == (1, True)
    assert f"--resend-unknown {latest().pk}" in ran.error


# --- status ---------------------------------------------------------------------------------------


def test_no_broadcasts(db):
    """Are no error."""
    assert push("--status").out == "There are no broadcasts.\n"
    assert push("--status", "--json").json == {"broadcasts": []}


def test_the_latest_ones(row, django_assert_num_queries):
    """The newest first, one query each beside the list."""
    send("--everyone", "--using", "b")
    with django_assert_num_queries(3):
        ran = push("--status")
    head, newest, oldest = ran.out.splitlines()
    assert head.split() == ["ID", "status", "created", "done", "of", "accepted", "unknown"]
    assert newest.split()[:2] == [str(latest().pk), "done"]
    assert newest.endswith("3           3           3        0  Hi")
    assert oldest.split()[:2] == [str(row.pk), "running"]
    assert oldest.endswith("Sale")
    found = push("--status", "--json").json["broadcasts"]
    assert [one["id"] for one in found] == [latest().pk, row.pk]


def test_the_list_has_an_end(row, monkeypatch):
    """Older ones have their own page."""
    monkeypatch.setattr(push_broadcast, "LISTED", 1)
    make(key="x")
    assert len(push("--status").out.splitlines()) == 2


def test_one_in_detail(shop):
    """Lanes, outcomes, doubts, copies, receipts, times, who."""
    ada = get_user_model().objects.create(username="ada")
    ada.user_permissions.add(Permission.objects.get(codename="broadcast_push"))
    testing.answer("a-0", Outcome.UNKNOWN)
    more = {
        "translations": {"de": {"title": "Servus"}},
        "key": "k",
        "expires": timedelta(hours=2),
        "rate": 500,
    }
    row = make(user=ada, on_unknown="skip", **more)
    assert push("--resume", row.pk).code == 4
    BroadcastLane.objects.filter(broadcast=row, backend="a").update(
        receipts_ok=2, receipts_expired=1, totals={"resent": 4}
    )
    Broadcast.objects.update(unconfigured=7)
    out = push("--status", row.pk).out
    shown = [
        f"Broadcast {row.pk} (Sale) is done: 8 of 8 tokens.",
        "7 accepted",
        "1 unknown",
        "7 of aliases that are not in PUSH_BACKENDS",
        "4 were sent to again",
        "message    Hi (also: de)",
        "audience   everyone",
        "key        k",
        "by ada",
        "expires    ",
        "rate       at most 500 tokens a second",
        "unknown    what may have been sent is never sent again",
        "lane a: done",
        "5 of 5 tokens, 4 accepted, 1 unknown, 4 perhaps sent twice",
        "receipts: 2 handed over, 1 never came",
    ]
    assert [text for text in shown if text not in out] == []
    assert push("--status", row.pk, "--json").json["broadcast"]["progress"]["lanes"][0]["receipts"]["ok"] == 2


def test_what_others_wrote_is_one_printable_line(row):
    """A provider's words and a name cannot steer the terminal."""
    control.pause_lane(row, "a", PauseReason.CREDENTIALS, "\x1b[2J\nno")
    Broadcast.objects.update(name="\x1b[31m", message={"title": "\x1b]0;x\x07", "body": "b" * 100})
    for ran in (push("--status"), push("--status", row.pk)):
        assert "\x1b" not in ran.out
        assert "\x07" not in ran.out
    assert "lane a: paused: the provider refused our key ([2J no)" in push("--status", row.pk).out


def test_nobody_sends_it(row):
    """That is said with how it goes on, until somebody does or has said to."""
    line = f"Nobody is sending it: --resume {row.pk} goes on here, push_tick hands it on."
    assert f"  {line}\n" in push("--status", row.pk).out
    assert push("--status", row.pk, "--json").json["waiting"] == [line]
    control.stay_awake(row, -5)
    assert line in push("--status", row.pk).out
    control.stay_awake(row, 60)
    assert line not in push("--status", row.pk).out
    control.stay_awake(row, 0)
    claims.claim(row, lane(row).pk, 2, 60)
    assert line not in push("--status", row.pk).out
    control.pause(row)
    assert push("--status", row.pk, "--json").json["waiting"] == []


def test_what_it_waits_for(row):
    """Holds, blocks, leases and retries, by lane."""
    control.stay_awake(row, 60)
    rates.block("a", 58.4)
    BroadcastLane.objects.filter(backend="b").update(hold_until=moment() + timedelta(seconds=40.4))
    claims.claim(row, lane(row).pk, 2, 30.4)
    claims.claim(row, lane(row).pk, 2, 30.4)
    later = moment() + timedelta(seconds=20.4)
    batch = batches().order_by("pk").first()
    batches().filter(pk=batch.pk).update(status=BatchStatus.RETRY, due_at=later)
    assert push("--status", row.pk, "--json").json["waiting"] == [
        "a waits 58 s: the provider asked for it",
        "a: 1 batch is out; if a worker was lost, its lease ends in 30 s",
        "a: 2 tokens will be tried again in 20 s",
        "b is left alone for 40 s: the provider did not answer",
    ]


def test_a_broadcast_of_newer_code(row):
    """Is said to be one: this version sends none of it."""
    Broadcast.objects.update(protocol=99)
    out = push("--status", row.pk).out
    assert "made by a newer version than this one" in out
    assert "Nobody is sending it" not in out


def test_a_planned_one_whose_time_has_come(shop):
    """Waits for push_tick, and says so."""
    send("--everyone", "--schedule", "+2h")
    line = "push_tick starts it when it next runs"
    assert line not in push("--status", latest().pk).out
    Broadcast.objects.update(scheduled_at=moment() - timedelta(seconds=1))
    assert line in push("--status", latest().pk).out


def test_a_message_of_data_alone(shop):
    """Has no words to show."""
    broadcasts.broadcast("everyone", data={"a": 1}, start=False)
    assert push("--status").out.endswith("(data alone)\n")


def test_times_are_those_of_here(row):
    """Whatever the database's form of them is."""
    hours = {f"{datetime.now(zoneinfo.ZoneInfo('America/New_York')):%Y-%m-%d %H}"}
    out = push("--status", row.pk).out
    hours.add(f"{datetime.now(zoneinfo.ZoneInfo('America/New_York')):%Y-%m-%d %H}")
    assert any(f"started    {hour}:" in out for hour in hours)
    assert any(f"created    {hour}:" in out for hour in hours)


# --- pause, resume, cancel ------------------------------------------------------------------------


def test_pause_and_resume(row):
    """Pausing asks nobody; resuming sends to all that are left."""
    ran = push("--pause", row.pk)
    assert (ran.code, "is paused (paused by hand)" in ran.out) == (0, True)
    assert "Nothing of it was running" in push("--pause", row.pk).out
    ran = push("--resume", row.pk, "--json")
    assert (ran.code, ran.json["broadcast"]["status"], len(testing.outbox)) == (0, "done", 8)


def test_resuming_one_whose_process_was_killed(row):
    """Goes on, without a word."""
    assert (push("--resume", row.pk).code, len(testing.outbox)) == (0, 8)


def test_pause_and_resume_a_lane(row):
    """The other goes on; then it is paused for good reason, and says which."""
    assert push("--pause", row.pk, "--lane", "a").code == 0
    ran = push("--resume", row.pk, "--lane", "b")
    assert "The lane b was not paused." in ran.out
    assert (ran.code, len(testing.outbox)) == (3, 3)
    ran = push("--resume", row.pk, "--lane", "a")
    assert (ran.code, "a was paused: paused by hand." in ran.out, len(testing.outbox)) == (0, True, 8)


def test_resuming_what_was_paused_for_trouble_asks(row, person):
    """Somebody should have looked."""
    control.pause_lane(row, "a", PauseReason.DEAD_TOKENS, "300 of 400")
    person.answers.append("n\n")
    ran = push("--resume", row.pk)
    assert (ran.code, lane(row).status, testing.outbox) == (1, LaneStatus.PAUSED, [])
    assert "a was paused: too many tokens came back dead." in ran.out
    person.answers.append("y\n")
    assert (push("--resume", row.pk).code, len(testing.outbox)) == (0, 8)
    assert lane(row).is_trusted


def test_resume_with_workers(row, queue):
    """Nothing is sent here, and they are asked for once."""
    push("--pause", row.pk)
    ran = push("--resume", row.pk, "--enqueue", "--workers", "2")
    job = ("drain_broadcast", {"broadcast": row.pk, "wake": 1})
    assert (ran.code, queue.asked, testing.outbox) == (0, [job] * 2, [])


@pytest.mark.parametrize("verb", ["--resume", "--resend-unknown"])
@pytest.mark.parametrize(("args", "count"), [([], 3), (["--workers", "5"], 5)])
def test_as_many_workers_as_it_has(shop, queue, verb, args, count):
    """Unless it is given others, which are kept for push_tick."""
    testing.answer("a-0", Outcome.UNKNOWN)
    row = make(workers=3, on_unknown="skip")
    if verb == "--resend-unknown":
        push("--resume", row.pk)
    ran = push(verb, row.pk, "--enqueue", "--no-input", *args)
    assert (ran.code, len(queue.asked), latest().workers) == (0, count, count)


def test_resuming_a_draft_starts_it(shop, person):
    """With a question."""
    row = broadcasts.broadcast("everyone", title="Hi", start=False)
    person.answers.extend(["n\n", "y\n"])
    assert (push("--resume", row.pk).code, testing.outbox) == (1, [])
    assert (push("--resume", row.pk).code, len(testing.outbox)) == (0, 8)


def test_a_planned_one_paused_and_resumed(shop):
    """It waits for its time again."""
    send("--everyone", "--schedule", "+2h")
    key = latest().pk
    ran = push("--pause", key)
    assert (ran.code, "It will not start at its time. Go on with" in ran.out) == (0, True)
    ran = push("--resume", key)
    assert (ran.code, latest().status, testing.outbox) == (0, BroadcastStatus.SCHEDULED, [])
    assert "by push_tick" in ran.out


def test_the_recorded_user_must_still_be_allowed(shop):
    """To resume."""
    ada = get_user_model().objects.create(username="ada", is_superuser=True)
    row = make(user=ada)
    push("--pause", row.pk)
    get_user_model().objects.update(is_superuser=False)
    ran = push("--resume", row.pk)
    assert (ran.code, "ada may not broadcast" in ran.error) == (1, True)


def test_cancel_asks(row, person):
    """It is for good."""
    person.answers.extend(["n\n", "y\n"])
    ran = push("--cancel", row.pk)
    assert (ran.code, ran.error) == (1, "Nothing was changed.")
    ran = push("--cancel", row.pk)
    assert (ran.code, "Cancel it, for good? [y/N]" in ran.out) == (0, True)
    assert "is cancelled. Nothing more of it is sent." in ran.out
    assert "8 left out" in push("--status", row.pk).out


def test_cancel_a_lane(row):
    """The other is sent."""
    ran = push("--cancel", row.pk, "--lane", "a", "--no-input")
    assert (ran.code, lane(row).status) == (0, LaneStatus.CANCELLED)
    ran = push("--resume", row.pk)
    assert (ran.code, len(testing.outbox)) == (4, 3)
    assert "5 tokens were left out, for their lane was cancelled" in ran.error


def test_somebody_else_is_quicker(row, person):
    """It is over by the time of the answer."""

    def cancelled():
        broadcasts.cancel(Broadcast.objects.get())
        return "y\n"

    person.answers.append(cancelled)
    ran = push("--cancel", row.pk)
    assert (ran.code, "It was over already." in ran.out) == (0, True)


def test_nobody_to_ask(row, monkeypatch):
    """Is refused with a clear text."""
    monkeypatch.setattr("sys.stdin", None)
    ran = push("--cancel", row.pk)
    assert (ran.code, "give --no-input" in ran.error) == (1, True)


# --- resend, undo ---------------------------------------------------------------------------------


def test_resend_unknown_asks(shop, person):
    """Each may get a second copy; they are counted as such."""
    testing.answer("a-0", Outcome.UNKNOWN)
    assert send("--everyone", "--on-unknown", "skip").code == 4
    testing.reset()
    key = latest().pk
    person.answers.extend(["n\n", "y\n"])
    assert (push("--resend-unknown", key).code, testing.outbox) == (1, [])
    ran = push("--resend-unknown", key)
    assert (ran.code, [sent.token for sent in testing.outbox]) == (0, ["a-0"])
    assert "Send once more to 1 token that may have got it? Each may get a second copy." in ran.out
    assert "1 were sent to again" in ran.out


def test_nothing_to_resend(row):
    """Is said, of a lane as well."""
    for more in ([], ["--lane", "b"]):
        ran = push("--resend-unknown", row.pk, *more)
        assert (ran.code, "No token of it is unknown" in ran.out) == (0, True)


def test_resend_of_a_cancelled_one(shop):
    """Is refused by the engine."""
    testing.answer("a-0", Outcome.UNKNOWN)
    send("--everyone", "--on-unknown", "skip")
    Broadcast.objects.update(status=BroadcastStatus.CANCELLED)
    ran = push("--resend-unknown", latest().pk, "--no-input")
    assert (ran.code, "nothing is sent again" in ran.error) == (1, True)


def test_undo_asks(shop, person):
    """What this broadcast has deactivated, and nothing else."""
    testing.answer("a-0", Outcome.UNREGISTERED)
    send("--everyone")
    key = latest().pk
    person.answers.extend(["n\n", "y\n"])
    assert (push("--undo", key).code, Token.objects.filter(status=TokenStatus.ACTIVE).count()) == (1, 7)
    ran = push("--undo", key)
    assert (ran.code, Token.objects.filter(status=TokenStatus.ACTIVE).count()) == (0, 8)
    assert "1 token made active again." in ran.out
    ran = push("--undo", key, "--json")
    assert (ran.code, ran.json["reactivated"]) == (0, 0)


def test_what_is_deactivated_still_is_counted(shop):
    """After --undo the status does not claim what no longer holds."""
    testing.answer("a-0", Outcome.UNREGISTERED)
    testing.answer("b-0", Outcome.INVALID_TOKEN)
    send("--everyone")
    key = latest().pk
    out = push("--status", key).out
    assert f"2 of the dead are deactivated by it now. --undo {key} makes them active again." in out
    push("--undo", key, "--no-input")
    out = push("--status", key).out
    assert "0 of the dead are deactivated by it now.\n" in out
    assert "1 unregistered: The app is no longer installed there.\n" in out
    assert "The token is deactivated" not in out


@pytest.mark.parametrize(
    ("reason", "first"),
    [
        (PauseReason.CREDENTIALS, "First put the key in the alias's OPTIONS right; then go on with"),
        (PauseReason.BACKEND, "First put the alias in PUSH_BACKENDS right; then"),
        (PauseReason.AUDIENCE, "First make the audience readable"),
        (PauseReason.MESSAGE, "First mend what cannot say the message"),
        (PauseReason.PERMISSION, "First give its user the permission broadcast_push; then"),
        (PauseReason.DEAD_TOKENS, "Go on with"),
    ],
)
def test_what_to_put_right_first(shop, reason, first):
    """Is said before how to go on."""
    row = make(key="k")
    for alias in ("a", "b"):
        control.pause_lane(row, alias, reason, "")
    ran = send("--everyone", "--key", "k", "--name", "Sale")
    assert (ran.code, first in ran.error) == (3, True), ran.error


def test_all_that_is_to_put_right(shop):
    """Where lanes are paused for different reasons."""
    row = make(key="k")
    control.pause_lane(row, "a", PauseReason.CREDENTIALS, "")
    control.pause_lane(row, "b", PauseReason.BACKEND, "")
    ran = send("--everyone", "--key", "k")
    both = "put the key in the alias's OPTIONS right, and put the alias in PUSH_BACKENDS right"
    assert f"First {both}; then go on with --resume {row.pk}." in ran.error


def test_receipts_that_are_to_come_are_announced(shop):
    """Of providers that have some."""
    row = make()
    now = timezone.now()
    ReceiptBatch.objects.create(
        backend="a", tickets=b"", size=1, sent_at=now, due_at=now, deadline=now, broadcast_id=row.pk
    )
    assert "Receipts come later" in push("--resume", row.pk).out
