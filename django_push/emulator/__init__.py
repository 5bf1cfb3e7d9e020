"""A local stand-in for Expo, GCM and FCM v1: their validation, their answers, and an inbox to look at."""

from django_push.emulator.faults import Fault, Faults
from django_push.emulator.keys import service_account
from django_push.emulator.server import Emulator, start_emulator
from django_push.emulator.state import State

__all__ = ["Emulator", "Fault", "Faults", "State", "service_account", "start_emulator"]
