"""If one process has trouble, all processes do the same, and none waits for ever."""

import re

import pytest
import torch

pytestmark = pytest.mark.slow
SHARDED = pytest.mark.skipif(
    not hasattr(torch.cpu.current_stream(), "record_event"), reason="this torch shards on GPUs only"
)


@pytest.fixture(scope="module")
def script(script_named):
    return script_named("trouble_script")


@pytest.fixture(scope="module")
def alone(script, tmp_path_factory):
    return script.main("non_finite,split", tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def two(script, torchrun, reports, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    ended = torchrun(script, 2, "non_finite,non_finite_sharded,split", folder)
    assert ended.returncode == 0, ended.stderr
    return reports(folder, 2)


def assert_same_training(found, expected):
    for name in ("weights", "losses"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-5)
    assert found["settings"].get("non_finite") == expected["settings"].get("non_finite")


@pytest.mark.parametrize("case", ["skip", "skip gradient", "rollback", "rollback gradient"])
def test_a_batch_that_is_bad_in_one_process_is_left_out_in_all(two, alone, case):
    first, second = (found["non_finite"][case] for found in two)
    assert first["weights"] == second["weights"]
    assert_same_training(first, alone["non_finite"][case])
    assert "epoch 0 batch 2" in first["settings"]["non_finite"]


@SHARDED
@pytest.mark.parametrize("case", ["skip", "rollback"])
def test_a_sharded_model_leaves_it_out_too(two, alone, case):
    assert_same_training(two[0]["non_finite_sharded"][case], alone["non_finite"][case])


@SHARDED
@pytest.mark.parametrize("case", ["skip gradient", "rollback gradient"])
def test_an_odd_gradient_in_the_part_of_one_is_known_to_all(two, case):
    first, second = (found["non_finite_sharded"][case] for found in two)
    assert first["weights"] == second["weights"]
    assert first["settings"]["non_finite"].endswith("epoch 0 batch 2")


@pytest.mark.parametrize("part", ["non_finite", pytest.param("non_finite_sharded", marks=SHARDED)])
def test_the_error_names_the_process_and_its_items_everywhere(two, script, part):
    first, second = (found[part]["raise"] for found in two)
    assert first == second
    i = first["order"].index(script.BAD)
    rank, start = i % 12 // 6, i // 6 * 6
    message = f"process {rank}: the loss of batch {i // 12} of epoch 0 is nan. Not finite are: item {script.BAD}. "
    assert first["message"].startswith(message)
    assert first["positions"] == first["order"][start : start + 6]


@pytest.mark.parametrize("case", ["plain", "accumulation", "watched"])
def test_one_process_may_split_its_batch_and_the_others_not(two, alone, case):
    first, second = (found["split"][case] for found in two)
    assert first["weights"] == second["weights"]
    assert_same_training(first, alone["split"][case])
    assert first["settings"]["split"] == "in parts of at most 3 items"


def test_a_sharded_model_cannot_be_trained_in_parts_and_the_error_names_no_batch(two):
    message, notes = two[1]["split"]["sharded"]
    assert message.startswith('`SplitOnOOM` cannot split with `strategy="fsdp"`')
    assert not notes


@pytest.fixture(scope="module", params=["ddp", pytest.param("fsdp", marks=SHARDED)])
def interrupted(request, script, torchrun, reports, tmp_path_factory):
    """A strategy, the result of a run without a stop, and the folder of a run that was stopped at step 6 of 12."""
    whole, folder = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("interrupted")
    assert torchrun(script, 2, "resumed", whole, STRATEGY=request.param).returncode == 0
    assert torchrun(script, 2, "resumed", folder, STRATEGY=request.param, FAIL="1").returncode != 0
    return request.param, reports(whole, 2), folder


def test_other_processes_are_refused_and_the_same_go_on_to_the_same_bits(
    interrupted, script, torchrun, reports, monkeypatch
):
    strategy, whole, folder = interrupted
    three = torchrun(script, 3, "resumed", folder, STRATEGY=strategy)
    other = torchrun(script, 2, "resumed", folder, STRATEGY={"ddp": "fsdp", "fsdp": "ddp"}[strategy])
    assert three.returncode != 0 and "processes: saved 2, now 3" in three.stderr
    assert other.returncode != 0 and re.search("strategy: saved .*, now .*", other.stderr)
    with pytest.raises(Exception, match="processes: saved 2, now None"):
        script.resumed(folder)
    again = torchrun(script, 2, "resumed", folder, STRATEGY=strategy)
    assert again.returncode == 0, again.stderr
    assert reports(folder, 2) == whole


def test_a_signal_that_torchrun_sends_twice_counts_once(script, torchrun, tmp_path):
    ended = torchrun(script, 2, "resumed", tmp_path, FAIL="signals")
    assert ended.returncode != 0 and "SIGTERM: saved in" in ended.stderr
    assert [path.name for path in (tmp_path / "run").iterdir() if path.is_dir()] == ["checkpoint-00000012"]
