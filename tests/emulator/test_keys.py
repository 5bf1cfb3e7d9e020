import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_push.backends.fcm import FCMBackend
from django_push.emulator import keys, service_account


def test_backend_takes_it():
    """FCMBackend takes the account, and the function itself."""
    assert FCMBackend(alias="fcm", service_account_key=service_account()).project_id == "emulator"
    assert FCMBackend(alias="fcm", service_account_key=service_account).project_id == "emulator"


def test_one_key_per_process():
    """The RSA key is made once; project and address are the caller's."""
    one, other = service_account(), service_account(project_id="shop", client_email="wrong@example.com")
    assert one["private_key"] == other["private_key"]
    assert other["project_id"] == "shop"
    assert other["client_email"] == "wrong@example.com"


def test_kept_in_a_file(tmp_path):
    """With a path the account is kept there, for its owner alone, and read again."""
    path = tmp_path / "keys" / "account.json"
    first = service_account(path=path, project_id="kept")
    assert path.stat().st_mode & 0o077 == 0
    assert json.loads(path.read_text()) == first
    assert service_account(path=path, project_id="other") == first


def test_without_the_extra(monkeypatch):
    """Without cryptography the error says what to install."""
    monkeypatch.setattr(keys, "_pem", "")
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ImproperlyConfigured, match=r"django-push-tokens\[fcm\]"):
        service_account()


def test_in_settings(tmp_path):
    """It can be called in a settings module, before there are any models."""
    (tmp_path / "their_settings.py").write_text(
        "from django_push.emulator import service_account\n"
        "KEY = service_account()\n"
        'INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django_push"]\n'
    )
    root = str(Path(__file__).parents[2])
    env = os.environ | {
        "DJANGO_SETTINGS_MODULE": "their_settings",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), root]),
    }
    code = "import django; django.setup(); from django.conf import settings; print(settings.KEY['type'])"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("service_account\n", "")
