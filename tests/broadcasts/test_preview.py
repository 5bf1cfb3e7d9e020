"""What a broadcast would do, without doing any of it."""

import json

import pytest
from django.contrib.auth import get_user_model
from django.utils.translation import gettext_lazy

from django_push import PushMessage, get_token_model, testing
from django_push.broadcasts import preview as module
from django_push.broadcasts.preview import preview
from django_push.exceptions import InvalidAudience, InvalidPushBackend, UnsupportedOption
from django_push.handler import push_backends
from tests.sending.conftest import BACKENDS, make_tokens, token_name

pytestmark = [pytest.mark.django_db]

Token = get_token_model()
HELLO = PushMessage(title="Hello", body="World")
GCM_TOKEN = "APA91bHun4MxP5egoKMwt2KZFBaFUH-1RYqx"


@pytest.fixture(autouse=True)
def providers(settings):
    settings.PUSH_BACKENDS = BACKENDS


def make_gcm(**fields):
    return Token.objects.create(**{"backend": "gcm", "token": GCM_TOKEN, **fields})


def personal(token):
    """A site's function that repeats what it should not, and fails for one."""
    if token.locale == "fr":
        raise KeyError(token.token)
    return {"body": f"For {token.pk}", "data": {"token": token.token}}


class TestCounts:
    """How many tokens get it, through which alias and in which language."""

    def test_by_alias_and_language(self, django_assert_num_queries):
        """Locales come down to languages; one query counts, one for each alias reads some."""
        for locale in ("de", "de-AT", "en", ""):
            make_tokens(2, backend=f"x{locale}", locale=locale)
            Token.objects.filter(backend=f"x{locale}").update(backend="other")
        make_gcm(locale="fr")
        Token.objects.create(backend="gone", token="x")
        with django_assert_num_queries(3):
            found = preview(PushMessage(title=gettext_lazy("Yes")), "everyone")
        assert (found.total, found.skipped, found.audience) == (9, {"unknown_backend": 1}, "everyone")
        gcm, other = found.parts
        assert (gcm.alias, gcm.total, gcm.languages) == ("gcm", 1, {"fr": 1})
        assert (other.alias, other.total, other.languages) == ("other", 8, {"de": 4, "en": 4})
        assert {"Ja", "Yes"} == {sample.message["title"] for sample in other.samples}

    def test_one_text_has_no_languages(self):
        """A message that is the same for all is counted as one."""
        make_tokens(2, backend="other", locale="de")
        [part] = preview(HELLO, "everyone").parts
        assert (part.languages, [sample.language for sample in part.samples]) == ({"": 2}, ["", ""])

    def test_translations(self):
        """A language that has a message of its own gets it; others get the message as it is."""
        for locale in ("de-AT", "en", "de"):
            make_tokens(1, backend=locale, locale=locale)
            Token.objects.filter(backend=locale).update(backend="other")
        hallo = PushMessage(title="Hallo", body="Welt")
        [part] = preview(HELLO, "everyone", translations={"de": hallo}).parts
        assert part.languages == {"de": 2, "": 1}
        said = [(sample.locale, sample.language, sample.message["title"]) for sample in part.samples]
        assert said == [("de-AT", "de", "Hallo"), ("en", "", "Hello"), ("de", "de", "Hallo")]

    def test_locales(self):
        """Those of the tokens as they are, beside the texts that these come down to; in lines the largest."""
        for locale in ("de", "de-AT", "de-AT", ""):
            Token.objects.create(backend="other", token=f"x{Token.objects.count()}", locale=locale)
        found = preview(HELLO, "everyone", translations={"de": HELLO})
        [part] = found.parts
        assert part.locales == {"de-AT": 2, "de": 1, "": 1}
        assert part.languages == {"de": 3, "": 1}
        by_locale, by_text = list(found.lines())[3:5]
        assert set(by_locale.removeprefix("  by locale: ").split(", ")) == {"de-AT 2", "de 1", "none 1"}
        assert by_text == "  by text: de 3, the default text 1"

    def test_many_locales(self, monkeypatch):
        """A line has the most frequent ones, and sums up the others."""
        monkeypatch.setattr(module, "LISTED", 1)
        for number, locale in enumerate(["de", "de", "\x1b[2J", "fr"]):
            Token.objects.create(backend="other", token=f"x{number}", locale=locale)
        found = preview(HELLO, "everyone")
        assert list(found.lines())[3] == "  by locale: de 2, 2 others 2"
        assert not any("\x1b" in line for line in found.lines())

    def test_filters_and_one_alias(self):
        """The audience is that of the broadcast, narrowed to one alias if it is."""
        make_gcm(platform="android")
        make_tokens(3, backend="other", platform="android")
        make_tokens(3, platform="ios")
        found = preview(HELLO, {"platform": "android"}, using="other")
        assert (found.total, [part.alias for part in found.parts]) == (3, ["other"])
        assert (found.audience, found.using) == ("platform android", "other")
        assert next(found.lines()) == "Audience: platform android; through other alone"
        again = preview(HELLO, {"kind": "filters", "filters": {"platform": ["android"]}})
        assert (again.total, [part.alias for part in again.parts]) == (4, ["gcm", "other"])

    def test_a_list_is_counted_by_reading_it(self):
        """A queryset, users or rows; what is passed over is told by reason."""
        ada = get_user_model().objects.create(username="ada")
        rows = [*make_tokens(5, backend="other", user=ada, locale="de"), make_gcm(enabled=False)]
        rows += make_tokens(1, backend="gone")
        for audience in (Token.objects.all(), rows, iter(rows)):
            found = preview(HELLO, audience)
            assert (found.total, found.skipped) == (5, {"disabled": 1, "unknown_backend": 1})
            assert found.audience == "a list of tokens"
            assert [len(part.samples) for part in found.parts] == [3]
        assert preview(HELLO, ada).total == 5
        assert preview(HELLO, [], using="other").parts == []

    def test_nobody(self):
        """An empty audience has no parts."""
        found = preview(HELLO, "everyone")
        assert (found.total, found.parts, found.skipped) == (0, [], {})
        assert list(found.lines()) == ["Audience: everyone", "Tokens: 0"]


class TestMessage:
    """What each provider would make of the message."""

    def test_what_cannot_be_said_is_told(self):
        """By alias: fields that its provider has no words for."""
        make_tokens(1)
        make_gcm()
        expo, gcm = preview(
            PushMessage(title="Hi", subtitle="Sub", link="https://x.example"), "everyone"
        ).parts
        assert expo.left_out == ["link"]
        assert set(gcm.left_out) <= {"link", "subtitle"}

    def test_why_it_would_be_refused(self):
        """By language, before anything is sent."""
        make_tokens(1, locale="de")
        make_gcm(locale="en")
        large, refusal = PushMessage(body="x" * 5000), "MessageTooBig: over 4096 bytes of keys and values"
        expo, gcm = preview(HELLO, "everyone", translations={"de": large}).parts
        assert (expo.refusals, gcm.refusals) == ({"de": refusal}, {})
        assert (expo.samples[0].refusal, gcm.samples[0].refusal) == (refusal, "")
        assert (expo.samples[0].message, expo.samples[0].payload) == ({}, "")

    def test_payload(self):
        """The body of the request as the provider would get it, unpacked, but for the token."""
        [row] = make_tokens(1)
        body = "Grüße " * 250  # so large that Expo gets it compressed
        [part] = preview(PushMessage(title="Hi", body=body), "everyone").parts
        [sample] = part.samples
        said = {"to": [row.masked], "title": "Hi", "body": body, "tag": "broadcast-…"}
        assert [said] == json.loads(sample.payload)
        assert sample.payload.startswith('[\n  {\n    "to"')
        assert "ü" in sample.payload

    @pytest.mark.parametrize(
        ("alias", "fields", "tag"),
        [
            ("other", {"title": "Hi"}, "broadcast-…"),
            ("other", {"body": "Hi", "tag": "mine"}, "mine"),
            ("other", {"data": {"a": 1}}, None),
            ("gcm", {"title": gettext_lazy("Yes")}, "broadcast-…"),
        ],
    )
    def test_tag(self, alias, fields, tag):
        """What is shown has one, as when it is sent; what is silent and what has its own is left alone."""
        Token.objects.create(backend=alias, token=GCM_TOKEN, locale="de")
        [part] = preview(PushMessage(**fields), "everyone").parts
        assert part.samples[0].message.get("tag") == tag

    def test_tag_of_a_translation(self):
        """It has one as well."""
        make_tokens(1, backend="other", locale="de")
        [part] = preview(HELLO, "everyone", translations={"de": PushMessage(title="Hallo")}).parts
        assert part.samples[0].message == {"title": "Hallo", "tag": "broadcast-…"}

    def test_tag_that_nobody_can_say(self, monkeypatch):
        """Is not given, as when it is sent."""
        make_tokens(1, backend="other")
        backend = push_backends["other"]
        monkeypatch.setattr(type(backend), "fields", backend.fields - {"tag"})
        [part] = preview(HELLO, "everyone").parts
        assert (part.left_out, part.samples[0].message) == ([], {"title": "Hello", "body": "World"})

    def test_payload_that_is_no_json(self, settings):
        """GCM's form is shown as it is."""
        options = {**BACKENDS["gcm"]["OPTIONS"], "format": "plaintext"}
        settings.PUSH_BACKENDS = {"gcm": {**BACKENDS["gcm"], "OPTIONS": options}}
        make_gcm()
        [part] = preview(PushMessage(data={"a": "b"}), "everyone").parts
        assert part.samples[0].payload == "registration_id=APA91b%E2%80%A6RYqx&data.a=b"

    def test_various_samples(self, monkeypatch):
        """Three at most, of different languages if the first tokens have them."""
        make_tokens(5, backend="other", locale="en")
        make_tokens(1, backend="last", locale="de")
        Token.objects.filter(backend="last").update(backend="other")
        message = PushMessage(title=gettext_lazy("Yes"))
        [part] = preview(message, "everyone").parts
        assert [sample.language for sample in part.samples] == ["en", "de", "en"]
        monkeypatch.setattr(module, "SAMPLED_FROM", 3)
        assert [s.language for s in preview(message, "everyone").parts[0].samples] == ["en"] * 3


class TestPersonalize:
    """What differs for each token is shown for the samples."""

    @pytest.mark.parametrize("function", [personal, "tests.broadcasts.test_preview.personal"])
    def test_samples(self, function):
        """By a function or its path; a token that it fails for says so."""
        first, second = make_tokens(2)
        Token.objects.filter(pk=second.pk).update(locale="fr")
        [part] = preview(HELLO, "everyone", personalize=function).parts
        good, bad = sorted(part.samples, key=lambda sample: sample.pk)
        assert good.message["body"] == f"For {first.pk}"
        assert (good.refusal, bad.message, bad.payload) == ("", {}, "")
        assert "personalize raised" in bad.refusal

    def test_no_whole_token(self, settings):
        """However a token got into the text, and however the text is written."""
        plain = {**BACKENDS["gcm"]["OPTIONS"], "format": "plaintext"}
        settings.PUSH_BACKENDS = {**BACKENDS, "plain": {**BACKENDS["gcm"], "OPTIONS": plain}}
        names = [token_name(0), f"{GCM_TOKEN}:a/b", f"{GCM_TOKEN}:c/d", 'locmem-"quoted"-token-0123456789']
        for alias, name in zip(("expo", "gcm", "plain", "other"), names, strict=True):
            Token.objects.create(backend=alias, token=name)
        found = preview(HELLO, "everyone", personalize=personal)
        text = "\n".join([json.dumps(found.as_json()), *found.lines(), repr(found)])
        assert len(found.parts) == 4
        assert all(sample.payload for part in found.parts for sample in part.samples)
        for name in (*names, *(name[4:-6] for name in names)):
            assert name not in text
        assert "gcm.example.com" not in text


class TestWays:
    """A preview as data and as text, and what it raises."""

    def test_json_and_lines(self):
        """Plain JSON with everything; lines for a terminal."""
        [row] = make_tokens(1, locale="de")
        make_gcm()
        Token.objects.create(backend="gone", token="x")
        message = PushMessage(title="Hi", link="https://x.example")
        found = preview(message, "everyone", translations={"de": PushMessage(body="x" * 5000)})
        data = found.as_json()
        assert data == json.loads(json.dumps(data))
        assert [part["alias"] for part in data["parts"]] == ["expo", "gcm"]
        lines = list(found.lines())
        assert lines[:6] == [
            "Audience: everyone",
            "Tokens: 2",
            "Skipped (unknown_backend): 1",
            "expo: 1",
            "  by locale: de 1",
            "  by text: de 1",
        ]
        assert "  will be refused (de): MessageTooBig: over 4096 bytes of keys and values" in lines
        assert f"  {row.masked} de" in lines
        assert "    will not be sent: MessageTooBig: over 4096 bytes of keys and values" in lines
        assert lines[lines.index("gcm: 1") + 1 :][:2] == [
            "  by locale: none 1",
            "  by text: the default text 1",
        ]
        assert any(line.startswith("  left out, for the provider cannot say it: link") for line in lines)
        assert not any("\n" in line for line in lines)

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"audience": "nobody"}, InvalidAudience),
            ({"audience": ["x" * 30]}, InvalidAudience),
            ({"audience": {"kind": "list"}}, InvalidAudience),
            ({"using": "gone"}, InvalidPushBackend),
            ({"message": PushMessage(title="x", link="https://x"), "using": "expo"}, UnsupportedOption),
            ({"personalize": "nowhere.at_all"}, ImportError),
        ],
    )
    def test_what_it_raises(self, arguments, error):
        """The same as making the broadcast would."""
        with pytest.raises(error):
            preview(**{"message": HELLO, "audience": "everyone", **arguments})

    def test_nothing_is_sent_or_written(self, django_assert_num_queries):
        """Two reads, no write, no request."""
        make_tokens(3, backend="other")
        before = list(Token.objects.values())
        with django_assert_num_queries(2) as asked:
            preview(HELLO, "everyone")
        assert all(query["sql"].startswith("SELECT") for query in asked.captured_queries)
        assert (before, []) == (list(Token.objects.values()), list(testing.outbox))
