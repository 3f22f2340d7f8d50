"""The names that people import from `minilearner`. `minilearner` loads this module when the first of them is read."""

from minilearner.callbacks.activations import ActivationStats
from minilearner.callbacks.averaging import EMA, SWA
from minilearner.callbacks.bn_freeze import BnFreeze
from minilearner.callbacks.checkpoint import Checkpoint
from minilearner.callbacks.cyclic_lr import CyclicLR
from minilearner.callbacks.gradient_checkpointing import GradientCheckpointing
from minilearner.callbacks.gradients import GradientAccumulation, GradientClip
from minilearner.callbacks.lambda_callback import LambdaCallback
from minilearner.callbacks.logger import Logger
from minilearner.callbacks.lr_schedulers import LearningRateScheduler, ReduceLROnPlateau, TorchScheduler
from minilearner.callbacks.mixing import CutMix, MixUp
from minilearner.callbacks.mlflow_logger import MLflowLogger
from minilearner.callbacks.non_finite import NonFinite
from minilearner.callbacks.param_scheduler import ParamScheduler
from minilearner.callbacks.progressive_resize import ProgressiveResize
from minilearner.callbacks.row_loggers import CSVLogger, JSONLinesLogger
from minilearner.callbacks.save_best import SaveBest
from minilearner.callbacks.split_on_oom import SplitOnOOM
from minilearner.callbacks.tensorboard_logger import TensorBoardLogger
from minilearner.callbacks.tracking import EarlyStopping, Validate
from minilearner.callbacks.wandb_logger import WandbLogger
from minilearner.data.batch_transforms import BatchTransform
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.targets import Category, Regression
from minilearner.environment import describe_environment
from minilearner.errors import (
    CheckpointError,
    DataError,
    DownloadError,
    FileFormatError,
    MinilearnerError,
    NonFiniteError,
    NoSuggestion,
)
from minilearner.learner import Learner
from minilearner.loading import load_learner
from minilearner.losses import FocalLoss, LabelSmoothingCrossEntropy
from minilearner.lr_finder.finder import LRFinder
from minilearner.lr_finder.plain_loop import TrainDataLoaderIter, ValDataLoaderIter
from minilearner.lr_finder.result import LRSweep
from minilearner.lr_finder.suggestions import minimum, slide, steep, valley
from minilearner.metrics import accuracy, error_rate, top_k_accuracy
from minilearner.models.minigooglenet import MiniGoogLeNet
from minilearner.models.mlp import MLP
from minilearner.plots.lines import plot_schedule
from minilearner.registry import register
from minilearner.results.cleaner import ImageCleaner
from minilearner.results.interpretation import ClassificationInterpretation
from minilearner.results.multi_label import MultiLabelInterpretation
from minilearner.results.predictions import Predictions
from minilearner.results.regression import RegressionInterpretation
from minilearner.results.top_losses import Interpretation
from minilearner.runtime import set_seed
from minilearner.schedules import (
    chain,
    constant,
    cosine,
    exp_range,
    exponential,
    exponential_decay,
    flat_cosine,
    inverse_sqrt,
    linear,
    multi_step,
    one_cycle,
    polynomial,
    sgdr,
    step_decay,
    time_based_decay,
    triangular,
    triangular2,
    warmup,
    warmup_stable_decay,
)
from minilearner.sources.archives import untar_data
from minilearner.sources.urls import URLs
from minilearner.training.batch_size import largest_batch_size
from minilearner.training.callback import (
    Callback,
    CancelBackward,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    CancelStep,
    CancelTrain,
    CancelValidate,
)
from minilearner.training.run import Run
from minilearner.vision.augment import Flip
from minilearner.vision.fashion_mnist import fashion_mnist
from minilearner.vision.image_problems import find_image_problems
from minilearner.vision.normalize import Normalize
from minilearner.vision.shift import RandomShift

__all__ = [
    "EMA",
    "MLP",
    "SWA",
    "ActivationStats",
    "BatchTransform",
    "BnFreeze",
    "CSVLogger",
    "Callback",
    "CancelBackward",
    "CancelBatch",
    "CancelEpoch",
    "CancelFit",
    "CancelStep",
    "CancelTrain",
    "CancelValidate",
    "Category",
    "Checkpoint",
    "CheckpointError",
    "ClassificationInterpretation",
    "CutMix",
    "CyclicLR",
    "DataError",
    "DataLoaders",
    "DownloadError",
    "EarlyStopping",
    "FileFormatError",
    "Flip",
    "FocalLoss",
    "GradientAccumulation",
    "GradientCheckpointing",
    "GradientClip",
    "ImageCleaner",
    "Interpretation",
    "JSONLinesLogger",
    "LRFinder",
    "LRSweep",
    "LabelSmoothingCrossEntropy",
    "LambdaCallback",
    "Learner",
    "LearningRateScheduler",
    "Logger",
    "MLflowLogger",
    "MiniGoogLeNet",
    "MinilearnerError",
    "MixUp",
    "MultiLabelInterpretation",
    "NoSuggestion",
    "NonFinite",
    "NonFiniteError",
    "Normalize",
    "ParamScheduler",
    "Predictions",
    "ProgressiveResize",
    "RandomShift",
    "ReduceLROnPlateau",
    "Regression",
    "RegressionInterpretation",
    "Run",
    "SaveBest",
    "SplitOnOOM",
    "TensorBoardLogger",
    "TorchScheduler",
    "TrainDataLoaderIter",
    "URLs",
    "ValDataLoaderIter",
    "Validate",
    "WandbLogger",
    "accuracy",
    "chain",
    "constant",
    "cosine",
    "describe_environment",
    "error_rate",
    "exp_range",
    "exponential",
    "exponential_decay",
    "fashion_mnist",
    "find_image_problems",
    "flat_cosine",
    "inverse_sqrt",
    "largest_batch_size",
    "linear",
    "load_learner",
    "minimum",
    "multi_step",
    "one_cycle",
    "plot_schedule",
    "polynomial",
    "register",
    "set_seed",
    "sgdr",
    "slide",
    "steep",
    "step_decay",
    "time_based_decay",
    "top_k_accuracy",
    "triangular",
    "triangular2",
    "untar_data",
    "valley",
    "warmup",
    "warmup_stable_decay",
]
