"""Throwaway service accounts for FCM, made at run time. Importable from a settings module."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured

_lock = threading.Lock()
_private_keys: dict[str, Any] = {}
_pem = ""


def service_account(
    *,
    project_id: str = "emulator",
    client_email: str | None = None,
    token_uri: str = "https://oauth2.googleapis.com/token",  # noqa: S107 - an address
    path: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Return a service account's key as Google's JSON file has it, made of a new RSA key.

    The RSA key is made once per process. With ``path`` the whole account is read from that file, or
    made and kept there (readable for its owner alone) if there is none. An address
    (``client_email``) that begins with ``wrong`` is refused by the emulator's OAuth endpoint, one with
    ``denied`` by FCM. Raises ImproperlyConfigured without the extra ``fcm``.
    """
    if path is not None and (file := Path(path)).exists():
        account: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return account
    pem = _private_key()
    account = {
        "type": "service_account",
        "project_id": project_id,
        "private_key_id": _key_id(pem),
        "private_key": pem,
        "client_email": client_email or f"push@{project_id}.iam.gserviceaccount.com",
        "client_id": "100000000000000000000",
        "auth_uri": "https://accounts.google.com/o/oauth2/auth",
        "token_uri": token_uri,
        "universe_domain": "googleapis.com",
    }
    if path is not None:
        _write(Path(path), json.dumps(account, indent=2))
    return account


def verify(key_id: str, signed: bytes, signature: bytes) -> bool | None:
    """Whether a key of this process signed it; None for a key that is not known here."""
    key = _private_keys.get(key_id)
    if key is None:
        return None
    exceptions, hashes, padding = _cryptography()[1:]
    try:
        key.public_key().verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
    except exceptions.InvalidSignature:
        return False
    return True


def _private_key() -> str:
    """Return the process's own RSA key as PEM."""
    global _pem  # noqa: PLW0603 - a cache: the key takes a tenth of a second
    with _lock:
        if not _pem:
            serialization = _cryptography()[0]
            key = _rsa().generate_private_key(public_exponent=65537, key_size=2048)
            _pem = key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ).decode()
            _private_keys[_key_id(_pem)] = key
        return _pem


def _key_id(pem: str) -> str:
    return hashlib.sha256(pem.encode()).hexdigest()[:40]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _cryptography() -> tuple[Any, Any, Any, Any]:
    # Imported here: the emulator for Expo and GCM needs no extra.
    try:
        from cryptography import exceptions
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import padding
    except ImportError:
        raise ImproperlyConfigured(
            "service_account() needs cryptography; install django-push-tokens[fcm]."
        ) from None
    return serialization, exceptions, hashes, padding


def _rsa() -> Any:
    from cryptography.hazmat.primitives.asymmetric import rsa

    return rsa
