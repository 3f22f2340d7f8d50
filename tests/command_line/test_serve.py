"""Without the extra, `serve` says what to install. What it serves is tested in tests/extras."""

import sys


def test_what_is_missing_is_named(trained, call, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    shown = call("serve", "--model", trained[0])
    assert (
        shown.code == 1
        and "serve needs fastapi, which is not installed: pip install 'minilearner[serve]'." in shown.err
    )


def test_limits_must_be_positive(trained, call):
    shown = call("serve", "--model", trained[0], "--max-files", 0)
    assert shown.code == 2 and "--max-files" in shown.err
