"""Work in threads gives what one thread gives, and leaves what one thread leaves."""

import copy
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from minilearner import Callback, DataLoaders, LambdaCallback, Learner, accuracy, load_learner
from minilearner.data.item_dataset import ItemDataset
from minilearner.data.item_loader import ItemLoader
from minilearner.runtime import compute_in_threads, map_in_threads
from minilearner.vision.augment import Rotate
from minilearner.vision.lighting import Brightness
from minilearner.vision.resampling import resample


@pytest.mark.parametrize(("n_things", "n_threads"), [(0, 4), (1, 4), (7, 1), (7, 3), (1000, 4)])
def test_results_come_in_the_order_of_the_things(n_things, n_threads):
    assert map_in_threads(lambda i: i * i, range(n_things), n_threads) == [i * i for i in range(n_things)]


def test_as_many_threads_as_asked_work_at_once():
    together = threading.Barrier(3)  # passed only when three are waiting
    assert sorted(map_in_threads(lambda _: together.wait(timeout=20), range(3), 3)) == [0, 1, 2]


def test_one_thread_is_the_caller():
    assert map_in_threads(lambda _: threading.current_thread(), range(3), 1) == [threading.current_thread()] * 3


def test_the_first_error_in_order_is_raised_and_no_more_is_begun():
    begun = []

    def work(i):
        begun.append(i)
        time.sleep(0.2 if i == 1 else 0.01)
        if i in (1, 2):
            raise ValueError(f"thing {i}")

    with pytest.raises(ValueError, match="thing 1"):
        map_in_threads(work, range(400), 2)
    assert len(begun) < 200
    n = len(begun)
    time.sleep(0.05)
    assert len(begun) == n


@pytest.fixture
def two_torch_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def in_child(work):
    """Returns what a forked process returns."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, bytes([work()]))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        got = answer.read()
    os.waitpid(child, 0)
    return got[0]


@pytest.mark.usefixtures("two_torch_threads")
class TestComputeInThreads:
    def test_torch_has_one_processor_in_each_thread_and_as_many_as_before_outside(self):
        together = threading.Barrier(2)

        def work(_):
            together.wait(timeout=20)
            return threading.get_ident(), torch.get_num_threads()

        seen = compute_in_threads(work, range(2))
        assert len({thread for thread, _ in seen} | {threading.get_ident()}) == 3
        assert [n for _, n in seen] == [1, 1]
        assert torch.get_num_threads() == 2
        with ThreadPoolExecutor(1) as new:
            assert new.submit(torch.get_num_threads).result() == 2

    def test_the_first_error_in_order_is_raised_and_no_thread_works_any_more(self):
        working = []

        def work(i):
            working.append(i)
            time.sleep(0.1)
            working.remove(i)
            raise ValueError(f"thing {i}")

        with pytest.raises(ValueError, match="thing 0"):
            compute_in_threads(work, range(20))
        assert not working

    def test_results_may_be_written_into_tensors_of_inference(self):
        with torch.inference_mode():
            x = torch.zeros(20)
            compute_in_threads(lambda i: x[i].fill_(i), range(20))
        assert x.tolist() == list(range(20))

    def test_a_forked_process_has_threads_of_its_own(self):
        compute_in_threads(abs, range(20))
        assert in_child(lambda: sum(compute_in_threads(abs, range(20)))) == 190

    def test_augmented_images_are_the_same_bits_as_in_one_thread(self):
        x = torch.randint(256, (40, 3, 80, 80), dtype=torch.uint8)

        def augment():
            rng = torch.Generator().manual_seed(1)
            return Rotate(p=1).run(x, rng, [Brightness(0.5, p=1)])

        several = augment()
        torch.set_num_threads(1)
        assert torch.equal(several, augment())

    def test_gradients_pass_through_moved_images(self):
        x = torch.rand(40, 1, 80, 80, requires_grad=True)
        resample(x, torch.eye(2, 3).repeat(40, 1, 1), mode="bicubic").sum().backward()
        torch.testing.assert_close(x.grad, torch.ones_like(x))


# Several threads, one learner.


class Branches(nn.Module):
    """Batch norm and dropout, and a forward pass that keeps what it computes, slowly."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.drop, self.last = (
            nn.Linear(4, 8),
            nn.BatchNorm1d(8),
            nn.Dropout(0.5),
            nn.Linear(8, 3),
        )

    def forward(self, x):
        self.kept = self.norm(self.first(x))
        time.sleep(0.0005)
        return self.last(self.drop(self.kept))


def make_learner(model=None, **options):
    torch.manual_seed(0)
    x, y = torch.randn(60, 4), torch.arange(60) % 3
    dls = DataLoaders.from_arrays((x, y), (x[:40] * 3, y[:40]), bs=8, seed=0, device="cpu")
    return Learner(dls, Branches() if model is None else model, device="cpu", metrics=accuracy, **options)


def tensors(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(t, second[name]) for name, t in first.items())


def run_together(*works, times=8):
    """Runs each function repeatedly in a thread of its own; returns their results, and raises their errors."""
    start = threading.Barrier(len(works))

    def repeat(work):
        start.wait(timeout=30)
        return [work() for _ in range(times)]

    with ThreadPoolExecutor(len(works)) as pool:
        return [waiting.result(timeout=120) for waiting in [pool.submit(repeat, work) for work in works]]


QUESTIONS = {
    "predict": lambda learn: learn.predict(torch.ones(4)).probabilities,
    "get_preds": lambda learn: learn.get_preds().preds,
    "validate": lambda learn: torch.tensor(learn.validate()),
    "training set": lambda learn: learn.get_preds(ds_idx=0).preds,
    "batches": lambda learn: torch.cat([batch.preds for batch in learn.predict_batches()]),
    "losses": lambda learn: learn.get_preds(with_loss=True).losses,
}


@pytest.mark.parametrize("is_training", [True, False])
def test_threads_get_the_answers_of_one_thread_and_change_nothing(is_training):
    learn = make_learner()
    learn.model.train(is_training)
    with learn.no_logging():
        alone = {name: ask(learn) for name, ask in QUESTIONS.items()}
        before, rng = tensors(learn.model), torch.get_rng_state()
        answers = run_together(*[lambda ask=ask: ask(learn) for ask in QUESTIONS.values()])
    for name, several in zip(QUESTIONS, answers, strict=True):
        assert all(torch.equal(one, alone[name]) for one in several), name
    assert_same(tensors(learn.model), before)
    assert all(module.training is is_training for module in learn.model.modules())
    assert torch.equal(torch.get_rng_state(), rng)


class Places(nn.Module):
    """A network for images that keeps what it computes, and lets other threads act meanwhile."""

    def __init__(self):
        super().__init__()
        self.body, self.last = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), nn.Linear(4, 3)

    def forward(self, x):
        found = self.body(x)
        self.kept = found.detach()
        time.sleep(0.001)
        return self.last(found.mean((2, 3)))


@pytest.mark.slow
def test_threads_that_look_into_a_model_see_only_their_own_passes(tmp_path):
    torch.manual_seed(0)
    x, y = torch.rand(24, 3, 6, 6), torch.arange(24) % 3
    dls = DataLoaders.from_arrays((x, y), (x, y), bs=8, seed=0, device="cpu")
    learn = Learner(dls, Places(), device="cpu", metrics=accuracy)

    def export(learn):
        path = learn.export(tmp_path / f"{threading.get_ident()}.pt2", format="torch_export")
        return torch.export.load(path).module()(x[:2])

    asks = {
        "predict": lambda learn: learn.predict(x[0]).probabilities,
        "get_preds": lambda learn: learn.get_preds().preds,
        "gradcam": lambda learn: learn.gradcam(x[0]).maps,
        "evidence": lambda learn: learn.evidence([0, 5]).maps,
        "summary": lambda learn: str(learn.summary()),
        "copy": lambda learn: copy.deepcopy(learn).get_preds().preds,
        "export": export,
    }
    with learn.no_logging():
        alone = {name: ask(learn) for name, ask in asks.items()}
        before = tensors(learn.model)
        answers = run_together(*[lambda ask=ask: ask(learn) for ask in asks.values()], times=6)
    for name, several in zip(asks, answers, strict=True):
        for one in several:  # while torch exports in another thread, its kernels may differ in the last bits
            assert one == alone[name] if name == "summary" else torch.allclose(one, alone[name], rtol=0, atol=1e-6), (
                name
            )
    assert_same(tensors(learn.model), before)
    assert not any(module._forward_hooks for module in learn.model.modules())


def test_learners_that_share_a_body_and_a_loader_predict_in_threads():
    body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    x, y = torch.randn(60, 4), torch.arange(60) % 3
    dls = DataLoaders(DataLoader(TensorDataset(x, y), bs := 8), DataLoader(TensorDataset(x, y), bs), device="cpu")
    learners = [Learner(dls, nn.Sequential(body, nn.Linear(8, 3)), nn.CrossEntropyLoss(), device="cpu") for _ in "ab"]
    alone = [learn.get_preds().preds for learn in learners]
    before = tensors(body)
    answers = run_together(*[lambda learn=learn: learn.get_preds().preds for learn in learners], times=20)
    for several, expected in zip(answers, alone, strict=True):
        assert all(torch.equal(one, expected) for one in several)
    assert_same(tensors(body), before)
    assert all(module.training for module in body.modules())


def test_a_loaded_learner_is_in_evaluation_mode_and_answers_threads(tmp_path):
    learn = make_learner(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)))
    loaded = load_learner(learn.export(tmp_path / "x.safetensors"), copy.deepcopy(learn.model), device="cpu")
    assert not any(module.training for module in loaded.model.modules())
    expected, before = learn.predict(torch.ones(4)).probabilities, tensors(loaded.model)
    answers = run_together(*[lambda: loaded.predict(torch.ones(4)).probabilities] * 3)
    assert all(torch.equal(one, expected) for several in answers for one in several)
    assert_same(tensors(loaded.model), before)


class Asks(Callback):
    """Asks other threads, and its own, in the middle of a training."""

    def __init__(self, learn, elsewhere):
        self.learn, self.elsewhere, self.errors, self.own = learn, elsewhere, [], []

    def after_batch(self, run):
        if run.training and run.iter == 3:
            with ThreadPoolExecutor(1) as pool:
                self.errors.append(pool.submit(self.elsewhere, self.learn).exception(timeout=60))
            self.own.append(self.learn.get_preds().preds)
            self.learn.validate()
            run.predict(run.dls.valid)


@pytest.mark.parametrize(
    "ask",
    [
        *QUESTIONS.values(),
        *(Learner.tta, Learner.summary, Learner.calibrate, Learner.check, Learner.profile, Learner.lr_find),
        lambda learn: learn.fit(1),
        lambda learn: learn.gradcam(torch.ones(4)),
        lambda learn: learn.evidence([0]),
        lambda learn: learn.export("never.safetensors"),
        lambda learn: learn.export("never.onnx", format="onnx"),
        copy.deepcopy,
    ],
)
def test_a_learner_in_training_is_refused_to_other_threads_and_trains_to_the_same_weights(ask):
    plain, asked = make_learner(), make_learner()
    callback = Asks(asked, ask)
    for learn, cbs in ((plain, None), (asked, callback)):
        torch.manual_seed(1)
        with learn.no_logging():
            learn.fit(2, 0.1, cbs=cbs)
    assert len(callback.errors) == len(callback.own) == 2
    assert all("being trained in another thread" in str(error) for error in callback.errors)
    assert_same(tensors(asked.model), tensors(plain.model))
    asked.predict(torch.ones(4))


@pytest.mark.parametrize("change", ["save", "load", "unfreeze", "freeze_to", "to_fp32", "to_bf16", "to_channelslast"])
def test_the_model_of_a_training_is_neither_saved_nor_changed_by_other_threads(change, tmp_path):
    plain, asked = make_learner(path=tmp_path), make_learner(path=tmp_path)
    plain.save("before", with_opt=False)
    arguments = {"save": ("during",), "load": ("before", False), "freeze_to": (0,)}.get(change, ())
    callback = Asks(asked, lambda learn: getattr(learn, change)(*arguments))
    for learn, cbs in ((plain, None), (asked, callback)):
        torch.manual_seed(1)
        with learn.no_logging():
            learn.fit(2, 0.1, cbs=cbs)
    assert all("being trained in another thread" in str(error) for error in callback.errors)
    assert_same(tensors(asked.model), tensors(plain.model))
    assert not (tmp_path / "during.safetensors").exists()
    getattr(asked, change)(*(("before",) if change == "save" else arguments))


def test_a_callback_saves_and_loads_in_the_thread_of_the_training(tmp_path):
    learn = make_learner(path=tmp_path)
    with learn.no_logging():
        learn.fit(1, 0.1, cbs=LambdaCallback(after_train=lambda run: learn.load(learn.save("now"))))
    saved = {
        name: t for name, t in load_file(tmp_path / "now.safetensors").items() if not name.startswith("optimizer/")
    }
    assert_same(tensors(learn.model), saved)


def test_two_threads_do_not_train_on_the_same_loaders_at_once():
    first, alone = make_learner(), make_learner()
    second = Learner(first.dls, Branches(), device="cpu")
    errors = []

    def train_elsewhere(run):
        if run.training and run.iter == 3:
            with ThreadPoolExecutor(1) as pool:
                errors.append(pool.submit(second.fit, 1).exception(timeout=60))

    for learn, cbs in ((alone, None), (first, LambdaCallback(after_batch=train_elsewhere))):
        torch.manual_seed(1)
        with learn.no_logging():
            learn.fit(2, 0.1, cbs=cbs)
    assert len(errors) == 2 and all("another thread trains on these loaders" in str(error) for error in errors)
    assert_same(tensors(first.model), tensors(alone.model))
    with second.no_logging():
        second.fit(1, 0.1)


def test_a_training_waits_for_predictions_that_have_begun():
    learn, expected = make_learner(), make_learner()
    before = expected.get_preds(ds_idx=0).preds
    with learn.no_logging(), expected.no_logging(), ThreadPoolExecutor(1) as pool:
        predicting = threading.Event()
        learn.model.norm.register_forward_pre_hook(lambda *_: predicting.set())
        waiting = pool.submit(learn.get_preds, 0)
        assert predicting.wait(timeout=30)
        torch.manual_seed(1)
        learn.fit(1, 0.1)
        assert torch.equal(waiting.result(timeout=30).preds, before)
        torch.manual_seed(1)
        expected.fit(1, 0.1)
    assert_same(tensors(learn.model), tensors(expected.model))


@pytest.mark.parametrize("begin", ["save", "export", "copy"])
def test_a_training_waits_for_a_copy_of_the_weights_that_has_begun(begin, tmp_path):
    learn, inside, go_on = make_learner(path=tmp_path), threading.Event(), threading.Event()
    before, was_done = tensors(learn.model), []

    class Slow(nn.Linear):
        def __deepcopy__(self, memo):
            return self.wait(self.__class__(8, 3))

        def state_dict(self, *args, **kwargs):
            return self.wait(super().state_dict(*args, **kwargs))

        def wait(self, result):
            inside.set()
            go_on.wait(timeout=0.3)
            return result

    learn.model.last.__class__ = Slow
    copies = {
        "save": lambda: learn.save("w", with_opt=False),
        "export": lambda: learn.export("e.safetensors"),
        "copy": lambda: copy.deepcopy(learn),
    }
    with learn.no_logging(), ThreadPoolExecutor(1) as pool:
        copied = pool.submit(copies[begin])
        assert inside.wait(timeout=30)
        learn.fit(1, 0.1, cbs=LambdaCallback(before_batch=lambda run: was_done.append(copied.done())))
    assert was_done[0]
    if begin == "save":
        assert_same(load_file(tmp_path / "w.safetensors"), before)


def test_another_learner_predicts_meanwhile_and_the_training_draws_the_same_numbers():
    x, y = torch.randn(60, 4), torch.arange(60) % 3
    alone, beside, other = make_learner(), make_learner(), make_learner()

    class Meanwhile(Callback):
        def after_batch(self, run):
            with ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(other.get_preds, dl=DataLoader(TensorDataset(x, y), 4))
                torch.rand(3)  # as dropout does
                waiting.result(timeout=60)

    class Draws(Callback):
        def after_batch(self, run):
            torch.rand(3)

    for learn, cbs in ((alone, Draws()), (beside, Meanwhile())):
        torch.manual_seed(1)
        with learn.no_logging(), other.no_logging():
            learn.fit(2, 0.1, cbs=cbs)
    assert_same(tensors(beside.model), tensors(alone.model))


def test_between_two_batches_one_may_train_draw_and_take_them_in_another_thread():
    learn = make_learner()
    expected = [batch.preds for batch in learn.predict_batches(with_loss=False)]
    batches = learn.predict_batches(with_loss=False)
    first = next(batches)
    assert learn.model.training and torch.is_grad_enabled()
    rng = torch.get_rng_state()
    with ThreadPoolExecutor(1) as pool:
        rest = pool.submit(list, batches).result(timeout=60)
    assert torch.equal(torch.get_rng_state(), rng) and learn.model.training
    assert all(torch.equal(a.preds, b) for a, b in zip([first, *rest], expected, strict=True))
    assert not any(batch.preds.requires_grad for batch in rest)
    unfinished = learn.predict_batches()
    next(unfinished)
    with learn.no_logging():
        learn.fit(1, 0.1)
        before = tensors(learn.model)
        list(unfinished)
    assert_same(tensors(learn.model), before)


def test_a_validation_in_each_thread_counts_its_own_metrics():
    learn = make_learner()
    with learn.no_logging():
        expected = [learn.validate(ds_idx) for ds_idx in (0, 1)]
        answers = run_together(lambda: learn.validate(0), lambda: learn.validate(1), times=10)
    assert answers == [[one] * 10 for one in expected]


class Seen:
    """A reader that must not run in two threads at once."""

    inside = 0

    def __call__(self, item):
        assert Seen.inside == 0
        Seen.inside += 1
        time.sleep(0.002)
        Seen.inside -= 1
        return torch.full((4,), float(item))


def test_a_reader_that_allows_one_thread_gets_one():
    train = ItemLoader(ItemDataset(list(range(8)), Seen(), cache=False), torch.arange(8) % 3, bs=4, num_workers=0)
    learn = Learner(DataLoaders(train, device="cpu"), Branches(), nn.CrossEntropyLoss(), device="cpu")
    alone = learn.predict(3).probabilities
    answers = run_together(*[lambda: learn.predict(3).probabilities] * 3)
    assert all(torch.equal(one, alone) for several in answers for one in several)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_threads_that_it_does_not_have():
    learn, inside, go_on = make_learner(), threading.Event(), threading.Event()

    def stay(*_):
        inside.set()
        go_on.wait(timeout=30)

    hook = learn.model.norm.register_forward_pre_hook(stay)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(learn.predict, torch.ones(4))
        assert inside.wait(timeout=30)
        pid = os.fork()
        if pid == 0:
            hook.remove()
            signal.alarm(20)
            learn.predict(torch.ones(4))
            os._exit(7)
        go_on.set()
        waiting.result(timeout=30)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
