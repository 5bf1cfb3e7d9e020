"""push_send: one push, and the answer in words."""

import json

import pytest
from django.core.management import CommandError, call_command

from django_push import Outcome, get_token_model, testing
from django_push.management.explain import EXPLANATIONS, explain
from django_push.outcomes import Target, Ticket
from tests.sending.conftest import make_tokens

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def locmem(settings):
    settings.PUSH_BACKENDS = {"other": {"BACKEND": "django_push.backends.locmem.LocMemBackend"}}


@pytest.fixture
def user(django_user_model):
    user = django_user_model.objects.create(username="ada")
    make_tokens(2, backend="other", user=user)
    return user


@pytest.mark.parametrize(
    ("args", "count"),
    [
        (["--user", "ada"], 2),
        (["--user", "#{user}"], 2),
        (["--token", "other-0"], 1),
        (["--token", "unknown", "--using", "other"], 1),
        (["--id", "{row}"], 1),
        (["--topic", "news"], 1),
        (["--condition", "'a' in topics"], 1),
    ],
)
def test_it_sends_to_whom_is_named(user, capsys, args, count):
    """A user by name or key, a token by text or key, a topic, a condition."""
    row = get_token_model().objects.first()
    args = [arg.format(user=user.pk, row=row.pk) for arg in args]
    call_command("push_send", *args, "--title", "Hi", "--data", '{"a": 1}')
    assert len(testing.outbox) == count
    assert testing.outbox[0].message.data == {"a": 1}
    assert capsys.readouterr().out.count("The provider took it.") == count


def test_a_file_brings_more_fields(user, tmp_path):
    """Options win over the file."""
    path = tmp_path / "message.json"
    path.write_text(json.dumps({"title": "from the file", "badge": 3}))
    call_command("push_send", "--user", "ada", "--message", str(path), "--title", "Hi")
    message = testing.outbox[0].message
    assert (message.title, message.badge) == ("Hi", 3)


def test_a_failure_is_explained_and_exits_with_1(user, capsys):
    """The provider's own word, what it means, and that the other token got it."""
    testing.answer("other-0", Outcome.UNREGISTERED, code="NotRegistered", detail="gone")
    with pytest.raises(CommandError, match="1 accepted, 1 unregistered") as error:
        call_command("push_send", "--user", "ada", "--title", "Hi")
    assert error.value.returncode == 1
    out = capsys.readouterr().out
    assert "unregistered (NotRegistered, gone)" in out
    assert "no longer installed" in out
    assert "other-0" not in out


def test_a_dry_run_says_what_would_go_where(user, capsys):
    """Nothing is sent and it succeeds."""
    call_command("push_send", "--user", "ada", "--title", "Hi", "--dry-run")
    assert testing.outbox == []
    assert capsys.readouterr().out.count("it would have been sent") == 2


def test_skipped_tokens_are_explained(user, capsys):
    """Why nobody was sent to."""
    get_token_model().objects.update(enabled=False)
    with pytest.raises(CommandError, match="skipped: 2 disabled"):
        call_command("push_send", "--user", "ada", "--title", "Hi")
    assert "its user has muted it" in capsys.readouterr().out


def test_nobody_is_said_and_fails(django_user_model, capsys):
    """A user without tokens."""
    django_user_model.objects.create(username="bob")
    with pytest.raises(CommandError, match="nobody"):
        call_command("push_send", "--user", "bob", "--title", "Hi")
    assert "There is no token" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--user", "nobody"], "no user 'nobody'"),
        (["--user", "#x"], "no user '#x'"),
        (["--id", "99999"], "no token with the id"),
        (["--topic", "/topics/x"], "topic's name"),
        (["--token", "t", "--using", "nowhere"], "nowhere"),
        (["--token", "t", "--data", "[1]"], "not a JSON object"),
        (["--token", "t", "--data", "{"], "not JSON"),
        (["--token", "t", "--message", "/nowhere.json"], "cannot read"),
        (["--token", "t", "--id", "1"], "not allowed with"),
        ([], "one of the arguments"),
    ],
)
def test_mistakes_are_said_in_words(args, reason):
    """No traceback."""
    with pytest.raises(CommandError, match=reason):
        call_command("push_send", *args, "--title", "Hi")


@pytest.mark.parametrize("fields", ["{}", '{"nope": 1}', '{"using": "x", "title": "a"}', '{"to": 1}'])
def test_a_message_that_is_none_is_said_in_words(fields, tmp_path):
    """Fields of the file are fields of the message, nothing else."""
    path = tmp_path / "message.json"
    path.write_text(fields)
    with pytest.raises(CommandError, match=r"message|unexpected"):
        call_command("push_send", "--token", "t", "--message", str(path))


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_is_explained(outcome):
    """Each has its words, and a wait is told."""
    text = explain(Ticket(target=Target("t", 1), outcome=outcome, backend="b", retry_after=3))
    assert EXPLANATIONS[outcome] in text
    assert "Wait 3 s" in text
