"""A sharded model learns and is checked as a model of data-parallel processes, however small it is."""

import pytest
import torch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not hasattr(torch.cpu.current_stream(), "record_event"), reason="this torch shards on GPUs only"
    ),
]


def test_a_small_sharded_model_learns_after_the_checks_before_training(script_named, torchrun, reports, tmp_path):
    ended = torchrun(script_named("sharded_script"), 2, tmp_path)
    assert ended.returncode == 0, ended.stderr
    for found in reports(tmp_path, 2):
        assert found["fsdp"]["valid_loss"] == pytest.approx(found["ddp"]["valid_loss"], rel=1e-4)
        assert found["fsdp"]["valid_loss"] < 0.8  # it starts at 1.1
        assert found["fsdp"]["worst"] is None
