"""Expo's official SDK for Node, unchanged: EXPO_BASE_URL is its own switch.

PUSH_TEST_NODE_MODULES names a directory with ``expo-server-sdk`` in its ``node_modules``.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

NODE = shutil.which("node")
PACKAGES = Path(os.environ.get("PUSH_TEST_NODE_MODULES", "/nonexistent"))
PACKAGES = PACKAGES if PACKAGES.name == "node_modules" else PACKAGES / "node_modules"
SDK = PACKAGES / "expo-server-sdk" / "build" / "ExpoClient.js"

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(NODE is None or not SDK.exists(), reason="needs node and PUSH_TEST_NODE_MODULES"),
]

HEAD = f"import {{ Expo }} from {json.dumps(SDK.as_uri())};\n"
SEND = """
const expo = new Expo(OPTIONS);
const messages = MESSAGES;
const tickets = [], codes = [];
for (const chunk of expo.chunkPushNotifications(messages)) {
  try { tickets.push(...await expo.sendPushNotificationsAsync(chunk)); }
  catch (error) { codes.push([error.statusCode, error.code ?? null]); }
}
const ids = tickets.filter((t) => t.status === "ok").map((t) => t.id);
const receipts = {};
for (const chunk of expo.chunkPushNotificationReceiptIds(ids)) {
  Object.assign(receipts, await expo.getPushNotificationReceiptsAsync(chunk));
}
console.log(JSON.stringify({ tickets, codes, receipts }));
"""


def run(emulator, messages, **options):
    """Send messages with the SDK and ask for their receipts; return what it says."""
    options = {"retryMinTimeout": 10, **options}
    script = HEAD + SEND.replace("OPTIONS", json.dumps(options)).replace("MESSAGES", json.dumps(messages))
    done = subprocess.run(
        [NODE, "--input-type=module"],
        input=script,
        env={"EXPO_BASE_URL": emulator.url, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_tickets_and_receipts(emulator):
    """Tickets and receipts come back; large requests are compressed."""
    to = [
        f"ExponentPushToken[{word}]"
        for word in ("receipt-unregistered", "unregistered", *map(str, range(248)))
    ]
    found = run(emulator, [{"to": to, "title": "Hi", "data": {"a": 1}}])
    assert len(found["tickets"]) == 250
    assert [t["details"]["error"] for t in found["tickets"] if t["status"] == "error"] == [
        "DeviceNotRegistered"
    ]
    errors = [r["details"]["error"] for r in found["receipts"].values() if r["status"] == "error"]
    assert (len(found["receipts"]), errors) == (249, ["DeviceNotRegistered"])
    assert emulator.state.recorded[0].headers["content-encoding"] == "gzip"


def test_retries_a_rate_limit(emulator):
    """The SDK tries again after a 429, and the push is accepted then."""
    found = run(emulator, [{"to": "ExponentPushToken[request-rate-twice]"}])
    assert [ticket["status"] for ticket in found["tickets"]] == ["ok"]
    assert emulator.state.requests == 4


@pytest.mark.parametrize(
    ("message", "options", "code"),
    [
        ({"to": "ExponentPushToken[a]", "priority": "urgent"}, {}, [400, "VALIDATION_ERROR"]),
        (
            {"to": ["ExponentPushToken[a]", "ExponentPushToken[project-b-1]"]},
            {},
            [400, "PUSH_TOO_MANY_EXPERIENCE_IDS"],
        ),
        ({"to": "ExponentPushToken[a]"}, {"accessToken": "wrong"}, [401, None]),
        ({"to": "ExponentPushToken[request-html]"}, {}, [502, None]),
    ],
)
def test_errors(emulator, message, options, code):
    """A refused request is raised with Expo's status and code."""
    found = run(emulator, [message], **options)
    assert (found["tickets"], found["codes"]) == ([], [code])
