import copy
import json
import os
import stat

import pytest
import safetensors.torch
import torch
from torch import nn

from minilearner import MLP, DataLoaders, FileFormatError, Learner, SaveBest


@pytest.fixture
def learner(blobs, tmp_path):
    """Returns a function that makes learners with the same seed and the same folder for files."""

    def make(model=None, **options):
        torch.manual_seed(0)
        dls = DataLoaders.from_arrays(*blobs, bs=30, seed=0, device="cpu")
        return Learner(dls, model or MLP((2, 8, 3)), path=tmp_path, device="cpu", **options)

    return make


def trained(learn, epochs=1):
    with learn.no_logging():
        learn.fit(epochs)
    return learn


def weights(learn):
    return [p.detach().clone() for p in learn.model.parameters()]


def test_training_goes_on_from_a_file_as_if_it_had_not_stopped(learner):
    saved = trained(learner())
    path = saved.save("stage-1")
    loaded = learner().load("stage-1")
    loaded.dls.train.epoch = saved.dls.train.epoch
    assert path == saved.path / "stage-1.safetensors"
    assert all(map(torch.equal, weights(trained(saved)), weights(trained(loaded))))


def test_without_the_optimizer_only_weights_come_back(learner):
    saved = trained(learner())
    saved.save("stage-1", with_opt=False)
    loaded = learner(opt_func=torch.optim.SGD).load("stage-1", with_opt=False)
    assert all(map(torch.equal, weights(saved), weights(loaded))) and loaded.optimizer is None


def test_buffers_come_back_in_their_own_types(learner, net):
    saved = trained(learner(net()))
    saved.save("norms")
    loaded = learner(net()).load("norms").model[1]
    assert loaded.num_batches_tracked == 3 and torch.equal(loaded.running_mean, saved.model[1].running_mean)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"model": MLP((2, 9, 3))}, r"w\.safetensors does not fit this model: 3 of another shape or type: 1\.weight"),
        ({"model": MLP((2, 8, 8, 3))}, r"2 missing in the file: 5\.weight.*of another shape or type: 3\.weight"),
        ({"model": MLP((2, 8, 3)).double()}, r"1\.weight F32 \(8, 2\) instead of F64 \(8, 2\)"),
        ({"opt_func": torch.optim.SGD}, "another optimizer: AdamW, and now it is SGD.*with_opt=False"),
        ({"wd": 0.1, "wd_bn_bias": True}, r"number of parameters in each group of the optimizer: \[2, 2\].*\[4\]"),
        ({"splitter": lambda m: [[*m[1].parameters()], [*m[3].parameters()]]}, "number of parameters in each group"),
        ({"splitter": lambda m: [[*m[3].parameters(), *m[1].parameters()]]}, "3.weight|1.weight instead of"),
    ],
)
def test_what_does_not_fit_is_an_error_that_changes_nothing(learner, other, message):
    trained(learner()).save("w")
    loaded = learner(**other)
    loaded.save("own")  # so that it has an optimizer
    before = weights(loaded), json.dumps(loaded.optimizer.state_dict(), default=lambda t: t.tolist())
    with pytest.raises(FileFormatError, match=message):
        loaded.load("w")
    assert all(map(torch.equal, before[0], weights(loaded)))
    assert before[1] == json.dumps(loaded.optimizer.state_dict(), default=lambda t: t.tolist())


def test_a_part_is_loaded_on_demand_and_the_rest_is_reported(learner):
    saved = trained(learner())
    saved.save("w")
    loaded = learner(MLP((2, 8, 5)))
    with pytest.warns(UserWarning, match=r"loaded in part: 2 of another shape or type: 3\.weight"):
        loaded.load("w", with_opt=False, strict=False)
    assert torch.equal(loaded.model[1].weight, saved.model[1].weight)
    with pytest.raises(FileFormatError, match="no weight of this model"):
        learner(nn.Linear(2, 7)).load("w", with_opt=False, strict=False)


class Wrapped(nn.Module):
    """Changes names as DDP does."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


def test_a_wrapped_or_compiled_model_is_saved_as_the_plain_one(learner):
    plain = trained(learner())
    plain.save("plain")
    for wrap in (Wrapped, torch.compile):
        wrapped = learner(wrap(MLP((2, 8, 3)))).load("plain", with_opt=False)
        assert all(map(torch.equal, weights(plain), weights(wrapped)))
        wrapped.save("wrapped")
        assert set(safetensors.torch.load_file(plain.path / "wrapped.safetensors")) >= set(plain.model.state_dict())


def test_other_programs_read_the_weights_and_their_files_are_read(learner, tmp_path):
    learn = trained(learner())
    found = safetensors.torch.load_file(learn.save("ours", with_opt=False))
    assert found.keys() == learn.model.state_dict().keys()
    safetensors.torch.save_file(found, tmp_path / "theirs.safetensors")
    assert all(map(torch.equal, weights(learner().load("theirs", with_opt=False)), weights(learn)))


@pytest.mark.parametrize("name", ["theirs", "ours"])
def test_weights_alone_leave_the_optimizer_as_it_is_and_say_so(learner, tmp_path, capsys, name):
    learn = trained(learner())
    found = safetensors.torch.load_file(learn.save("ours", with_opt=False))
    safetensors.torch.save_file(found, tmp_path / "theirs.safetensors")
    fresh = trained(learner())
    before = fresh.optimizer, copy.deepcopy(fresh.optimizer.state_dict()["state"])
    capsys.readouterr()
    fresh.load(name)
    assert capsys.readouterr().err == f"learn.load: {name} has no optimizer's state, so only weights were loaded.\n"
    assert all(map(torch.equal, weights(fresh), weights(learn))) and fresh.optimizer is before[0]
    torch.testing.assert_close(fresh.optimizer.state_dict()["state"], before[1], rtol=0, atol=0)
    fresh.load(name, with_opt=False)
    assert capsys.readouterr().err == ""


def test_the_best_of_a_run_is_loaded(learner, tmp_path):
    learn = learner(cbs=SaveBest(path=tmp_path / "best.safetensors", restore=True))
    trained(learn, 2)
    assert all(map(torch.equal, weights(learner().load("best", with_opt=False)), weights(learn)))


def test_tied_weights_are_saved_both(learner):
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 3))
    tied[1].weight = tied[0].weight
    learn = learner(tied)
    learn.save("tied")
    before = weights(learn)
    with torch.no_grad():
        tied[0].weight.zero_()
    assert all(map(torch.equal, weights(learn.load("tied")), before))


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_a_name_of_pickles_is_refused(learner, suffix):
    with pytest.raises(ValueError, match="never a pickle"):
        learner().save(f"w{suffix}")


def test_a_state_that_is_no_data_is_refused_before_anything_is_written(learner, tmp_path):
    class Odd(nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

    with pytest.raises(TypeError, match="_extra_state.*not a tensor"):
        learner(Odd(2, 3)).save("odd")
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(learner, tmp_path, monkeypatch):
    learn = trained(learner())
    before = learn.save("w").read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        trained(learn).save("w")
    assert (tmp_path / "w.safetensors").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_others_may_read_a_file_as_any_new_one(learner, tmp_path):
    (tmp_path / "any").touch()
    assert stat.S_IMODE(learner().save("w").stat().st_mode) == stat.S_IMODE((tmp_path / "any").stat().st_mode)


def test_a_missing_file_is_reported_with_its_path(learner, tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "none.safetensors")):
        learner().load("none")


class Refusing(torch.optim.SGD):
    """Raises an error after its state has been loaded."""

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        raise ValueError("not this one")


def test_an_optimizer_that_refuses_its_state_keeps_what_it_had(learner):
    trained(learner(opt_func=Refusing)).save("w")
    loaded = trained(learner(opt_func=Refusing, lr=0.5))
    state, before = loaded.optimizer.state, weights(loaded)
    with pytest.raises(FileFormatError, match="Refusing does not accept its state: ValueError.*not this one"):
        loaded.load("w")
    assert loaded.optimizer.state is state and loaded.optimizer.param_groups[0]["lr"] == 0.5
    assert all(map(torch.equal, before, weights(loaded)))
