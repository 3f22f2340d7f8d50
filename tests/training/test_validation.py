"""With the same weights, any number of processes computes the losses and metrics of one process, to the bit."""

import json

import pytest
import torch

pytestmark = pytest.mark.slow
COUNTS = ("accuracy", "error_rate", "top_k_accuracy", "multiclass_f1_score", "multiclass_confusion_matrix")


@pytest.fixture(scope="module")
def script(script_named):
    return script_named("validation_script")


@pytest.fixture(scope="module")
def alone(script, tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes of torchrun, because products rounded in several threads differ
    try:
        return json.loads(json.dumps(script.main(tmp_path_factory.mktemp("alone"))))
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=[2, 3, 4], ids=lambda n: f"{n} processes")
def several(request, script, torchrun, reports, tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    ended = torchrun(script, request.param, folder)
    assert ended.returncode == 0, ended.stderr
    return reports(folder, request.param)


def test_losses_metrics_and_predictions_are_those_of_one_process(several, alone):
    for found in several:
        assert found["same"].keys() == alone["same"].keys()
        for name, asked in found["same"].items():
            for what, value in asked.items():
                assert value == alone["same"][name][what], (name, what)


def test_counts_do_not_depend_on_the_size_of_batches(several, alone):
    for found in several:
        assert {name: found["counts"][name] for name in COUNTS} == {name: alone["counts"][name] for name in COUNTS}


def test_a_sharded_model_says_what_a_whole_one_does(several, script):
    for bs in script.SIZES if script.SHARDS else ():
        assert several[0]["same"][f"fsdp {bs}"] == several[0]["same"][f"from_arrays {bs}"]
