"""What providers answer, in their own shapes."""

import json

from django_push.wire import Reply

SERVICE_ACCOUNT = {
    "type": "service_account",
    "project_id": "shop-prod",
    "client_email": "push@shop-prod.iam.gserviceaccount.com",
    "private_key": "-----BEGIN PRIVATE KEY-----\ns3cret\n-----END PRIVATE KEY-----\n",
    "token_uri": "https://oauth2.googleapis.com/token",
}
FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
QUOTA_FAILURE = "type.googleapis.com/google.rpc.QuotaFailure"


def reply(status, payload, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Reply(status=status, body=body, headers=headers)


def ok(payload, **headers):
    return reply(200, payload, **headers)


# --- Expo ---------------------------------------------------------------------------------------------


def expo_id(number):
    return f"0190a1b2-c3d4-7e5f-8a9b-{number:012d}"


def expo_oks(request):
    return ok({"data": [{"status": "ok", "id": expo_id(n)} for n, _ in enumerate(request.targets)]})


def expo_ticket(token, code):
    return {
        "status": "error",
        "message": f'"{token}": {code}',
        "details": {"error": code, "expoPushToken": token},
    }


def expo_errors(request, code):
    return ok({"data": [expo_ticket(target.value, code) for target in request.targets]})


def expo_refusal(status, code, message="no", **more):
    return reply(status, {"errors": [{"code": code, "message": message, **more}]})


# --- GCM ----------------------------------------------------------------------------------------------


def gcm_results(*results, **headers):
    failure = sum("error" in result for result in results)
    counts = {
        "multicast_id": 2**62 + 1,
        "success": len(results) - failure,
        "failure": failure,
        "canonical_ids": 0,
    }
    return ok({**counts, "results": list(results)}, **headers)


def gcm_oks(request):
    return gcm_results(*({"message_id": f"0:{n}%aa11"} for n, _ in enumerate(request.targets)))


def gcm_errors(request, code):
    return gcm_results(*({"error": code} for _ in request.targets))


# --- FCM ----------------------------------------------------------------------------------------------


def fcm_ok():
    return ok({"name": "projects/shop-prod/messages/0:1700000000000000%aa11bb22aa11bb22"})


def fcm_error(status, code="", *details, rpc="", message="It went wrong.", **headers):
    """Return an error with an FcmError detail for ``code`` and the canonical status ``rpc``."""
    found = [{"@type": FCM_ERROR, "errorCode": code}] if code else []
    error = {"code": status, "message": message, "status": rpc, "details": [*details, *found]}
    return reply(status, {"error": error}, **headers)


def violations(*fields):
    return {
        "@type": BAD_REQUEST,
        "fieldViolations": [{"field": field, "description": "no"} for field in fields],
    }
