"""What must be so when the dust has settled, however it was raised: DESIGN §8, one function for each.

The emulator's own count is the truth; the tables must agree with it.
"""

import re
from collections import Counter

from django_push.broadcasts.packing import unpack
from django_push.models import (
    COUNTED,
    BatchStatus,
    BroadcastStatus,
    LaneStatus,
    ReceiptBatch,
    TokenStatus,
    UnknownPolicy,
    get_token_model,
)
from tests.chaos.harness import CANARY, SECRET

#: A whole token of any provider, or a key.
LEAKS = re.compile(rf"{CANARY}-\d{{6}}|{SECRET}|PRIVATE KEY")


def check(run, status=BroadcastStatus.DONE):
    """Check every invariant; a failure says how to see it again."""
    run.settle()
    run.broadcast.refresh_from_db()
    try:
        has_ended(run, status)
        nobody_is_missed(run)
        none_above_the_cap(run)
        doubles_are_bounded(run)
        batches_cover_the_audience(run)
        counts_add_up(run)
        tokens_are_right(run)
        registrations_are_kept(run)
        receipts_are_remembered(run)
        logs_are_clean(run)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{run.summary()}") from None
    print(run.summary())


def has_ended(run, status):
    assert run.broadcast.status == status, f"It is {run.broadcast.status}, not {status}."
    lanes = {LaneStatus.DONE} if status == BroadcastStatus.DONE else {LaneStatus.DONE, LaneStatus.CANCELLED}
    assert {lane.status for lane in run.lanes()} <= lanes, "A lane has not ended."
    ends = {BatchStatus.DONE, BatchStatus.UNKNOWN}
    if status != BroadcastStatus.DONE:
        ends |= {BatchStatus.CANCELLED, BatchStatus.LEASED}
    others = [batch for batch in run.batches() if batch.status not in ends]
    assert not others, f"Batches have not ended: {[(batch.pk, batch.status) for batch in others]}"


def nobody_is_missed(run):
    """Each token was accepted (a dead one: refused as dead), or lies in a batch that says it may not be."""
    seen = run.emulator.state.seen
    told = told_tokens(run)
    missed = [pk for pk in told if not (seen if pk in run.dead else run.accepted)[run.tokens[pk]]]
    assert not missed, f"{len(missed)} tokens have a verdict and never reached the provider: {missed[:5]}"
    strangers = set(run.accepted) - set(run.tokens.values())
    assert not strangers, f"{len(strangers)} pushes to tokens outside of the audience."


def none_above_the_cap(run):
    skips = run.broadcast.on_unknown == UnknownPolicy.SKIP
    cap = 1 if skips else run.broadcast.max_sends
    above = [times for times in run.accepted.values() if times > cap]
    assert not above, f"{len(above)} tokens got more than {cap} pushes, up to {max(above)}."


def doubles_are_bounded(run):
    """What the tables say may have been doubled is at least what was."""
    batches = run.batches()
    resent = sum(batch.resent for batch in batches)
    assert run.doubled <= resent, f"{run.doubled} were doubled, and only {resent} sent again."
    if run.broadcast.status == BroadcastStatus.DONE:
        loose = sum(max(batch.sends - 1, 0) * batch.size for batch in batches)
        assert run.doubled <= loose, f"{run.doubled} were doubled; the sends allow for {loose}."
    if run.broadcast.on_unknown == UnknownPolicy.SKIP:
        assert resent == 0, f"{resent} were sent again, against on_unknown=skip."


def batches_cover_the_audience(run):
    """Every token was in one batch, and no token in two."""
    batches = run.batches()
    run.look()
    claimed = sum(batch.size for batch in batches)
    if run.broadcast.status == BroadcastStatus.DONE:
        assert claimed == run.size, f"The batches hold {claimed} tokens of {run.size}."
    else:
        assert claimed <= run.size, f"The batches hold {claimed} tokens of {run.size}."
    strangers = run.unresolved - set(run.tokens)
    assert not strangers, f"{len(strangers)} tokens of batches are not in the audience."


def counts_add_up(run):
    batches = run.batches()
    for batch in batches:
        told = batch.pending + batch.skipped + sum(getattr(batch, name) for name in COUNTED)
        assert batch.size == told, f"Batch {batch.pk} has {batch.size} tokens and accounts for {told}."
        assert batch.pending == len(unpack(batch.pks)), f"Batch {batch.pk} miscounts what is pending."
    sums = Counter({name: sum(getattr(batch, name) for batch in batches) for name in COUNTED})
    if run.broadcast.status == BroadcastStatus.DONE:
        told = told_tokens(run)
        expected = Counter(unregistered=len(told & run.dead), accepted=len(told - run.dead))
        assert expected == +sums, f"The verdicts should be {expected}, the tables say {+sums}."
    progress = run.broadcast.progress
    assert {name.value: n for name, n in progress.counts.items()} == dict(+sums), "Progress disagrees."
    assert progress.resent == sum(batch.resent for batch in batches), "Progress disagrees on what was resent."
    open_ = sum(batch.pending for batch in batches)
    assert progress.pending + progress.unknown + progress.cancelled == open_, (
        "Progress miscounts what is open."
    )
    if run.broadcast.status == BroadcastStatus.DONE:
        assert (progress.told, progress.total) == (run.size, run.size), (
            f"Progress is {progress.told} of {progress.total}; there were {run.size}."
        )


def tokens_are_right(run):
    """Exactly the dead are inactive, and who got a new name has it."""
    rows = get_token_model().objects.in_bulk(list(run.tokens))
    wrong = [pk for pk, row in rows.items() if row.status != TokenStatus.ACTIVE and pk not in run.dead]
    assert not wrong, f"{len(wrong)} tokens were deactivated that the provider never called dead."
    alive = [
        pk
        for pk in told_tokens(run) & run.dead
        if rows[pk].status == TokenStatus.ACTIVE and run.tokens[pk] not in run.registered_again
    ]
    assert not alive, f"{len(alive)} dead tokens are still active: {alive[:5]}"
    old = [pk for pk in told_tokens(run) & run.renamed if "replaced-by" in rows[pk].token]
    assert not old, f"{len(old)} tokens do not have their canonical id: {old[:5]}"


def registrations_are_kept(run):
    """A token that registered after it was last sent to is active: late verdicts do not count."""
    seen = run.emulator.state.seen
    unsent = [token for token, before in run.registered_again.items() if seen[token] == before]
    active = set(
        get_token_model()
        .objects.filter(token__in=[*unsent, *run.newcomers], status=TokenStatus.ACTIVE)
        .values_list("token", flat=True)
    )
    lost = [token for token in (*unsent, *run.newcomers) if token not in active]
    assert not lost, f"{len(lost)} of {len(unsent) + len(run.newcomers)} registrations were undone."


def receipts_are_remembered(run):
    """Tickets and counts were committed together."""
    accepted = sum(batch.accepted for batch in run.batches())
    kept = sum(ReceiptBatch.objects.values_list("size", flat=True))
    expected = accepted if run.provider == "expo" else 0
    assert kept == expected, f"{kept} tickets are kept for receipts; {expected} were accepted."


def logs_are_clean(run):
    for log in run.path.glob("*.log"):
        found = LEAKS.findall(log.read_text(errors="replace"))
        assert not found, f"{len(found)} whole tokens or keys in {log.name}: {found[0]!r}"


def told_tokens(run):
    """Return the keys of tokens that have a verdict: all, but for those that lie in open batches."""
    if run.broadcast.status == BroadcastStatus.DONE:
        return set(run.tokens) - run.unresolved
    return set()


def crashes(run):
    """Return how many workers ended by an error of their own."""
    return run.happened["crashes"]
