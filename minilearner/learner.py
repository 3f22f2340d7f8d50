"""`Learner`: one object that holds data, model, loss, optimizer and callbacks, and all that one does with them.

Each method gathers its parts, calls one function of a lower package, and returns what comes back. Here it is made, made
again and examined. Its bases hold the rest:

    LearnerTraining     fit, fit_one_cycle, fine_tune, lr_find, freeze, precompute
    LearnerPredictions  validate, get_preds, predict, tta, gradcam, show_results
    LearnerSaving       save, load, export
    LearnerRuns         what these three work with: a step, a run, a predictor
    LearnerCallbacks    add_cb, remove_cb, no_bar
    LearnerParts        dls, loss_func, metrics, opt_func, path, to_fp16
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn
from torch.utils.data import Dataset
from typing_extensions import TypeVar

from minilearner.callbacks.bn_freeze import BnFreeze
from minilearner.callbacks.loggers import Loggers, as_loggers
from minilearner.callbacks.progress import Output
from minilearner.checks import check_count, check_moms, check_not_negative, check_rate
from minilearner.copies import copy_apart
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.folds import ItemPool, choose_folds
from minilearner.keywords import suggest_keywords
from minilearner.learner_predictions import LearnerPredictions
from minilearner.learner_saving import LearnerSaving
from minilearner.learner_training import LearnerTraining
from minilearner.lr_finder.result import LRSweep
from minilearner.models.groups import Splitter
from minilearner.results.predictions import Predictions
from minilearner.results.recorder import Recorder
from minilearner.results.training_facts import TrainingFacts
from minilearner.runtime import read_device
from minilearner.threads import train
from minilearner.training import optimizers
from minilearner.training.auto_precision import check_precision
from minilearner.training.callback import Callbacks, as_callbacks
from minilearner.training.compiler import Compile, resolve_compile
from minilearner.training.distributed import StrategyChoice as Strategy
from minilearner.training.distributed import resolve_strategy
from minilearner.training.facts import describe_training
from minilearner.training.optimizers import OptimizerFactory, Rate
from minilearner.training.precompute import Features
from minilearner.training.preflight import Preflight, check_parts, seed_after_model
from minilearner.training.step import LossFunction

if TYPE_CHECKING:  # the star import stays quick without what few notebooks call
    from minilearner.checkup.findings import Checkup
    from minilearner.data.splits import Splitter as ItemSplitter
    from minilearner.fitting.profile import StepProfile
    from minilearner.models.summary import ModelSummary
    from minilearner.results.score_table import ScoreTable

__all__ = ["Learner"]

_Label = TypeVar("_Label", default=Any)


class Batches(Protocol):
    """What a learner takes in place of a `DataLoaders`: one loader, or a pair of them."""

    def __len__(self) -> int:
        """Returns the number of batches, or of loaders."""

    def __iter__(self) -> Iterator[Any]:
        """Starts a pass."""


@suggest_keywords
class Learner(LearnerTraining[_Label], LearnerPredictions[_Label], LearnerSaving[_Label]):
    """Bundles data, a model and how to train it.

    Example::

        learn = Learner(fashion_mnist(), MiniGoogLeNet(10), metrics=accuracy)
        learn.fit_one_cycle(3, lr_max=learn.lr_find(suggest_funcs=minimum).minimum)

    Args:
        dls: a `DataLoaders`, a pair of loaders `(train, valid)`, or one loader to train on.
        model: any module. It is moved to the device.
        loss_func: `(pred, target) -> mean loss`. None takes the default loss for the kind of target. The parameters of
            a module are trained, saved and loaded with the model.
        opt_func: called as `opt_func(parameter_groups, lr=...)`: any torch optimizer class or partial. None is AdamW
            with betas (0.9, 0.99), eps 1e-5 and weight decay 0.01, which spares norm layers and biases.
        lr: the rate for calls that give none: a number, a list with one for each layer group, a slice, or "auto".
        splitter: divides the model's parameters into layer groups, from input to output. One group by default, of which
            `freeze` cannot freeze a part.
        cbs: callbacks for every run of this learner.
        metrics: functions `(pred, target)`, averaged over items, or objects with reset, update and compute: one,
            several in a list, or a dictionary with their names.
        wd: weight decay in place of the optimizer's own.
        wd_bn_bias: whether `wd` also applies to norm layers and biases.
        train_bn: whether norm layers keep learning in frozen layer groups.
        moms: momentum of `fit_one_cycle` at its start, peak and end, each in [0, 1).
        path: the folder for this learner's files. The loaders' path by default.
        model_dir: the folder for `save` and `load`, in `path` or anywhere. `path` itself by default; in fastai it is
            "models".
        precision: "fp32", "bf16", "fp16", or "auto", which takes what is fast here. On a CPU it times a small step. It
            takes bf16 only if that is 1.2 times as fast as fp32, and channels_last if that makes convolutions faster.
            On a GPU it goes by the compute capability. `summary` and the record say what it chose and why. A resumed
            run keeps its choice. "bf16" and "fp16" use channels_last, and "fp32" keeps the model's layout.
        device: the GPU by default if there is one.
        seed: seeds the four global random generators now, if given. The model was built before, so its random weights
            repeat only if you call `set_seed` before you build it.
        strategy: how the processes that torchrun started train together. "auto" is "ddp". See `training.distributed`.
        compile: trains and validates through `torch.compile`: True, a mode such as "reduce-overhead", or its arguments.
        loggers: where every run is logged: "csv", "jsonl", "tensorboard", "wandb", "mlflow", or a logger object; one or
            several in a list. "csv" and "jsonl" write "history.csv" and "history.jsonl" in `path`.

    Several learners may have the same loaders. Each trains as if it were alone: its first epoch has the order and the
    augmentation of the first epoch.

    Attributes:
        recorder: all runs of this learner. It is never wiped.
        optimizer: None until the first run. Then it keeps its state until layers are frozen or unfrozen.
    """

    def __init__(
        self,
        dls: DataLoaders[_Label] | Batches | Dataset[Any],
        model: nn.Module,
        loss_func: LossFunction | None = None,
        opt_func: OptimizerFactory | None = None,
        lr: Rate = 1e-3,
        splitter: Splitter | None = None,
        cbs: Callbacks = None,
        metrics: Any = None,
        *,
        wd: float | None = None,
        wd_bn_bias: bool = False,
        train_bn: bool = True,
        moms: tuple[float, float, float] = (0.95, 0.85, 0.95),
        path: str | Path | None = None,
        model_dir: str | Path = ".",
        precision: str = "fp32",
        device: str | torch.device | None = None,
        seed: int | None = None,
        strategy: Strategy = "auto",
        compile: Compile = False,
        loggers: Loggers = None,
    ):
        check_parts(model, loss_func)
        optimizers.check_factory(opt_func)
        check_rate(lr, "lr", auto=True)
        check_moms(moms)
        check_precision(precision)
        if wd is not None:
            check_not_negative(wd, "wd")
        if seed is not None:
            seed_after_model(seed)
        self.device = read_device(device)
        self.strategy = resolve_strategy(strategy)
        self._compiler = resolve_compile(compile, is_alone=self.strategy is None)
        self.model = model
        self._assign(dls=dls)
        self.model = model.to(self.device)
        self._set_precision(precision)
        self.lr, self.wd_bn_bias, self.train_bn, self.moms = lr, wd_bn_bias, train_bn, moms
        self._assign(loss_func=loss_func, opt_func=opt_func, splitter=splitter, wd=wd, metrics=metrics)
        self._assign(path=path or self.dls.path, model_dir=model_dir)
        self.seed = seed
        self.recorder, self._preflight, self._features, self._output = Recorder(), Preflight(), Features(), Output()
        self._written = set()
        self.cbs, self._named_loggers = [], {}
        self.add_cb([*as_callbacks(cbs), *as_loggers(loggers, self._named_loggers)])
        self._view.announce_creation(self.cbs)

    def cross_val_preds(
        self,
        k: int = 5,
        n_epoch: int = 5,
        *,
        fit: Callable[[Learner], Any] | None = None,
        make_learner: Callable[[Any], Learner] | None = None,
        ds_idx: int | None = None,
        seed: int = 0,
    ) -> Predictions:
        """Returns predictions of each item by a model that has not seen it, as label errors need: k fits, k folds.

        Example::

            interp = ClassificationInterpretation.from_predictions(learn.cross_val_preds())
            interp.label_errors().to_csv("review.csv")

        A model that was trained on an item has learnt its wrong label by heart. So each fold needs a new model, with
        the weights from before the first training. A learner of `vision_learner` is made again with its arguments. Any
        other learner is copied, which it must be before it is trained. This learner's own weights stay as they are.
        Of its callbacks, those that are part of the step act in the fits, such as `MixUp`.

        Args:
            k: the number of folds. Each model trains on (k - 1) / k of the items.
            n_epoch: epochs of each fit.
            fit: trains a new learner, in place of `fine_tune(n_epoch)` if a part of it is frozen, or else
                `fit_one_cycle(n_epoch)`.
            make_learner: returns a new learner of the loaders that it gets. Its weights must not have seen the items.
            ds_idx: 0 for the items of the training set, 1 for those of the validation set, None for both.
            seed: decides the folds, and all that is random in each fit.

        Raises:
            ValueError: an argument is out of range, or this learner was trained and cannot be made again.
            DataError: the items cannot be read by their position.
        """
        from minilearner.fitting.cross_validation import predict_folds  # the star import does without it

        check_count(seed, "seed", least=0)
        check_count(k, "k", least=2)
        how = self._plan_fits("cross_val_preds", make_learner, fit, n_epoch)
        pool = ItemPool(self.dls, ds_idx)
        return predict_folds(pool, choose_folds(pool, k, None, seed), *how, seed=seed, output=self._output)

    def cross_validate(
        self,
        k: int | None = None,
        n_epoch: int = 5,
        *,
        splitter: ItemSplitter | None = None,
        fit: Callable[[Learner], Any] | None = None,
        make_learner: Callable[[Any], Learner] | None = None,
        ds_idx: int | None = None,
        seed: int = 0,
    ) -> ScoreTable:
        """Returns the loss and the metrics of k fits, each on the fold that it has not seen, with mean and interval.

        Example::

            scores = learn.cross_validate(5, n_epoch=3)
            scores.mean["accuracy"], scores.interval["accuracy"]
            learn.cross_validate(splitter=GroupSplitter(ColReader("patient")))

        This learner stays as it is. New ones are made as in `cross_val_preds`.

        Args:
            k: the number of folds; 5 by default, or as many as the splitter makes. Each fold has the same share of each
                class.
            n_epoch: epochs of each fit.
            splitter: makes the folds. A `GroupSplitter` says which items stay together; its `valid_pct` does not count,
                since k decides the share. `SplitterFrom(StratifiedGroupKFold(5), get_group=...)` takes all folds of a
                scikit-learn splitter. For arrays and torch datasets, `get_group` gets the number of the item, counted
                over the training set and then the validation set.
            fit, make_learner, ds_idx, seed: as in `cross_val_preds`.

        Raises:
            TypeError: the splitter makes no folds.
            ValueError: an argument is out of range, or this learner was trained and cannot be made again.
            DataError: the items cannot be read by their position, or the splitter cannot split them.
        """
        from minilearner.fitting.cross_validation import score_folds  # the star import does without it

        check_count(seed, "seed", least=0)
        how = self._plan_fits("cross_validate", make_learner, fit, n_epoch)
        pool = ItemPool(self.dls, ds_idx)
        return score_folds(pool, choose_folds(pool, k, splitter, seed), *how, seed=seed, output=self._output)

    def repeat(
        self,
        seeds: int | Iterable[int] = 3,
        n_epoch: int = 5,
        *,
        fit: Callable[[Learner], Any] | None = None,
        make_learner: Callable[[Any], Learner] | None = None,
    ) -> ScoreTable:
        """Returns the loss and the metrics of one fit for each seed, with mean and interval.

        Example::

            print(learn.repeat(seeds=[0, 1, 2], n_epoch=3))
            learn.repeat(5, make_learner=lambda dls: Learner(dls, MiniGoogLeNet(10), metrics=accuracy))

        The seed decides the order of the training items, augmentation and dropout, and the new weights that
        `make_learner` or the arguments of `vision_learner` draw. Any other learner is copied, with its weights; a line
        says so. The sets stay the same, and this learner stays as it is.

        Args:
            seeds: the seeds, or how many: 3 stands for 0, 1 and 2.
            n_epoch: epochs of each fit.
            fit, make_learner: as in `cross_val_preds`.

        Raises:
            ValueError: an argument is out of range, a seed comes twice, there is no validation set, or this learner was
                trained and cannot be made again.
        """
        from minilearner.fitting.cross_validation import score_seeds  # the star import does without it

        every = _list_seeds(seeds)
        if self.dls.valid is None:
            raise ValueError("`repeat` needs a validation set, which scores each fit. `dls.valid` is None.")
        how = self._plan_fits("repeat", make_learner, fit, n_epoch)
        if make_learner is None and self._recipe is None:
            self._output.note(
                "learn.repeat: each fit begins with this learner's weights, so the seeds decide only what is random in "
                "training. Give make_learner=lambda dls: Learner(dls, ...) to draw the first weights anew."
            )
        return score_seeds(self.dls, every, *how, output=self._output)

    def check(self, lr: Rate | None = None) -> Checkup:
        """Looks in seconds for what makes training fail or go badly, puts everything back, and returns the findings.

        Each finding has a `severity` ("error", "warning" or "note"), a `message` and the way out, `advice`. The result
        shows itself, `ok` says if there is nothing worse than a note, and `to_dict` returns it as data.

        It looks at the first batch, the labels and their balance, the order of the items, what is left out, the same
        items in training and validation, the metrics, the size of the last batch if there is batch norm, the scale of
        the inputs, the loss at the start, the gradients, whether a few items can be learnt by heart, and the rate.

        Args:
            lr: the rate to compare with the latest sweep; `learn.lr` by default.
        """
        from minilearner.checkup.examination import examine  # the star import does without it

        if lr is not None:
            check_rate(lr, "lr", auto=True)
        callbacks = [*([] if self.train_bn else [BnFreeze()]), *self.cbs]
        sweep = self.recorder.sweep
        with train(self.model, [self.dls.train]):
            return examine(
                partial(self._step, None),
                self.dls,
                self.metrics,
                callbacks,
                rate=self.lr if lr is None else lr,
                sweep=sweep if isinstance(sweep, LRSweep) else None,
            )

    def profile(self, n_steps: int = 20) -> StepProfile:
        """Trains for `n_steps` steps, puts everything back, and returns a table of where the time went."""
        from minilearner.fitting.profile import profile_steps  # the star import does without it

        check_count(n_steps, "n_steps")
        with train(self.model, [self.dls.train]):
            context = self._context()
            return profile_steps(context.new_run(), context.callbacks, context.metrics, n_steps=n_steps)

    def summary(self) -> ModelSummary:
        """Returns a table of the model's layers, output shapes and parameters, and of how it is trained."""
        from minilearner.models.summary import summarize  # the star import does without it

        settings = self._run(self._optimizer()).settings(self.cbs)
        return summarize(self.model, self.dls.loader(0).first_batch()[0], settings)

    def training_facts(self) -> TrainingFacts:
        """Returns the settings, the sets and the record, as the page of `interp.report` shows them."""
        return describe_training(self._run(self._optimizer()), self.recorder, self.cbs)

    def _plan_fits(
        self,
        name: str,
        make_learner: Callable[[Any], Learner] | None,
        fit: Callable[[Learner], Any] | None,
        n_epoch: int,
    ) -> tuple[Callable[[DataLoaders], Learner], Callable[[Learner], Any]]:
        """Returns what makes a new learner, and what trains it, for the method of this name."""
        from minilearner.fitting.cross_validation import fit_briefly  # the star import does without it

        check_count(n_epoch, "n_epoch")
        for argument, given in (("fit", fit), ("make_learner", make_learner)):
            if given is not None and not callable(given):
                raise TypeError(f"`{argument}` must be a function. Received: {argument}={given!r:.80}.")
        return make_learner or self._plan_remake(name), fit or partial(fit_briefly, n_epoch=n_epoch)

    def _plan_remake(self, name: str) -> Callable[[DataLoaders], Learner]:
        """Returns a function that makes a learner of other loaders, like this one before its first training.

        Raises:
            ValueError: this learner was trained, and how it was made is unknown.
        """
        if self._recipe is None and self._has_learnt:
            raise ValueError(
                "`make_learner` is needed, since this learner was trained and a copy of it has seen the items. Call "
                f"`{name}` before the first training, or give make_learner=lambda dls: Learner(dls, ...)."
            )
        return self._make_again

    def _make_again(self, dls: DataLoaders) -> Learner:
        if self._recipe is None:
            model, loss_func = (copy_apart(part) for part in (self.model, self.loss_func))
            learner = Learner(dls, model, loss_func, splitter=self.splitter, wd_bn_bias=self.wd_bn_bias)
            learner.train_bn = self.train_bn
        else:
            learner = self._recipe(dls)
        learner.opt_func, learner.lr, learner.wd, learner.moms = self.opt_func, self.lr, self.wd, self.moms
        learner.metrics = self.metrics
        learner._set_precision(self.precision)
        return learner.add_cb([copy_apart(callback) for callback in self.cbs if callback.part_of_step])


def _list_seeds(seeds: int | Iterable[int]) -> list[int]:
    """Returns the seeds, each once.

    Raises:
        TypeError, ValueError: one is not a whole number of at least 0, one comes twice, or there is none.
    """
    if not isinstance(seeds, Iterable):
        check_count(seeds, "seeds")
        return list(range(seeds))
    every = list(seeds)
    for seed in every:
        check_count(seed, "seeds", least=0)
    if not every or len(set(every)) < len(every):
        raise ValueError(f"`seeds` must name each seed once, and at least one. Received: seeds={every!r:.80}.")
    return [int(seed) for seed in every]
