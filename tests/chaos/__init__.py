"""Broadcasts while processes are killed and frozen, databases restarted, and providers fail.

Run with ``pytest -m chaos tests/chaos``. CHAOS_SEED=17 replays that seed, CHAOS_SEED=17,18,19 several;
without it each mode runs with two fixed seeds.
"""
