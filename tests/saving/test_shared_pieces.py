"""What grows with a run is written in pieces, which checkpoints share."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from minilearner import MLP, ActivationStats, Callback, Checkpoint, DataLoaders, Learner
from minilearner.errors import CheckpointError
from minilearner.packing import GROWING, Growing
from minilearner.saving import shared_pieces
from minilearner.saving.checkpoint_folder import CheckpointFolder, fingerprint


@pytest.fixture
def small(monkeypatch):
    """Pieces of 128 bytes, so that short runs have some of each size."""
    monkeypatch.setattr(shared_pieces, "SMALLEST", 128)


@pytest.fixture
def folder(tmp_path, small):
    return CheckpointFolder(tmp_path / "run", keep=2)


def state(n, first=0.0):
    rows = np.random.default_rng(0).normal(size=(n, 3))
    rows[:1] = first
    return {"record": {"steps": Growing(rows), "epochs": Growing([{"epoch": i} for i in range(n)])}, "n": n}


def assert_holds(saved, n, first=0.0):
    expected = state(n, first)["record"]
    assert saved.state["n"] == n and saved.state["record"]["epochs"] == expected["epochs"].rows
    assert np.array_equal(saved.state["record"]["steps"], expected["steps"].rows)


def piece_files(checkpoint):
    return {path.name: path.stat().st_ino for path in checkpoint.glob("*.piece")}


@pytest.mark.parametrize("n", [0, 1, 4, 5, 6, 79, 80, 81, 5000])
@pytest.mark.parametrize("shape", [(), (3,), (0,), (100,)])
def test_what_is_cut_is_joined_to_the_same_bits(tmp_path, small, n, shape):
    name, whole = f"{GROWING}1", torch.rand(n, *shape, dtype=torch.float64)
    left, parts = shared_pieces.cut({name: whole, "weights": whole})
    assert left["weights"] is whole and left[name].nbytes < max(129, whole[:1].nbytes + 1)
    names = shared_pieces.link_or_write(parts, tmp_path, [])
    assert torch.equal(shared_pieces.join(left, names, tmp_path)[name], whole)


def test_what_has_grown_begins_with_the_same_pieces_and_they_stay_few(small):
    def parts(n):
        found = shared_pieces.cut({GROWING: torch.arange(float(n))})[1].get(GROWING, [])
        assert len(found) < 4 * 16
        return found

    assert len(parts(100_000)) == 12 + 3 + 5
    assert parts(100_100)[:18] == parts(100_000)[:18]


def test_a_checkpoint_links_to_the_pieces_of_the_one_before_and_outlives_it(tmp_path, folder):
    folder.keep = 1
    first = piece_files(folder.save(1, state(60)))
    kept = shutil.copytree(folder.path / "checkpoint-00000001", tmp_path / "other" / "checkpoint-00000001")
    second = piece_files(folder.save(2, state(70)))
    assert len(first) > 5 and len(first.items() & second.items()) >= len(first) - 1
    assert_holds(folder.newest(), 70)
    assert [path.name for path in folder.path.glob("checkpoint-*")] == ["checkpoint-00000002"]
    assert_holds(CheckpointFolder(kept.parent).newest(), 60)


def test_all_checkpoints_together_write_each_row_four_times_at_most(folder):
    folder.keep = 100  # so that no number of a file is used again
    written, last = {}, {}
    for number in range(1, 41):
        last = {
            path.stat().st_ino: path.stat().st_size for path in folder.save(number, state(100 * number)).glob("*.piece")
        }
        written |= last
    assert sum(last.values()) < sum(written.values()) < 4 * sum(last.values())


@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone", "linked"])
def test_a_damaged_piece_is_noticed_and_written_anew(folder, damage):
    folder.save(1, state(60))
    path = sorted(folder.save(2, state(61)).glob("*.piece"))[0]
    content = path.read_bytes()
    path.unlink()  # the other checkpoint keeps its own link
    if damage == "truncated":
        path.write_bytes(content[:-1])
    elif damage == "flipped":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "linked":
        path.symlink_to(folder.path / "checkpoint-00000001" / path.name)
    with pytest.warns(UserWarning, match=f"{path.name} is missing or damaged"):
        assert_holds(folder.newest(), 60)
    shutil.rmtree(folder.path / "checkpoint-00000001")
    folder.save(3, state(62))
    assert_holds(folder.newest(), 62)


def test_a_disk_without_hard_links_has_copies(folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError("no links")

    monkeypatch.setattr("os.link", refuse)
    for number in (1, 2):
        folder.save(number, state(60 * number))
    assert_holds(folder.newest(), 120)
    assert all(path.stat().st_nlink == 1 for path in folder.path.rglob("*.piece"))


def test_a_run_that_goes_another_way_takes_no_piece_of_the_first(folder):
    folder.save(1, state(60))
    folder.save(2, state(80))
    folder.save(2, state(80, first=5.0))
    assert_holds(folder.newest(), 80, first=5.0)
    shutil.rmtree(folder.path / "checkpoint-00000002")
    assert_holds(folder.newest(), 60)


def test_pieces_are_of_the_bytes_that_are_named(folder):
    path = folder.save(1, state(60))
    assert all(fingerprint(piece)["sha256"] == piece.stem for piece in path.glob("*.piece"))


@pytest.mark.parametrize(
    "table, match",
    [
        ([], "table of pieces"),
        ({"growing-000000": "x"}, "table of pieces"),
        ({"growing-000000": [3]}, "names a piece '3'"),
        ({"growing-000000": ["../../x.piece"]}, "names a piece '../../x.piece'"),
        ({"growing-000000": [f"{'a' * 64}.piece"]}, "is missing"),
        ({"growing-9": []}, "pieces of the tensor 'growing-9', which is missing"),
        ({"growing-000000": []}, "damaged"),
    ],
)
def test_a_table_of_pieces_that_lies_is_refused(folder, table, match):
    path = folder.save(1, state(60))
    content = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**content, "pieces": table}))
    files = {one.name: fingerprint(one) for one in path.iterdir() if one.name != "manifest.json"}
    (path / "manifest.json").write_text(json.dumps({"format": 2, "number": 1, "files": files}))
    with pytest.raises(CheckpointError, match=match):
        folder.newest()


def test_a_piece_that_does_not_fit_its_tensor_is_refused(folder):
    path = folder.save(1, state(60))
    content = json.loads((path / "state.json").read_text())
    (of_steps, of_epochs) = content["pieces"]
    content["pieces"][of_steps] = content["pieces"][of_epochs][-1:]  # 128 bytes are not rows of 24
    (path / "state.json").write_text(json.dumps(content))
    files = {one.name: fingerprint(one) for one in path.iterdir() if one.name != "manifest.json"}
    (path / "manifest.json").write_text(json.dumps({"format": 2, "number": 1, "files": files}))
    with pytest.raises(CheckpointError, match=f"pieces of the tensor '{of_steps}' are damaged"):
        folder.newest()


class StopAt(Callback):
    """Ends a run after a batch, as a crash in user code would."""

    order = 200
    ignored_arguments = ("step",)

    def __init__(self, step):
        self.step = step

    def after_batch(self, run):
        if run.training and run.global_step == self.step:
            raise InterruptedError


def learner():
    torch.manual_seed(3)
    x, y = torch.rand(60, 2), torch.arange(60) % 2
    return Learner(DataLoaders.from_arrays((x, y), (x[:6], y[:6]), bs=4, seed=2), MLP((2, 3, 2)))


def test_a_run_that_resumes_from_pieces_has_the_whole_record(tmp_path, small):
    whole, stopped, resumed = learner(), learner(), learner()

    with whole.no_logging(), stopped.no_logging(), resumed.no_logging():
        expected = whole.fit(6, 0.1)
        with pytest.raises(InterruptedError):
            stopped.fit(6, 0.1, cbs=StopAt(70), checkpoint=Checkpoint(tmp_path, every_steps=7, keep=3))
        record = resumed.fit(6, 0.1, cbs=StopAt(None), checkpoint=Checkpoint(tmp_path, every_steps=7, keep=3))
    assert len(list(tmp_path.rglob("*.piece"))) > 20
    assert np.array_equal(record.steps, expected.steps) and np.array_equal(record.smoothed, expected.smoothed)
    assert record.history["valid_loss"] == expected.history["valid_loss"]
    assert torch.equal(whole.model[1].weight, resumed.model[1].weight)


class Seen(Callback):
    """Keeps the loss of each batch."""

    growing = ("losses",)
    ignored_arguments = ()

    def before_fit(self, run):
        self.losses = []

    def after_batch(self, run):
        if run.training:
            self.losses.append(float(run.loss.detach()))


def test_callbacks_may_share_what_only_grows(tmp_path, small):
    whole, stopped, resumed = learner(), learner(), learner()
    cbs = [(ActivationStats(with_hist=True), Seen()) for _ in range(3)]
    with whole.no_logging(), stopped.no_logging(), resumed.no_logging():
        whole.fit(6, 0.1, cbs=[*cbs[0], StopAt(None)])
        with pytest.raises(InterruptedError):
            stopped.fit(6, 0.1, cbs=[*cbs[1], StopAt(70)], checkpoint=Checkpoint(tmp_path, every_steps=7, keep=3))
        folders = sorted(tmp_path.rglob("checkpoint-*"))
        resumed.fit(6, 0.1, cbs=[*cbs[2], StopAt(None)], checkpoint=Checkpoint(tmp_path, every_steps=7, keep=3))
        tensors = load_file(sorted(tmp_path.rglob("checkpoint-*"))[0] / "tensors.safetensors")
    assert len(folders) == 3
    assert all(tensor.nbytes < 128 for name, tensor in tensors.items() if name.startswith(GROWING))
    assert np.array_equal(cbs[0][0].hists, cbs[2][0].hists) and cbs[2][0].hists.dtype == np.float32
    assert cbs[0][1].losses == cbs[2][1].losses and len(cbs[2][1].losses) == 6 * 15


@pytest.mark.parametrize("name", ["absent", "n"])
def test_a_callback_must_name_lists_that_its_state_has(tmp_path, name):
    class Odd(Callback):
        growing = (name,)

        def before_fit(self, run):
            self.n = 1

    with (learn := learner()).no_logging(), pytest.raises(TypeError, match=f"Odd.growing must name .* '{name}'"):
        learn.fit(1, 0.1, cbs=Odd(), checkpoint=tmp_path)


@pytest.mark.parametrize("growing", ["losses", True])
def test_what_grows_must_be_a_tuple_of_names(tmp_path, growing):
    odd = type("Odd", (Seen,), {"growing": growing})()
    with (learn := learner()).no_logging(), pytest.raises(TypeError, match="Odd.growing must be a tuple of names"):
        learn.fit(1, 0.1, cbs=odd, checkpoint=tmp_path)
