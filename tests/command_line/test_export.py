"""The suffix of the output decides what is written."""

import pytest


@pytest.mark.parametrize(("name", "format"), [("again.safetensors", "safetensors"), ("net.pt2", "torch_export")])
def test_the_suffix_decides(trained, call, tmp_path, name, format):
    shown = call("export", "--model", trained[0], "--output", tmp_path / name, "--json")
    assert shown.code == 0, shown.err
    assert shown.data == {"file": str(tmp_path / name), "format": format, "bytes": (tmp_path / name).stat().st_size}


def test_an_unknown_suffix_names_the_formats(trained, call, tmp_path):
    shown = call("export", "--model", trained[0], "--output", tmp_path / "net.pth")
    assert shown.code == 1 and ".onnx (format 'onnx')" in shown.err
    assert not list(tmp_path.iterdir())
