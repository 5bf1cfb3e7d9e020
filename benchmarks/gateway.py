"""A provider's front end that costs as little as possible: canned answers over TLS, on another core.

It answers by path alone, as Expo, GCM or FCM, with one token in a hundred dead, and issues OAuth tokens.
Run as a process: ``python gateway.py CERT KEY LATENCY_MS``; it prints its port.
"""

import asyncio
import gzip
import json
import re
import ssl
import sys
import uuid

DEAD_EVERY = 100


def _reply(payload, status="200 OK"):
    body = json.dumps(payload).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _expo(body):
    count = sum(len(message["to"]) for message in json.loads(body))
    dead = {"status": "error", "message": "gone", "details": {"error": "DeviceNotRegistered"}}
    tickets = [{"status": "ok", "id": str(uuid.uuid4())} for _ in range(count)]
    tickets[-1] = dead if count == DEAD_EVERY else tickets[-1]
    return _reply({"data": tickets})


def _gcm(body):
    count = len(json.loads(body)["registration_ids"])
    results = [
        {"error": "NotRegistered"} if n % DEAD_EVERY == 0 else {"message_id": f"0:{n}%aa11bb22"}
        for n in range(count)
    ]
    return _reply({"multicast_id": 1, "success": count, "failure": 0, "canonical_ids": 0, "results": results})


FCM_OK = _reply({"name": "projects/bench/messages/0:1700000000000000%aa11bb22aa11bb22"})
FCM_DEAD = _reply(
    {
        "error": {
            "code": 404,
            "message": "Requested entity was not found.",
            "status": "NOT_FOUND",
            "details": [
                {
                    "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError",
                    "errorCode": "UNREGISTERED",
                }
            ],
        }
    },
    "404 Not Found",
)
OAUTH = _reply({"access_token": "bench", "expires_in": 3600, "token_type": "Bearer"})


class Gateway(asyncio.Protocol):
    """One connection: requests are cut at Content-Length and answered in order."""

    latency = 0.0
    seen = 0

    def connection_made(self, transport):
        self.transport, self.buffer = transport, b""

    def data_received(self, data):
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end]
            length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
            if len(self.buffer) < end + 4 + length:
                return
            body, self.buffer = self.buffer[end + 4 : end + 4 + length], self.buffer[end + 4 + length :]
            if b"Content-Encoding: gzip" in head:
                body = gzip.decompress(body)
            answer = self.answer(head.split(b" ", 2)[1], body)
            asyncio.get_running_loop().call_later(self.latency, self.transport.write, answer)

    def answer(self, path, body):
        if path.endswith(b"push/send"):
            return _expo(body)
        if path.endswith(b"gcm/send"):
            return _gcm(body)
        if path.endswith(b"/token"):
            return OAUTH
        Gateway.seen += 1
        return FCM_DEAD if Gateway.seen % DEAD_EVERY == 0 else FCM_OK


async def main(certificate, key, latency):
    """Serve until killed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    Gateway.latency = float(latency) / 1000
    server = await asyncio.get_running_loop().create_server(Gateway, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
