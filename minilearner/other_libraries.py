"""Words that people bring from fastai, Keras, Lightning and torch-lr-finder, and what to write here instead.

This module owns the tables. `keywords` reads them when an argument is unknown, `Learner` when an attribute is, and
`refused_imports` when a module or a name is. Nothing here is read unless something is missing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from minilearner.errors import closest

__all__ = [
    "DEVICES_ELSEWHERE",
    "LOSSES_ELSEWHERE",
    "METRICS_ELSEWHERE",
    "PRECISIONS_ELSEWHERE",
    "SYNONYMS",
    "advise",
    "explain_lack",
    "translate",
]

SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "accumulate_grad_batches": ("n_batches",),
    "backbone": ("arch",),
    "base_arch": ("arch",),
    "base_lr": ("lr", "lr_max"),
    "batch_size": ("bs",),
    "batchsize": ("bs",),
    "callbacks": ("cbs",),
    "class_names": ("vocab",),
    "classes": ("vocab",),
    "clipnorm": ("max_norm",),
    "criterion": ("loss_func",),
    "dataloaders": ("dl",),
    "div_factor": ("div",),
    "dropout": ("ps",),
    "ds_tfms": ("item_tfms", "batch_tfms"),
    "ds_type": ("ds_idx",),
    "data_dir": ("path",),
    "directory": ("path",),
    "early_stop_threshold": ("stop_factor",),
    "epochs": ("n_epoch",),
    "filename": ("path", "fname", "file"),
    "filepath": ("path", "fname", "file"),
    "final_div_factor": ("div_final",),
    "fname": ("path", "file"),
    "gradient_accumulation_steps": ("n_batches",),
    "group_by": ("get_group",),
    "groups": ("get_group",),
    "gradient_clip_val": ("max_norm",),
    "learning_rate": ("lr", "lr_max", "base_lr"),
    "logger": ("loggers",),
    "loss": ("loss_func",),
    "loss_fn": ("loss_func",),
    "lr_max": ("lr", "base_lr", "end_lr"),
    "max_epochs": ("n_epoch", "epochs"),
    "max_lr": ("lr_max", "end_lr", "base_lr", "lr"),
    "min_lr": ("start_lr",),
    "mode": ("step_mode",),
    "momentum": ("mom",),
    "n_classes": ("n_out",),
    "n_epochs": ("n_epoch", "epochs"),
    "n_workers": ("num_workers",),
    "nb_epoch": ("n_epoch", "epochs"),
    "num_classes": ("n_out",),
    "num_epochs": ("n_epoch", "epochs"),
    "num_iter": ("num_it",),
    "num_training": ("num_it",),
    "optimizer": ("opt_func",),
    "pattern": ("pat",),
    "random_seed": ("seed",),
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
    "test_size": ("valid_pct",),
    "val_split": ("valid_pct",),
    "weight_decay": ("wd",),
    "x_col": ("fn_col",),
    "y_col": ("label_col",),
    "workers": ("num_workers",),
}
"""What other libraries call an argument, and what fastai and minilearner call it. Spelling alone would mislead."""

_DATA = "The data belong to the learner's loaders: DataLoaders.from_arrays((x, y), (valid_x, valid_y), bs=64)."
_EPOCHS = "The number of epochs goes to `fit`, `fit_one_cycle` or `fine_tune`."
_WATCHED = "A callback watches a metric: cbs=EarlyStopping('valid_loss', patience=3), or SaveBest('valid_loss')."
_SIZE = "Images get their size from item_tfms=Resize(224)."
_OF_LOADER = (
    "It belongs to torch's loaders, which `DataLoaders` takes: DataLoaders(DataLoader(train, num_workers=4), "
    "DataLoader(valid))."
)
_PART_OF_EPOCH = "To end an epoch early, raise `CancelTrain` in `after_batch` of a callback."
_SELDOM = "To validate more often or less, use the callback `Validate`: cbs=Validate(every_epochs=5)."
_SCHEDULER = "torch's schedulers go into a callback: cbs=TorchScheduler(lambda opt: StepLR(opt, 10))."
_BEST_FILE = (
    "`SaveBest` keeps the best weights in one file. For the whole run, give `fit` a folder: checkpoint='runs/1'."
)
_OWN_DEVICE = "Everything goes to the learner's device: Learner(..., device='cpu')."
_DEVICES = (
    'The GPU is used if there is one; device="cpu" or "cuda:1" chooses. For several, start the script by torchrun.'
)
_ACCUMULATE = "Accumulating gradients is a callback: cbs=GradientAccumulation(n_batches=4)."
_CLIP = "Clipping gradients is a callback: cbs=GradientClip(1.0)."
_LOG = "Loggers have names: Learner(..., loggers=['csv', 'tensorboard']), or 'jsonl', 'wandb', 'mlflow'."
_QUIET = "Write less by `with learn.no_bar():` or `with learn.no_logging():` around the call."
_WEIGHTS = (
    "Classes are weighted by what is drawn, when the loaders are made: ImageDataLoaders.from_folder(..., "
    'weights="balanced"); or by the loss: loss_func=nn.CrossEntropyLoss(weight=weights).'
)
_SPLIT = (
    "Folders and tables take valid_pct=0.2. Arrays come in two pairs: "
    "DataLoaders.from_arrays((x, y), (valid_x, valid_y))."
)
_SAVED = "To save and to resume a run, give `fit` a folder: checkpoint='runs/1'."

_ADVICE_ON_ARGUMENTS: Mapping[str, str] = {
    **dict.fromkeys(("image_size", "img_size", "input_size", "size", "target_size"), _SIZE),
    **dict.fromkeys(("collate_fn", "drop_last", "num_workers", "persistent_workers", "pin_memory"), _OF_LOADER),
    **dict.fromkeys(("prefetch_factor", "sampler", "worker_init_fn"), _OF_LOADER),
    **dict.fromkeys(("fast_dev_run", "limit_train_batches", "overfit_batches"), _PART_OF_EPOCH),
    **dict.fromkeys(("save_last", "save_top_k", "save_weights_only", "save_best_only"), _BEST_FILE),
    **dict.fromkeys(("check_val_every_n_epoch", "validation_freq"), _SELDOM),
    **dict.fromkeys(("lr_scheduler", "scheduler"), _SCHEDULER),
    **dict.fromkeys(("device", "map_location"), _OWN_DEVICE),
    "custom_objects": "Name your own classes by minilearner.register, or give load_learner the module: model=.",
    "datamodule": _DATA,
    "deterministic": "Runs repeat if you call set_seed(1) before you build the model.",
    "epochs": _EPOCHS,
    "log_every_n_steps": "Each step is recorded, without an argument: `learn.recorder.losses`.",
    "metrics": "Metrics belong to the learner: learn.metrics = accuracy.",
    "shuffle": "Training items are shuffled in each epoch, validation items never.",
    **dict.fromkeys(("test_size", "val_split", "validation_split"), _SPLIT),
    "accelerator": _DEVICES,
    "accumulate_grad_batches": _ACCUMULATE,
    "callback_fns": "Callbacks are objects: cbs=[EarlyStopping(), ...].",
    "class_weight": _WEIGHTS,
    "class_weights": _WEIGHTS,
    "samples_per_class": _WEIGHTS,
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
    "max_time": "Training lasts for whole epochs: fit(n_epoch). A callback may raise `CancelFit` when time is up.",
    "num_sanity_val_steps": "`fit` tries a batch of each loader before it trains, without an argument.",
    "val_check_interval": _SELDOM,
    "sample_weight": "To draw items by weight, use `weighted_dataloaders`. To weigh losses, write a loss of your own.",
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

LOSSES_ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(("categoricalcrossentropy", "sparsecategoricalcrossentropy"), "nn.CrossEntropyLoss()"),
    **dict.fromkeys(("ce", "crossentropy"), "nn.CrossEntropyLoss()"),
    **dict.fromkeys(("bce", "bcewithlogits", "binarycrossentropy"), "nn.BCEWithLogitsLoss()"),
    **dict.fromkeys(("focal", "categoricalfocalcrossentropy"), "FocalLoss()"),
    "huber": "nn.HuberLoss()",
    **dict.fromkeys(("kld", "kldiv", "kldivergence"), "nn.KLDivLoss(reduction='batchmean')"),
    **dict.fromkeys(("l1", "mae", "meanabsoluteerror"), "nn.L1Loss()"),
    **dict.fromkeys(("l2", "mse", "meansquarederror"), "nn.MSELoss()"),
    "nll": "nn.NLLLoss()",
}
"""What Keras and others call a loss, as `translate` spells it, and the object."""

METRICS_ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(("acc", "accuracy", "categoricalaccuracy", "sparsecategoricalaccuracy"), "accuracy"),
    "binaryaccuracy": "accuracy_multi",
    **dict.fromkeys(("error", "errorrate"), "error_rate"),
    **dict.fromkeys(("topk", "topkaccuracy", "topkcategoricalaccuracy"), "top_k_accuracy"),
    "sparsetopkcategoricalaccuracy": "top_k_accuracy",
    **dict.fromkeys(("auc", "auroc", "rocauc"), "RocAucBinary()"),
    **dict.fromkeys(("f1", "f1score"), "F1Score()"),
    "precision": "Precision()",
    "recall": "Recall()",
    **dict.fromkeys(("mae", "meanabsoluteerror"), "mae"),
    **dict.fromkeys(("mse", "meansquarederror"), "mse"),
    **dict.fromkeys(("rmse", "rootmeansquarederror"), "rmse"),
    **dict.fromkeys(("r2", "r2score"), "R2Score()"),
    **dict.fromkeys(("iou", "jaccard", "binaryiou", "meaniou"), "JaccardCoeff()"),
    "dice": "Dice()",
    **dict.fromkeys(("cohenkappa", "kappa"), "CohenKappa()"),
    **dict.fromkeys(("matthewscorrcoef", "mcc"), "MatthewsCorrCoef()"),
}
"""What other libraries call a metric, as `translate` spells it, and the object in `minilearner.vision.all`."""

_TO_DEVICE = 'The learner moves its model to the device itself. Choose it when you make the learner: device="cuda".'
_OF_MODEL = "The module is `learn.model`."
_IN_CALLBACK = (
    "Batches pass through callbacks only: write a `Callback`, which sees `run.x`, `run.y`, `run.pred` and `run.loss`."
)
_MODES = "Training and predicting set the model's mode themselves. The module is `learn.model`."
_PARTS = "Give loss_func=, opt_func= and metrics= to `Learner`, or assign them: learn.metrics = accuracy."
_DISTRIBUTED = "Start the script by torchrun: the learner then trains with all processes; see `strategy=`."

_VALIDATE = "`learn.validate()` returns the loss and the metrics."
_OF_RUN = "Only a run has it: write a `Callback`, which sees `run.epoch`, `run.iter` and `run.training`."
_LOADERS = "The loaders are `learn.dls`."
_OWN_VALUES = "Values of your own are metrics: learn.metrics = [accuracy, your_metric]."

_ADVICE_ON_LEARNER: Mapping[str, str] = {
    **dict.fromkeys(("evaluate_generator", "test_on_batch", "test_step", "validation_step"), _VALIDATE),
    **dict.fromkeys(("current_epoch", "epoch", "global_step", "iter", "n_epoch", "n_iter"), _OF_RUN),
    **dict.fromkeys(("pct_train", "smooth_loss", "training"), _OF_RUN),
    **dict.fromkeys(("count_params", "get_layer", "get_weights", "layers", "set_weights"), _OF_MODEL),
    **dict.fromkeys(("train_dataloader", "val_dataloaders"), _LOADERS),
    **dict.fromkeys(("log", "log_dict"), _OWN_VALUES),
    **dict.fromkeys(("lr_scheduler", "lr_schedulers"), _SCHEDULER),
    "interpret": "Write Interpretation.from_learner(learn).",
    "logger": _LOG,
    "predict_classes": "`learn.get_preds(with_decoded=True)` returns the classes, too.",
    "trainable_weights": _OF_MODEL,
    "activation_stats": "Collect statistics with a callback: stats = ActivationStats(); learn.fit(1, cbs=stats).",
    "add_callback": "Write learn.add_cb(callback).",
    "callbacks": "Callbacks are in `learn.cbs`.",
    "compile": f"{_PARTS} For torch.compile, write Learner(..., compile=True).",
    "configure_optimizers": "Give the optimizer to the learner: opt_func=partial(torch.optim.SGD, momentum=0.9).",
    "cpu": _TO_DEVICE,
    "criterion": "The loss is `learn.loss_func`.",
    "cuda": _TO_DEVICE,
    "data": _LOADERS,
    "distrib_ctx": _DISTRIBUTED,
    "epoch": _IN_CALLBACK,
    "epochs": "The rows of all epochs are in `learn.recorder.epochs`.",
    "eval": _MODES,
    "evaluate": _VALIDATE,
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
    "score": _VALIDATE,
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


def translate(text: str, table: Mapping[str, str]) -> str:
    """Returns what to write in place of a text such as "categorical_crossentropy"; "" if the table has no such word.

    Capitals, underscores and "Loss" at the end do not count.
    """
    word = re.sub(r"[\W_]", "", text).lower()
    return table.get(word) or table.get(word.removesuffix("loss"), "")


def advise(name: str) -> str:
    """Returns a sentence on an argument of another library, after a space; "" if it is not known."""
    return f" {_ADVICE_ON_ARGUMENTS[name]}" if name in _ADVICE_ON_ARGUMENTS else ""


def explain_lack(owner: type, name: str) -> str:
    """Returns the message for an attribute that a learner does not have: what to write, or the nearest name."""
    own = [known for known in dir(owner) if not known.startswith("_")]
    hint = f" {_ADVICE_ON_LEARNER[name]}" if name in _ADVICE_ON_LEARNER else closest(name, own)
    return f"{owner.__name__!r} object has no attribute {name!r}.{hint}"
