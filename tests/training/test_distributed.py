"""Several processes started by torchrun train as one process does with the same global batch."""

import json
import re
import time

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from minilearner import DataLoaders, Learner
from minilearner.training.distributed import resolve_strategy


@pytest.fixture(scope="module")
def script(script_named):
    return script_named("distributed_script")


@pytest.fixture(scope="module")
def alone(script, tmp_path_factory):
    return json.loads(json.dumps(script.main("all", tmp_path_factory.mktemp("alone"))))


@pytest.fixture(scope="module")
def two(script, torchrun, reports, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    ended = torchrun(script, 2, "all", folder)
    assert ended.returncode == 0, ended.stderr
    return reports(folder, 2), ended, folder


def close(expected):
    return pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    "part", ["training", "early", "accumulation", "cancelled", "kept", "last_item", "torch_loaders"]
)
def test_two_processes_reach_the_weights_of_one(alone, two, part):
    assert two[0][0][part]["weights"] == close(alone[part]["weights"])


def test_a_loss_that_is_read_before_the_backward_pass_is_that_of_the_whole_batch(alone, two):
    for found in two[0]:
        assert found["early"]["seen"] == found["early"]["losses"] == close(alone["early"]["losses"])


def test_a_loss_that_is_computed_once_more_is_that_of_the_whole_batch(alone, two):
    for found in two[0]:
        assert found["again"]["seen"] == close(alone["again"]["seen"])


def test_float64_loses_no_digits(alone, two):
    for found in two[0]:
        assert found["doubles"]["losses"] == pytest.approx(alone["doubles"]["losses"], rel=1e-12)
        assert found["doubles"]["weights"] == pytest.approx(alone["doubles"]["weights"], rel=1e-12, abs=1e-14)


def test_gradients_take_the_losses_along(two):
    carried, alone = (two[0][0]["carried"][name] for name in ("carried", "alone"))
    assert carried["weights"] == pytest.approx(alone["weights"], rel=1e-5, abs=1e-6)
    assert carried["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert alone["messages"] - carried["messages"] == len(alone["losses"]) - 1  # nothing is known in the first step


def test_a_loss_with_weights_of_its_own_is_that_of_the_whole_batch(alone, two):
    found = two[0][0]["weighted"]
    assert list(found) == list(alone["weighted"])
    for name, weights in alone["weighted"].items():
        assert found[name] == close(weights), name


def test_every_process_ends_with_the_same(two, script):
    first, second = two[0]
    assert list(first) == list(script.PARTS)
    for part, found in first.items():
        assert found == second[part], part


def test_the_record_is_that_of_the_whole_batches(alone, two):
    ours, its = two[0][0]["training"], alone["training"]
    assert ours["sizes"] == its["sizes"]
    assert ours["losses"] == close(its["losses"])
    assert ours["history"]["train_loss"] == close(its["history"]["train_loss"])


def test_validation_counts_every_item_once(alone, two):
    ours, its = two[0][0]["training"], alone["training"]
    assert ours["history"]["distinct"] == its["history"]["distinct"]
    assert ours["validate"] == close(its["validate"])
    assert ours["validate"][1] * 61 == pytest.approx(round(ours["validate"][1] * 61), abs=1e-5)


def test_predictions_and_their_interpretation_are_whole_and_in_order(alone, two):
    ours, its = two[0][0]["training"], alone["training"]
    for name in ("targets", "matrix", "worst"):
        assert ours[name] == its[name]
    assert [p for row in ours["preds"] for p in row] == close([p for row in its["preds"] for p in row])


def test_the_finder_sees_the_loss_of_all_processes(alone, two):
    (losses, rate, reason), (its_losses, its_rate, _) = two[0][0]["training"]["sweep"], alone["training"]["sweep"]
    n = min(len(losses), len(its_losses))
    assert losses[: n // 2] == close(its_losses[: n // 2])
    assert rate == pytest.approx(its_rate, rel=0.5)
    assert "rate of" in reason


def test_the_first_process_alone_writes_and_shows(two):
    _, ended, folder = two
    tables = re.findall("epoch +train_loss", ended.stdout)
    assert len(tables) == (26 if two[0][0]["sharded"] else 22)
    assert len((folder / "history.csv").read_text().splitlines()) == 3


def test_one_process_loads_what_two_saved(two, script):
    ranks, _, folder = two
    learn = script.Learner(script.loaders(), script.net(), opt_func=script.SGD, path=folder).load("model")
    assert script.weights(learn) == ranks[0]["training"]["after"] == ranks[0]["training"]["weights"]


def test_the_best_weights_put_back_everywhere_are_those_of_the_file(two, script):
    ranks, _, folder = two
    net = script.net(norm=True)
    net.load_state_dict(load_file(folder / "best.st"))
    best = torch.cat([t.double().flatten() for t in net.state_dict().values()])
    assert ranks[1]["averages"]["best"] == best.tolist()


@pytest.mark.skipif(not hasattr(torch.cpu.current_stream(), "record_event"), reason="this torch shards on GPUs only")
def test_a_sharded_model_learns_what_one_process_would(alone, two):
    ours, its = two[0][0]["sharded"], alone["sharded"]
    for name in ("ema", "best", "clip", "validate"):
        assert ours[name] == close(its[name])
    assert ours["matrix"] == its["matrix"]
    assert ours["after"] == ours["clip"]


@pytest.mark.slow
def test_four_processes_reach_the_weights_of_one(alone, script, torchrun, reports, tmp_path):
    ended = torchrun(script, 4, "training", tmp_path)
    assert ended.returncode == 0, ended.stderr
    for found in reports(tmp_path, 4):
        assert found["training"]["weights"] == close(alone["training"]["weights"])
        assert found["training"]["matrix"] == alone["training"]["matrix"]


@pytest.mark.slow
def test_an_error_in_one_ends_all_and_a_second_start_goes_on(two, script, torchrun, reports, tmp_path):
    began = time.monotonic()
    ended = torchrun(script, 2, "resumed", tmp_path, FAIL="1")
    assert ended.returncode != 0
    assert time.monotonic() - began < 90
    assert "rank 1 of 2 ends with this error: ValueError: the second process has had enough" in ended.stderr
    assert "rank 0 of 2 ends with this error" not in ended.stderr
    again = torchrun(script, 2, "resumed", tmp_path)
    assert again.returncode == 0, again.stderr
    assert "resuming in epoch 1/3 at batch 5/" in again.stdout
    assert reports(tmp_path, 2)[0]["resumed"] == two[0][0]["resumed"]


def test_a_folder_of_more_processes_is_refused(two, script):
    with pytest.raises(Exception, match="processes: saved 2, now None"):
        script.resumed(two[2])


def test_alone_nothing_is_wrapped_or_shared():
    dls = DataLoaders.from_arrays(([[0.0], [1.0]], [0, 1]), bs=1)
    learn = Learner(dls, nn.Linear(1, 2), strategy="ddp")
    assert resolve_strategy("auto") is None
    assert learn.strategy is None
    assert learn.dls is dls


def test_an_unknown_strategy_is_refused_and_the_nearest_suggested():
    with pytest.raises(ValueError, match=r"`strategy` must be one of 'auto', 'ddp'.*'ddp'.*strategy='dpp'"):
        resolve_strategy("dpp")
