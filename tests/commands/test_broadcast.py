"""push_broadcast makes a broadcast and sends it: what is asked, refused, shown and returned."""

import io
import json
import os
import signal
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.db import OperationalError
from django.utils import timezone

from django_push import broadcasts, get_token_model, testing
from django_push.broadcasts import control
from django_push.management import arguments, planning, running
from django_push.management.progress import Watcher
from django_push.management.words import aware
from django_push.models import Broadcast, BroadcastStatus, PauseReason
from django_push.outcomes import Outcome
from tests.commands.conftest import LOCMEM, latest, push, run, send
from tests.sending.conftest import make_tokens

Token = get_token_model()


# --- the straight way -----------------------------------------------------------------------------


def test_everyone_gets_it(shop):
    """Counts before and after, one push each, exit code 0."""
    ran = send("--everyone", "--body", "there", "--data", '{"a": 1}', "--name", "Sale")
    assert ran.code == 0
    assert len(testing.outbox) == 8
    assert testing.outbox[0].message.data == {"a": 1}
    assert "everyone: 8 tokens" in ran.out
    assert "Broadcast" in ran.out
    assert "(Sale) is done: 8 of 8 tokens." in ran.out
    assert "8 accepted: The provider took it." in ran.out
    assert latest().status == BroadcastStatus.DONE


def test_json_alone_is_on_the_standard_output(shop):
    """Words and progress go to the other."""
    ran = send("--everyone", "--json")
    found = ran.json["broadcast"]
    assert (found["status"], found["progress"]["counts"]) == ("done", {"accepted": 8})
    assert found["started_at"].endswith("+00:00")
    assert "broadcast" in ran.err


def test_a_silent_run(shop):
    """-v 0 shows no progress."""
    assert "/s" not in send("--everyone", "-v", "0").out


def test_a_file_brings_translations_and_options_win(shop, tmp_path):
    """Fields of the message, other languages, and what one provider alone is told."""
    Token.objects.filter(backend="a").update(locale="de_AT")
    path = tmp_path / "message.json"
    said = {"title": "from the file", "badge": 3, "translations": {"de_AT": {"title": "Servus"}}}
    path.write_text(json.dumps(said))
    ran = send("--everyone", "--message", path, "--provider-options", '{"expo": {"x": 1}}')
    assert ran.code == 0
    assert "(also: de-at)" in ran.out
    titles = {(push.message.title, push.message.badge) for push in testing.outbox}
    assert titles == {("Hi", 3), ("Servus", 3)}
    assert latest().message["provider_options"] == {"expo": {"x": 1}}


def personal(token):
    return {"title": f"Hi {token.pk}"}


def test_personal_texts(shop):
    """By the dotted path of a function."""
    assert send("--everyone", "--personalize", f"{__name__}.personal").code == 0
    assert len({push.message.title for push in testing.outbox}) == 8


# --- the audience ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "filters"),
    [
        (["--platform", "ios", "--platform", "android"], {"platform": ["ios", "android"]}),
        (["--locale", "de"], {"locale": ["de"]}),
        (["--app-version", "2.0"], {"app_version": ["2.0"]}),
        (["--app-version-from", "2"], {"app_version_from": "2"}),
        (["--app-version-below", "3"], {"app_version_below": "3"}),
        (["--group", "staff"], {"group": ["staff"]}),
        (["--seen-within", "30d"], {"seen_within": 30 * 86400}),
        (["--unseen-for", "2w"], {"unseen_for": 14 * 86400}),
        (["--anonymous"], {"anonymous": True}),
        (["--not-anonymous"], {"anonymous": False}),
        (["--using", "a"], {"backend": ["a"]}),
        (
            ["--metadata", "vip=true", "--metadata", "level=3", "--metadata", "level=4"],
            {"metadata": {"vip": [True], "level": [3, 4]}},
        ),
        (
            ["--metadata", 'code="3"', "--metadata", "city=Graz"],
            {"metadata": {"code": ["3"], "city": ["Graz"]}},
        ),
        (["--metadata", "a=[1]", "--metadata", "b=1=2"], {"metadata": {"a": ["[1]"], "b": ["1=2"]}}),
        (["--metadata", "a=NaN", "--metadata", "b="], {"metadata": {"a": ["NaN"], "b": [""]}}),
        (["--locale", "de", "--platform", "ios"], {"locale": ["de"], "platform": ["ios"]}),
    ],
)
def test_filters(shop, args, filters):
    """Each is what the engine is given; repeated ones are several values."""
    Group.objects.create(name="staff")
    assert send(*args, "--schedule", "+1h").code == 0
    assert latest().audience == {"kind": "filters", "filters": filters}


def test_users_are_named(shop):
    """By name or by #ID; nobody else gets it."""
    ada, bob = (get_user_model().objects.create(username=name) for name in ("ada", "bob"))
    Token.objects.filter(backend="a").update(user=ada)
    Token.objects.filter(backend="b").update(user=bob)
    assert send("--user", "ada").code == 0
    assert len(testing.outbox) == 5
    assert send("--user", f"#{bob.pk}", "--user", "ada", "--name", "2").code == 0
    assert len(testing.outbox) == 5 + 8


def test_users_without_groups(monkeypatch):
    """Are left to the audience, which says that they have none."""
    monkeypatch.setattr(arguments, "get_user_model", get_token_model)  # a model that has none
    assert arguments.group_named("staff") == "staff"


def test_a_group(shop):
    """Its members' tokens."""
    ada = get_user_model().objects.create(username="ada")
    ada.groups.add(Group.objects.create(name="staff"))
    Token.objects.filter(backend="b").update(user=ada)
    assert send("--group", "staff").code == 0
    assert len(testing.outbox) == 3


def some(tokens):
    return tokens.filter(backend="b")


def test_a_named_audience(shop, settings):
    """One of PUSH_AUDIENCES."""
    settings.PUSH_AUDIENCES = {"some": some}
    assert send("--audience", "some").code == 0
    assert len(testing.outbox) == 3
    assert send("--audience", "others").code == 2


def test_an_alias_narrows_everyone(shop):
    """--using with another audience."""
    assert send("--everyone", "--using", "b").code == 0
    assert [push.token for push in testing.outbox] == ["b-0", "b-1", "b-2"]


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ([], "Who is it for"),
        (["--everyone", "--audience", "x"], "--everyone and --audience"),
        (
            ["--everyone", "--locale", "de", "--app-version-from", "2"],
            "--everyone and --locale, --app-version-from",
        ),
        (["--audience", "x", "--anonymous"], "--audience and --anonymous"),
        (["--everyone", "--workers", "2"], "--workers goes with --enqueue"),
        (["--everyone", "--enqueue", "--schedule", "+1h"], "push_tick starts it"),
        (["--everyone", "--lane", "a"], "--lane does not go with a new broadcast"),
    ],
)
def test_what_does_not_go_together(shop, args, reason):
    """Is a wrong usage, and nothing is made of it."""
    ran = send(*args)
    assert (ran.code, reason in ran.error, Broadcast.objects.count()) == (2, True, 0)


PARSED = [
    (["--everyone", "--data", "[1]"], "not a JSON object"),
    (["--everyone", "--data", "[" * 100_000], "not JSON"),
    (["--everyone", "--message", "/nowhere.json"], "cannot read"),
    (["--everyone", "--message", "\0"], "cannot read"),
    (["--everyone", "--schedule", "tomorrow"], "date and time"),
    (["--everyone", "--schedule", "2030-01-31"], "date and time"),
    (["--everyone", "--schedule", "2030-02-31T10:00"], "date and time"),
    (["--everyone", "--schedule", "9999-12-31T23:59:59-05:00"], "year from"),
    (["--everyone", "--schedule", "+x"], "give seconds"),
    (["--everyone", "--expires", "+0s"], "zero is no time"),
    (["--seen-within", "0"], "zero is no time"),
    (["--everyone", "--rate", "0"], "above 0"),
    (["--everyone", "--rate", "nan"], "above 0"),
    (["--everyone", "--rate", "x"], "above 0"),
    (["--everyone", "--max-sends", "11"], "from 1 to 10"),
    (["--everyone", "--batch-size", "x"], "from 1 to 1000"),
    (["--everyone", "--on-unknown", "x"], "invalid choice"),
    (["--everyone", "--enqueue", "--workers", "0"], "from 1 to 64"),
    (["--seen-within", "11y"], "give seconds"),
    (["--metadata", "x"], "KEY=VALUE"),
    (["--metadata", "=x"], "KEY=VALUE"),
    (["--anonymous", "--not-anonymous"], "not allowed with"),
    (["--everyone", "--sched", "+1h"], "unrecognized arguments"),
]
CHECKED = [
    (["--everyone", "--schedule", "2001-01-01T00:00"], "in the past"),
    (["--everyone", "--expires", "2001-01-01T00:00Z"], "expires before"),
    (["--everyone", "--schedule", "+2h", "--expires", "2001-01-01T00:00"], "expires before"),
    (["--everyone", "--using", "nowhere"], "'nowhere' is not in PUSH_BACKENDS (there: 'a', 'b')"),
    (["--using", "nowhere"], "'nowhere' is not in PUSH_BACKENDS"),
    (["--everyone", "--personalize", "no.where"], "personalize"),
    (["--everyone", "--personalize", "nodots"], "personalize"),
    (["--everyone", "--key", ""], "key must not be empty"),
    (["--everyone", "--name", "x" * 201], "name must be"),
    (["--everyone", "--as", "nobody"], "no user 'nobody'"),
    (["--user", "#99999999999999999999999"], "no user"),
    (["--user", "#x"], "no user"),
    (["--group", "nosuch"], "no group 'nosuch'"),
    (["--audience", "nowhere"], "no audience 'nowhere'"),
    (["--audience", "everyone"], "no audience 'everyone': use --everyone"),
    (["--locale", "?"], "locale"),
    (["--app-version-from", "new"], "version"),
    (["--metadata", "a.b=x"], "a key is"),
    (["--platform", "x" * 17], "platform"),
    (["--platform", ""], "platform"),
]


@pytest.mark.parametrize(
    ("code", "args", "reason"), [*((1, *case) for case in PARSED), *((2, *case) for case in CHECKED)]
)
def test_mistakes_are_one_line(shop, code, args, reason):
    """No traceback, nothing written, nothing sent; the parser ends with 2 only at a command line."""
    ran = send(*args)
    assert (ran.code, reason in ran.error) == (code, True), ran.error
    assert "\n" not in ran.error
    assert (Broadcast.objects.count(), testing.outbox) == (0, [])


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"nope": 1},
        {"translations": []},
        {"title": "x", "translations": {"de": 1}},
        {"title": "x", "translations": {"de": {"titel": "x"}}},
        {"ttl": "x", "title": "x"},
    ],
)
def test_a_file_that_is_no_message(shop, said, tmp_path):
    """Fields of the file are fields of the message, nothing else."""
    path = tmp_path / "message.json"
    path.write_text(json.dumps(said))
    ran = push("--everyone", "--no-input", "--message", path)
    assert (ran.code, Broadcast.objects.count()) == (2, 0)


def test_a_field_that_is_misspelt(shop, tmp_path):
    """Is told with those that there are."""
    path = tmp_path / "message.json"
    path.write_text('{"titel": "Hallo"}')
    error = push("--everyone", "--no-input", "--message", path).error
    assert error.startswith("There is no field 'titel'; there are: title, body, ")
    assert error.endswith("provider_options, translations.")


def test_a_file_of_windows(shop, tmp_path):
    """A byte order mark is none of its text."""
    path = tmp_path / "message.json"
    path.write_text('{"title": "Grüße"}', encoding="utf-8-sig")
    assert push("--everyone", "--no-input", "--message", path).code == 0
    assert testing.outbox[0].message.title == "Grüße"


def test_a_field_that_nobody_can_say(shop, settings):
    """Is an error before anything is made."""
    settings.PUSH_BACKENDS = {"a": {"BACKEND": "django_push.backends.expo.ExpoBackend"}}
    ran = push("--everyone", "--no-input", "--provider-options", '{"apns": {"x": 1}}')
    assert (ran.code, "nobody is apns" in ran.error) == (2, True)


def test_nobody_is_said(shop):
    """And is no error: filters may find nobody."""
    ran = send("--locale", "fr", "--json")
    assert (ran.code, ran.json, Broadcast.objects.count()) == (0, {"broadcast": None, "tokens": 0}, 0)
    assert "Nobody is in the audience (locale fr)" in ran.err


def test_aliases_that_are_gone(shop, settings):
    """Are said, and an error if there are no others."""
    make_tokens(2, backend="gone")
    ran = send("--everyone")
    assert "2 of aliases that are not in PUSH_BACKENDS: skipped" in ran.out
    assert "2 of aliases that are not in PUSH_BACKENDS: not sent to." in ran.out
    settings.PUSH_BACKENDS = {"c": LOCMEM}
    ran = send("--everyone")
    assert (ran.code, "None of 10 tokens" in ran.error) == (1, True)


def test_what_all_would_refuse_is_not_begun(shop, settings):
    """A message that is too long."""
    settings.PUSH_BACKENDS = {"a": {"BACKEND": "django_push.backends.expo.ExpoBackend"}}
    ran = send("--everyone", "--using", "a", "--body", "x" * 5000)
    assert (ran.code, "refused for everybody" in ran.error, Broadcast.objects.count()) == (1, True, 0)


def test_what_some_would_refuse(shop, settings, tmp_path):
    """Is said before the question, by language, with what their provider cannot say."""
    settings.PUSH_BACKENDS = {"a": {"BACKEND": "django_push.backends.expo.ExpoBackend"}, "b": LOCMEM}
    Token.objects.filter(backend="a").update(locale="de")
    path = tmp_path / "message.json"
    said = {"link": "https://x.example", "translations": {"de": {"body": "x" * 5000}}}
    path.write_text(json.dumps(said))
    ran = send("--everyone", "--message", path, "--schedule", "+1h")
    assert ran.code == 0
    assert "left out, for the provider cannot say it: link" in ran.out
    assert "will be refused (de): MessageTooBig" in ran.out


# --- a dry run ------------------------------------------------------------------------------------


def test_a_dry_run_shows_all_and_does_nothing(shop):
    """Counts by alias and language, and a payload; no whole token."""
    ran = push("--everyone", "--title", "Hi", "--dry-run")
    assert ran.code == 0
    assert "Tokens: 8" in ran.out
    assert "a: 5\n  by locale: none 5\n  by text: the default text 5\n" in ran.out
    assert '"title": "Hi"' in ran.out
    assert "nothing was sent" in ran.out
    assert "a-0" not in ran.out
    assert (Broadcast.objects.count(), testing.outbox) == (0, [])
    found = push("--everyone", "--title", "Hi", "--dry-run", "--json").json
    assert (found["dry_run"], found["total"], found["parts"][0]["alias"]) == (True, 8, "a")


def test_a_dry_run_counts_by_alias_and_locale(shop):
    """Those of the tokens, beside the texts that they get; thousands are set apart."""
    make_tokens(1200, backend="c", locale="de_AT")
    Token.objects.filter(backend="c").update(backend="a")
    Token.objects.filter(backend="b").update(locale="en")
    ran = push("--everyone", "--title", "Hi", "--dry-run")
    assert "Tokens: 1,208\na: 1,205\n  by locale: de_AT 1,200, none 5\n" in ran.out
    assert "b: 3\n  by locale: en 3\n" in ran.out
    parts = push("--everyone", "--title", "Hi", "--dry-run", "--json").json["parts"]
    assert [part["locales"] for part in parts] == [{"de_AT": 1200, "": 5}, {"en": 3}]


PLANNED = [
    "--everyone",
    "--title",
    "Hi",
    "--dry-run",
    "--name",
    "Sale",
    "--rate",
    "500",
    "--on-unknown",
    "skip",
]


def test_a_dry_run_shows_the_plan(shop):
    """Name, start with its zone, expiry, rate, and what becomes of the unknown."""
    out = push(*PLANNED, "--schedule", "2199-01-31T09:00", "--expires", "+2h").out
    for line in (
        "Name      Sale",
        "Starts    2199-01-31 09:00:00 EST, expires 2 h after the start",
        "Rate      at most 500 tokens a second",
        "Unknown   what may have been sent is never sent again",
    ):
        assert f"{line}\n" in out


@pytest.mark.parametrize(
    ("args", "times"),
    [
        ([], (None, None, None)),
        (["--expires", "+2h"], (None, None, 7200)),
        (
            [
                "--schedule",
                "2199-01-31T09:00",
                "--expires",
                "2199-02-01T00:00Z",
            ],
            ("2199-01-31T14:00:00+00:00", "2199-02-01T00:00:00+00:00", None),
        ),
    ],
)
def test_a_dry_run_has_the_plan_as_json(shop, args, times):
    """Times in UTC, or in seconds from the start."""
    plan = push(*PLANNED, *args, "--json").json["plan"]
    assert (plan["starts_at"], plan["expires_at"], plan["expires_after"]) == times
    assert (plan["name"], plan["rate"], plan["on_unknown"], plan["max_sends"]) == ("Sale", 500, "skip", 3)


def test_a_dry_run_shows_the_payload_that_is_sent(shop):
    """With the tag that the engine gives it, but for the number."""
    found = push("--everyone", "--title", "Hi", "--dry-run", "--json").json
    shown = json.loads(found["parts"][0]["samples"][0]["payload"])
    send("--everyone")
    assert {**shown, "tag": f"broadcast-{latest().pk}"} == testing.outbox[0].message.to_json()
    assert shown["tag"] == "broadcast-…"


def test_a_dry_run_of_what_all_would_refuse(shop, settings):
    """Is shown, and ends as the run would."""
    settings.PUSH_BACKENDS = {"a": {"BACKEND": "django_push.backends.expo.ExpoBackend"}}
    ran = push("--everyone", "--using", "a", "--title", "Hi", "--body", "x" * 5000, "--dry-run")
    assert (ran.code, "refused for everybody" in ran.error) == (1, True)
    assert "will be refused: MessageTooBig" in ran.out
    assert "nothing was sent or written" in ran.out


def test_the_alias_that_narrows_an_audience_is_told(shop):
    """In the question, in the preview, and where nobody is found."""
    narrowed = ["--everyone", "--using", "b"]
    assert "Audience  everyone; through b alone: 3 tokens" in send(*narrowed).out
    assert "Audience: everyone; through b alone" in send(*narrowed, "--dry-run").out
    Token.objects.all().delete()
    assert "Nobody is in the audience (everyone; through b alone)" in send(*narrowed).out


def test_a_dry_run_checks_as_a_run_does(shop):
    """A past schedule, a twin and a taken key are found."""
    assert push("--everyone", "--title", "Hi", "--dry-run", "--schedule", "2001-01-01T00:00").code == 2
    send("--everyone", "--key", "k")
    assert "says the same" in push("--everyone", "--title", "Hi", "--dry-run").out
    ran = push("--everyone", "--title", "Hi", "--dry-run", "--key", "k")
    assert (ran.code, "has this key" in ran.out, len(testing.outbox)) == (0, True, 8)


# --- the question ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("answer", "sent"), [("y\n", 8), ("YES\n", 8), ("n\n", 0), ("\n", 0), ("", 0)])
def test_a_person_is_asked(shop, person, answer, sent):
    """Only yes is yes. The question has the counts, the times and the rate."""
    person.answers.append(answer)
    ran = push("--everyone", "--title", "Hi", "--expires", "+2h", "--rate", "1000", "--on-unknown", "skip")
    assert (ran.code, len(testing.outbox), Broadcast.objects.count()) == (0 if sent else 1, sent, bool(sent))
    shown = ["5 a", "3 b", "now, expires 2 h after the start", "at most 1,000 tokens", "never sent again"]
    assert [text for text in [*shown, "Send it to 8 tokens? [y/N]"] if text not in ran.out] == []


def test_questions_go_past_the_json(shop, person):
    """They are on the other output."""
    person.answers.append("y\n")
    ran = push("--everyone", "--title", "Hi", "--json")
    assert (ran.json["broadcast"]["status"], "[y/N]" in ran.err) == ("done", True)


def test_ctrl_c_at_the_question(shop, person):
    """Is 130, and nothing was sent."""
    person.answers.append(KeyboardInterrupt)
    ran = push("--everyone", "--title", "Hi")
    assert (ran.code, ran.error, Broadcast.objects.count()) == (130, "Nothing was sent.", 0)


def test_ctrl_c_before_the_question(shop, monkeypatch):
    """Is 130 as well."""

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(planning.Plan, "preview", interrupted)
    assert send("--everyone").code == 130


@pytest.mark.parametrize("stdin", [None, io.StringIO("y\n")])
def test_without_a_terminal_somebody_must_have_decided(shop, monkeypatch, stdin):
    """Else it is refused: nothing is sent unasked."""
    monkeypatch.setattr("sys.stdin", stdin)
    ran = push("--everyone", "--title", "Hi")
    assert (ran.code, "--no-input" in ran.error, Broadcast.objects.count()) == (1, True, 0)


# --- again ----------------------------------------------------------------------------------------


def test_the_same_again_is_refused_unless_it_is_meant(shop):
    """Within ten minutes, without a question."""
    send("--everyone")
    ran = send("--everyone")
    assert (ran.code, "says the same to the same audience" in ran.error) == (1, True)
    assert "--allow-repeat" in ran.error
    assert send("--everyone", "--body", "else").code == 0
    assert send("--everyone", "--allow-repeat").code == 0
    Broadcast.objects.update(created=timezone.now() - timedelta(minutes=11))
    assert send("--everyone").code == 0


def test_a_person_is_warned_of_the_same_again(shop, person):
    """And may send it."""
    send("--everyone")
    person.answers.append("y\n")
    ran = push("--everyone", "--title", "Hi")
    assert (ran.code, "says the same" in ran.out, len(testing.outbox)) == (0, True, 16)


def test_two_operators_press_send(shop, person):
    """The second is told and asked again if the first was quicker, and then it is no news any more."""

    def other_is_quicker():
        send("--everyone")
        return "y\n"

    person.answers.extend([other_is_quicker, "n\n"])
    ran = push("--everyone", "--title", "Hi")
    assert (ran.code, ran.out.count("[y/N]"), len(testing.outbox)) == (1, 2, 8)
    assert "says the same" in ran.out
    person.answers.extend(["y\n"])
    assert push("--everyone", "--title", "Hi").code == 0


# --- keys -----------------------------------------------------------------------------------------


def test_a_key_is_sent_once(shop):
    """The second run shows the first one's broadcast, with its exit code."""
    assert send("--everyone", "--key", "k").code == 0
    ran = send("--everyone", "--key", "k")
    assert (ran.code, Broadcast.objects.count(), len(testing.outbox)) == (0, 1, 8)
    assert "and has this key" in ran.out
    assert "8 of 8" in ran.out


def test_a_key_of_another_content(shop):
    """Is an error."""
    send("--everyone", "--key", "k")
    ran = send("--everyone", "--key", "k", "--body", "else")
    assert (ran.code, "says something else" in ran.error) == (2, True)


def test_wrong_options_beside_a_key_that_is_taken(shop):
    """Are wrong all the same."""
    send("--everyone", "--key", "k")
    ran = send("--everyone", "--key", "k", "--name", "x" * 201)
    assert (ran.code, "name must be" in ran.error) == (2, True)


def test_a_key_whose_time_has_come(shop):
    """Its schedule is in the past by now, and that is no error."""
    send("--everyone", "--key", "k", "--schedule", "+1h")
    Broadcast.objects.update(scheduled_at=timezone.now() - timedelta(hours=1))
    ran = send("--everyone", "--key", "k", "--schedule", "2001-01-01T00:00")
    assert (ran.code, "It starts at" in ran.out, len(testing.outbox)) == (0, True, 0)


def make(status="", **more):
    """Make a broadcast with the key that ``send`` would make."""
    row = broadcasts.broadcast("everyone", title="Hi", key="k", start=False, **more)
    if status:
        broadcasts.begin(row, workers=0)
    if status == "paused":
        broadcasts.pause(row)
    return row


@pytest.mark.parametrize("status", ["", "running"])
def test_a_key_goes_on_with_what_is_not_done(shop, status):
    """A draft, and one whose process was killed."""
    make(status)
    assert (send("--everyone", "--key", "k").code, len(testing.outbox)) == (0, 8)


def test_a_key_does_not_overrule_a_person(shop, person):
    """What somebody has paused goes on only if somebody says so."""
    make("paused")
    ran = send("--everyone", "--key", "k")
    assert (ran.code, "paused by hand" in ran.error, len(testing.outbox)) == (3, True, 0)
    person.answers.append("y\n")
    assert (push("--everyone", "--title", "Hi", "--key", "k").code, len(testing.outbox)) == (0, 8)


def test_a_key_goes_on_after_a_signal(shop):
    """As a job does that is run again after its machine was restarted."""
    row = make("running")
    broadcasts.pause(row, detail=running.BY_SIGNAL)
    assert (send("--everyone", "--key", "k").code, len(testing.outbox)) == (0, 8)


def test_a_key_that_somebody_takes_meanwhile(shop, monkeypatch):
    """Is one broadcast."""
    twin = planning.Plan.twin

    def slow(plan):
        found = twin(plan)
        make("running")
        return found

    monkeypatch.setattr(planning.Plan, "twin", slow)
    ran = send("--everyone", "--key", "k")
    assert (ran.code, "has this key" in ran.out, Broadcast.objects.count()) == (0, True, 1)
    assert len(testing.outbox) == 8


# --- plans ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["+2h", "2199-01-31T09:00", "2199-01-31T09:00Z", "2199-01-31 09:00+01:00"])
def test_a_planned_one_is_left_to_push_tick(shop, when):
    """It says so, and nothing is sent."""
    ran = send("--everyone", "--schedule", when, "--expires", "+1h")
    row = latest()
    assert (ran.code, row.status, testing.outbox) == (0, BroadcastStatus.SCHEDULED, [])
    assert "by push_tick: have that run by then" in ran.out
    assert row.expires_at - row.scheduled_at == timedelta(hours=1)


def test_a_time_that_the_clocks_skip(shop):
    """Is told as the instant that it is."""
    out = send("--everyone", "--schedule", "2199-03-10T02:30", "--name", "Spring").out
    assert "Starts    2199-03-10 03:30:00 EDT" in out
    assert "It starts at 2199-03-10 03:30:00 EDT" in out


def test_a_time_from_now_is_from_now(shop):
    """By the database's clock."""
    send("--everyone", "--schedule", "+2h")
    left = aware(latest().scheduled_at) - timezone.now().astimezone()
    assert timedelta(minutes=119) < left < timedelta(minutes=121)


def test_a_planned_audience_may_be_empty_yet(shop):
    """It is read at the start."""
    ran = send("--locale", "fr", "--schedule", "+2h")
    assert (ran.code, "The audience is read then" in ran.out) == (0, True)


def test_the_rest_of_a_plan_is_kept(shop):
    """Rate, policy, cap, batch size, expiry."""
    send(
        "--everyone", "--rate", "500", "--on-unknown", "skip", "--max-sends", "2", "--batch-size", "4",
        "--expires", "2199-01-01T00:00",
    )  # fmt: skip
    row = latest()
    assert (row.rate, row.on_unknown, row.max_sends, row.batch_size) == (500, "skip", 2, 4)
    assert aware(row.expires_at).year in (2198, 2199)


# --- who ------------------------------------------------------------------------------------------


def test_the_operator_is_recorded_and_needs_the_permission(shop):
    """The engine checks it."""
    ada = get_user_model().objects.create(username="ada")
    ran = send("--everyone", "--as", "ada")
    assert (ran.code, "may not broadcast" in ran.error, Broadcast.objects.count()) == (1, True, 0)
    ada.user_permissions.add(Permission.objects.get(codename="broadcast_push"))
    assert send("--everyone", "--as", f"#{ada.pk}").code == 0
    assert latest().created_by == ada


# --- workers --------------------------------------------------------------------------------------


def test_the_inline_dispatcher_has_no_workers(shop):
    """So it is left to push_tick, and said."""
    ran = send("--everyone", "--enqueue")
    assert (ran.code, latest().status, testing.outbox) == (0, BroadcastStatus.RUNNING, [])
    assert "has no workers" in ran.out
    assert run("push_tick", "--no-receipts").out == "1 woken\n"
    assert len(testing.outbox) == 8


def test_workers_are_asked_for(shop, queue):
    """As many as are wanted; nothing is sent here."""
    ran = send("--everyone", "--enqueue", "--workers", "3", "--json")
    job = ("drain_broadcast", {"broadcast": latest().pk, "wake": 1})
    assert (ran.code, queue.asked, testing.outbox) == (0, [job] * 3, [])
    assert latest().workers == 3
    assert ran.json["broadcast"]["status"] == "running"
    assert "left to 3 workers" in ran.err
    assert "left to a worker" in send("--everyone", "--enqueue", "--body", "x").out


def test_a_run_of_its_own_wakes_nobody(shop, queue):
    """Not even where there is a queue."""
    assert (send("--everyone").code, queue.asked, len(testing.outbox)) == (0, [], 8)


def test_a_queue_that_is_away(shop, queue, monkeypatch, caplog):
    """Is said: push_tick asks again."""
    monkeypatch.setattr(queue, "error", ConnectionError("amqp://user:secret@host"))
    ran = send("--everyone", "--enqueue")
    assert (ran.code, latest().status) == (0, BroadcastStatus.RUNNING)
    assert "the queue did not take it (ConnectionError)" in ran.out
    assert "secret" not in ran.all


# --- how it ends ----------------------------------------------------------------------------------


def test_dead_tokens_are_no_failure(shop):
    """They are deactivated; exit code 0."""
    testing.answer("a-0", Outcome.UNREGISTERED)
    testing.answer("a-1", Outcome.INVALID_TOKEN)
    ran = send("--everyone")
    assert (ran.code, "1 unregistered: The app is no longer installed" in ran.out) == (0, True)


def test_failures_and_doubts_are_told_by_the_exit_code(shop):
    """What was refused, and what may have been sent."""
    testing.answer("a-0", Outcome.SENDER_MISMATCH)
    testing.answer("a-1", Outcome.UNKNOWN)
    ran = send("--everyone", "--on-unknown", "skip")
    assert ran.code == 4
    assert "1 token may or may not have got it, 1 token failed" in ran.error
    assert "1 unknown: they may have got it" in ran.out


def test_a_refused_key_pauses(shop):
    """And says why, and how to go on; the other alias is served."""
    for number in range(5):
        testing.answer(f"a-{number}", Outcome.CREDENTIALS_REJECTED, code="401")
    ran = send("--everyone", "--json")
    assert (ran.code, latest().pause_reason) == (3, PauseReason.CREDENTIALS)
    first = "First put the key in the alias's OPTIONS right; then go on with"
    assert ran.error.endswith(f"(the provider refused our key). {first} --resume {latest().pk}.")
    assert ran.json["broadcast"]["progress"]["told"] == 3


def during(monkeypatch, act):
    """Do something once while a broadcast is sent, batch by batch."""
    done = []

    def watch(self):
        if not done:
            done.append(1)
            act(self.row)

    monkeypatch.setattr(Watcher, "__call__", watch)


@pytest.mark.parametrize(
    ("act", "code", "said"),
    [
        (broadcasts.cancel, 5, "is cancelled"),
        (broadcasts.pause, 3, "is paused (paused by hand)"),
        (lambda row: broadcasts.cancel(row, lane="b"), 4, "were left out, for their lane was cancelled"),
    ],
)
def test_somebody_else_ends_it(shop, monkeypatch, act, code, said):
    """While it is sent here."""
    during(monkeypatch, act)
    ran = send("--everyone", "--batch-size", "1")
    assert (ran.code, said in ran.error) == (code, True), ran.error


def test_its_time_runs_out(shop, monkeypatch):
    """While it is sent here."""

    def expire(row):
        Broadcast.objects.update(expires_at=timezone.now() - timedelta(hours=1))
        row.refresh_from_db()
        control.expire(row)

    during(monkeypatch, expire)
    ran = send("--everyone", "--batch-size", "1", "--expires", "+1h")
    assert (ran.code, "is expired" in ran.error) == (5, True)


def test_somebody_deletes_it(shop, monkeypatch):
    """Is one line, too."""
    during(monkeypatch, lambda row: Broadcast.objects.all().delete())
    ran = send("--everyone", "--batch-size", "1")
    assert (ran.code, "was deleted" in ran.error) == (1, True)


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_pauses_and_it_can_go_on(shop, monkeypatch, capfd, name):
    """What is in flight is finished; the old handlers are back."""
    before = signal.getsignal(name)
    during(monkeypatch, lambda row: os.kill(os.getpid(), name))
    ran = send("--everyone", "--batch-size", "1")
    sent = len(testing.outbox)
    assert (ran.code, latest().status, 0 < sent < 8) == (3, BroadcastStatus.PAUSED, True)
    assert f"Go on with --resume {latest().pk}" in ran.error
    assert "Stopping: what is in flight is finished" in capfd.readouterr().err
    assert signal.getsignal(name) == before
    assert push("--resume", latest().pk).code == 0
    assert len(testing.outbox) == 8


def test_a_database_that_goes_away_for_good(shop, monkeypatch):
    """Is one line that says how to go on."""
    monkeypatch.setattr(broadcasts, "drain", lost)
    ran = send("--everyone")
    assert (ran.code, f"--resume {latest().pk}" in ran.error, "secret" in ran.all) == (1, True, False)


def test_a_broadcast_of_newer_code_is_left_alone(shop):
    """And that is said."""
    make("running")
    Broadcast.objects.update(protocol=99)
    ran = push("--resume", latest().pk)
    assert (ran.code, "newer version" in ran.error, testing.outbox) == (1, True, [])


def test_a_drainer_that_ends_early_is_started_again(shop, monkeypatch):
    """As long as the broadcast runs: others may have left it something."""
    drain, ends = broadcasts.drain, []

    def early(*args, **kwargs):
        ends.append(1)
        return drain(*args, **kwargs) if len(ends) > 1 else None

    monkeypatch.setattr(broadcasts, "drain", early)
    monkeypatch.setattr(running, "LOOK", 0.01)
    assert (send("--everyone").code, len(ends), len(testing.outbox)) == (0, 2, 8)


# --- help -----------------------------------------------------------------------------------------


def test_the_help_has_examples_and_exit_codes(capsys):
    """What an operator needs comes first."""
    with pytest.raises(SystemExit):
        run("push_broadcast", "--help")
    text = capsys.readouterr().out
    parts = ["message:", "audience:", "plan:", "how to send:", "broadcasts that there are:", "options:"]
    places = [text.index(f"\n{part}") for part in [*parts, "examples:", "exit codes:"]]
    assert places == sorted(places)
    assert "manage.py push_broadcast --everyone" in text
    assert max(map(len, text.splitlines())) <= 110


def test_a_draft_that_somebody_else_starts(shop, monkeypatch):
    """Between the two steps: it is sent here as well."""
    begin = broadcasts.begin

    def late(row, workers):
        begin(Broadcast.objects.get(pk=row.pk), workers=workers)
        return begin(row, workers=workers)

    monkeypatch.setattr(broadcasts, "begin", late)
    assert (send("--everyone").code, len(testing.outbox)) == (0, 8)


@pytest.mark.parametrize("fails", [False, True])
def test_a_pause_while_others_still_send(shop, monkeypatch, fails):
    """It is written at once, and a database that is away is left to the drainer."""
    row = make("running")
    run_ = running.Run().of(row)
    monkeypatch.setattr(running.connections, "close_all", lambda: None)
    if fails:
        monkeypatch.setattr(broadcasts, "pause", lost)
        run_._pause_once()
        assert "--pause it, or push_tick goes on" in run_._last_word()
        return
    run_._pause_elsewhere()
    run_._pause_elsewhere()
    row.refresh_from_db()
    assert (row.status, "It is paused." in run_._last_word()) == (BroadcastStatus.PAUSED, True)


def lost(*args, **kwargs):
    raise OperationalError("secret")
