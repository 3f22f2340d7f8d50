"""Words that people bring from fastai, Keras, Lightning and torch-lr-finder, and what to write here instead.

This module owns the tables. `keywords` reads them when an argument is unknown, `Learner` when an attribute is, and
`refused_imports` when a module or a name is. Nothing here is read unless something is missing.
"""

from __future__ import annotations

from collections.abc import Mapping

from minilearner.errors import closest

__all__ = ["DEVICES_ELSEWHERE", "PRECISIONS_ELSEWHERE", "SYNONYMS", "advise", "explain_lack"]

SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "batch_size": ("bs",),
    "batchsize": ("bs",),
    "callbacks": ("cbs",),
    "criterion": ("loss_func",),
    "epochs": ("n_epoch",),
    "filename": ("path", "fname", "file"),
    "filepath": ("path", "fname", "file"),
    "fname": ("path", "file"),
    "learning_rate": ("lr", "lr_max", "base_lr"),
    "loss": ("loss_func",),
    "loss_fn": ("loss_func",),
    "max_epochs": ("n_epoch", "epochs"),
    "max_lr": ("lr_max", "end_lr"),
    "min_lr": ("start_lr",),
    "momentum": ("mom",),
    "n_epochs": ("n_epoch", "epochs"),
    "n_workers": ("num_workers",),
    "nb_epoch": ("n_epoch", "epochs"),
    "num_epochs": ("n_epoch", "epochs"),
    "num_iter": ("num_it",),
    "num_training": ("num_it",),
    "optimizer": ("opt_func",),
    "pattern": ("pat",),
    "random_state": ("seed",),
    "regex": ("pat",),
    "restore_best_weights": ("restore",),
    "shuffle_train": ("shuffle",),
    "tfms": ("item_tfms", "batch_tfms"),
    "transform": ("item_tfms", "batch_tfms"),
    "transforms": ("item_tfms", "batch_tfms"),
    "val_batch_size": ("val_bs",),
    "val_pct": ("valid_pct",),
    "validation_split": ("valid_pct",),
    "weight_decay": ("wd",),
    "workers": ("num_workers",),
}
"""What other libraries call an argument, and what fastai and minilearner call it. Spelling alone would mislead."""

_DATA = "The data belong to the learner's loaders: DataLoaders.from_arrays((x, y), (valid_x, valid_y), bs=64)."
_EPOCHS = "The number of epochs goes to `fit`, `fit_one_cycle` or `fine_tune`."
_WATCHED = "Stopping early is a callback: cbs=EarlyStopping('valid_loss', patience=3)."
_DEVICES = (
    'The GPU is used if there is one; device="cpu" or "cuda:1" chooses. For several, start the script by torchrun.'
)
_ACCUMULATE = "Accumulating gradients is a callback: cbs=GradientAccumulation(n_batches=4)."
_CLIP = "Clipping gradients is a callback: cbs=GradientClip(1.0)."
_LOG = "Logging is a callback: cbs=CSVLogger('history.csv')."
_QUIET = "Write less by `with learn.no_bar():` or `with learn.no_logging():` around the call."
_SAVED = "To save and to resume a run, give `fit` a folder: checkpoint='runs/1'."

_ADVICE_ON_ARGUMENTS: Mapping[str, str] = {
    "accelerator": _DEVICES,
    "accumulate_grad_batches": _ACCUMULATE,
    "callback_fns": "Callbacks are objects: cbs=[EarlyStopping(), ...].",
    "check_val_every_n_epoch": "To validate more often, use the callback `Validate`: cbs=Validate(every_epochs=5).",
    "class_weight": "Classes are weighted by the loss: loss_func=nn.CrossEntropyLoss(weight=weights).",
    "default_root_dir": "The folder of a learner's files is its `path`.",
    "devices": _DEVICES,
    "enable_checkpointing": _SAVED,
    "enable_progress_bar": _QUIET,
    "gpus": _DEVICES,
    "grad_clip": _CLIP,
    "gradient_accumulation_steps": _ACCUMULATE,
    "gradient_clip_val": _CLIP,
    "initial_epoch": "To skip epochs, use start_epoch=. To go on with a run, give it a folder: checkpoint='runs/1'.",
    "logger": _LOG,
    "lr_scheduler": "torch's schedulers go into a callback: cbs=TorchScheduler(lambda opt: StepLR(opt, 10)).",
    "max_epochs": _EPOCHS,
    "max_steps": "Training lasts for whole epochs: fit(n_epoch).",
    "min_epochs": _WATCHED,
    "mode": "Whether more is better follows from the name of what is monitored; comp=np.greater says it, too.",
    "monitor": _WATCHED,
    "n_epoch": _EPOCHS,
    "nb_epoch": _EPOCHS,
    "num_epochs": _EPOCHS,
    "patience": _WATCHED,
    "reduce_lr_on_plateau": "It is a callback: cbs=ReduceLROnPlateau('valid_loss').",
    "restore_best_weights": "The best weights come back by another callback: cbs=[EarlyStopping(), SaveBest()].",
    "resume_from_checkpoint": _SAVED,
    "ckpt_path": _SAVED,
    "run_eagerly": "The model runs as it is, unless the learner has compile=True.",
    "sample_weight": "To draw items by weight, use `weighted_dataloaders`. To weigh losses, write a loss of your own.",
    "save_best_only": "The best weights are kept by a callback: cbs=SaveBest('valid_loss', path='best.safetensors').",
    "save_preds": "`get_preds` returns the predictions, and `predict_batches` yields them batch by batch.",
    "steps_per_epoch": "An epoch is one pass over the training loader.",
    "suggestions": "Suggestions are functions: suggest_funcs=(minimum, steep, valley).",
    "train_dataloaders": _DATA,
    "val_dataloaders": _DATA,
    "validation_data": _DATA,
    "val_loader": _DATA,
    "train_loader": _DATA,
    "validation_steps": "A validation is one pass over the validation loader.",
    "verbose": _QUIET,
    "batch_size": "The size of a batch belongs to the loaders: DataLoaders.from_arrays(..., bs=64).",
}
"""What to write in place of an argument of another library that no argument here replaces."""

PRECISIONS_ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(("16", "16-mixed", "16-true", "amp", "float16", "half", "mixed", "mixed_float16"), "fp16"),
    **dict.fromkeys(("bf16-mixed", "bf16-true", "bfloat16", "mixed_bfloat16", "torch.bfloat16"), "bf16"),
    **dict.fromkeys(("32", "32-true", "float", "float32", "full", "torch.float32"), "fp32"),
    "torch.float16": "fp16",
}
"""What Lightning, Keras and torch call a precision, and its name here."""

DEVICES_ELSEWHERE: Mapping[str, str] = {"cpu": "cpu", "gpu": "cuda", "tpu": "xla"}
"""What other libraries call a kind of device, and torch's name."""

_TO_DEVICE = 'The learner moves its model to the device itself. Choose it when you make the learner: device="cuda".'
_OF_MODEL = "The module is `learn.model`."
_IN_CALLBACK = (
    "Batches pass through callbacks only: write a `Callback`, which sees `run.x`, `run.y`, `run.pred` and `run.loss`."
)
_MODES = "Training and predicting set the model's mode themselves. The module is `learn.model`."
_PARTS = "Give loss_func=, opt_func= and metrics= to `Learner`, or assign them: learn.metrics = accuracy."
_DISTRIBUTED = "Start the script by torchrun: the learner then trains with all processes; see `strategy=`."

_ADVICE_ON_LEARNER: Mapping[str, str] = {
    "activation_stats": "Collect statistics with a callback: stats = ActivationStats(); learn.fit(1, cbs=stats).",
    "add_callback": "Write learn.add_cb(callback).",
    "callbacks": "Callbacks are in `learn.cbs`.",
    "compile": f"{_PARTS} For torch.compile, write Learner(..., compile=True).",
    "configure_optimizers": "Give the optimizer to the learner: opt_func=partial(torch.optim.SGD, momentum=0.9).",
    "cpu": _TO_DEVICE,
    "criterion": "The loss is `learn.loss_func`.",
    "cuda": _TO_DEVICE,
    "data": "The loaders are `learn.dls`.",
    "distrib_ctx": _DISTRIBUTED,
    "epoch": _IN_CALLBACK,
    "epochs": "The rows of all epochs are in `learn.recorder.epochs`.",
    "eval": _MODES,
    "evaluate": "`learn.validate()` returns the loss and the metrics.",
    "final_record": "The newest values are in `learn.recorder.values[-1]`.",
    "fit_generator": "`learn.fit(n_epoch)` trains on the learner's loaders.",
    "grab_cbs": "Callbacks are in `learn.cbs`.",
    "half": "Write learn.to_fp16() or learn.to_bf16().",
    "history": "The columns of all epochs are in `learn.recorder.history`.",
    "layer_groups": "Layer groups are what `learn.splitter(learn.model)` returns.",
    "load_from_checkpoint": "Write load_learner('export.safetensors'), or learn.load('weights').",
    "load_model": "Write load_learner('export.safetensors').",
    "load_state_dict": "Write learn.load('weights'). The module is `learn.model`.",
    "load_weights": "Write learn.load('weights').",
    "loss": _IN_CALLBACK,
    "loss_not_reduced": "`learn.get_preds(with_loss=True)` returns the loss of each item.",
    "lr_finder": "Write learn.lr_find().",
    "metrics_names": "Names are in `learn.recorder.metric_names`.",
    "mixup": "Mixing is a callback: cbs=MixUp().",
    "named_parameters": _OF_MODEL,
    "no_mbar": "Write `with learn.no_bar():` around the call.",
    "one_batch": f"`learn.dls.one_batch()` returns a batch. {_IN_CALLBACK}",
    "ordered_cbs": "Callbacks are in `learn.cbs`. Each acts by its `order`.",
    "parallel_ctx": _DISTRIBUTED,
    "parameters": _OF_MODEL,
    "plot_losses": "Write learn.recorder.plot_loss().",
    "pred": _IN_CALLBACK,
    "predict_generator": "`learn.get_preds(dl=learn.dls.test_dl(items))` predicts many items.",
    "predict_on_batch": "`learn.get_preds(dl=learn.dls.test_dl(items))` predicts many items.",
    "predict_proba": "`learn.get_preds(dl=learn.dls.test_dl(items))` returns probabilities and targets.",
    "range_test": "Write learn.lr_find().",
    "save_checkpoint": _SAVED,
    "save_model": "Write learn.export('export.safetensors').",
    "save_weights": "Write learn.save('weights').",
    "sched": "The rates of all updates are in `learn.recorder.lrs`.",
    "score": "`learn.validate()` returns the loss and the metrics.",
    "show_training_loop": "Callbacks are in `learn.cbs`. Each acts by its `order`.",
    "state_dict": "Write learn.save('weights'). The module is `learn.model`.",
    "test": "`learn.validate(dl=learn.dls.test_dl(items, with_labels=True))` returns the loss and the metrics.",
    "to": _TO_DEVICE,
    "to_distributed": _DISTRIBUTED,
    "to_parallel": _DISTRIBUTED,
    "train": f"Write learn.fit(n_epoch). {_MODES}",
    "train_on_batch": "`learn.fit(n_epoch)` trains on the learner's loaders.",
    "trainer": "The learner trains by itself: learn.fit_one_cycle(n_epoch).",
    "training": _IN_CALLBACK,
    "training_step": "A step of your own is a callback that replaces `run.process_batch`.",
    "TTA": "Write learn.tta().",
    "x": _IN_CALLBACK,
    "xb": _IN_CALLBACK,
    "y": _IN_CALLBACK,
    "yb": _IN_CALLBACK,
}


def advise(name: str) -> str:
    """Returns a sentence on an argument of another library, after a space; "" if it is not known."""
    return f" {_ADVICE_ON_ARGUMENTS[name]}" if name in _ADVICE_ON_ARGUMENTS else ""


def explain_lack(owner: type, name: str) -> str:
    """Returns the message for an attribute that a learner does not have: what to write, or the nearest name."""
    own = [known for known in dir(owner) if not known.startswith("_")]
    hint = f" {_ADVICE_ON_LEARNER[name]}" if name in _ADVICE_ON_LEARNER else closest(name, own)
    return f"{owner.__name__!r} object has no attribute {name!r}.{hint}"
