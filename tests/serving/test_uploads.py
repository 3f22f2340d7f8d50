"""What the header of an upload says, without a server. `tests/extras/test_serve.py` uploads to a real one."""

import importlib.util

import pytest

from minilearner.serving.limits import Limits, Refusal
from minilearner.serving.uploads import Upload, check_upload


def test_a_heic_photo_names_the_extra_that_reads_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    photo = Upload(b"\0\0\0\x18ftypheic" + bytes(40), "IMG_1.HEIC")
    with pytest.raises(Refusal, match=r"'IMG_1\.HEIC' is HEIC, .* `pip install 'minilearner\[heif\]'`") as refused:
        check_upload(photo, Limits())
    assert refused.value.status == 415


def test_a_format_that_may_start_a_program_is_refused():
    with pytest.raises(Refusal, match=r"'a\.eps' is no image in one of the formats BMP, GIF, JPEG"):
        check_upload(Upload(b"%!PS-Adobe-3.0 EPSF-3.0\n", "a.eps"), Limits())
