"""The star import for notebooks: everything that people type when they work with images.

    from minilearner.vision.all import *

It brings the names of `minilearner`, those of `minilearner.vision`, and a few modules and classes from elsewhere that
every notebook needs. Importing it patches, seeds and configures nothing: `Path` is `DataPath`, a `pathlib.Path` with
`ls`, and `plt` and `pd` load Matplotlib and pandas when they are first used.
"""

import math
import os
import random
import re
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy import array
from PIL import Image
from torch import nn

from minilearner import *  # noqa: F403 - the package's only star; `__all__` below lists what it brings
from minilearner.callbacks.fastai_tracking import (
    EarlyStoppingCallback,
    SaveModelCallback,
    TerminateOnNaNCallback,
    TrackerCallback,
)
from minilearner.callbacks.hook_callback import HookCallback
from minilearner.callbacks.mixed_precision import MixedPrecision
from minilearner.callbacks.progress import Progress as ProgressCallback
from minilearner.callbacks.show_graph import ShowGraphCallback
from minilearner.data.batch_transforms import IntToFloatTensor, train_only
from minilearner.data.blocks import CategoryBlock, MultiCategoryBlock, RegressionBlock, TransformBlock
from minilearner.data.categorize import Categorize, MultiCategorize
from minilearner.data.data_block import DataBlock
from minilearner.data.group_splitter import GroupSplitter
from minilearner.data.items import FileGetter, ImageGetter, get_files, get_image_files
from minilearner.data.labels import AttrGetter, ColReader, ItemGetter, RegexLabeller, parent_label, using_attr
from minilearner.data.splits import (
    ColSplitter,
    EndSplitter,
    FileSplitter,
    FuncSplitter,
    GrandparentSplitter,
    IndexSplitter,
    MaskSplitter,
    RandomSplitter,
    RandomSubsetSplitter,
    StratifiedSplitter,
    TrainTestSplitter,
)
from minilearner.data.splitter_from import SplitterFrom
from minilearner.data.targets import MultiCategory
from minilearner.data.tensor_types import (
    TensorBase,
    TensorCategory,
    TensorImage,
    TensorImageBW,
    TensorMask,
    TensorMultiCategory,
)
from minilearner.data.torch_loader import DataLoader
from minilearner.data.transform import Pipeline, RandTransform, ToTensor, Transform
from minilearner.lists import L, first, noop
from minilearner.losses import (
    BCEWithLogitsLossFlat,
    CrossEntropyLossFlat,
    FocalLossFlat,
    L1LossFlat,
    LabelSmoothingCrossEntropyFlat,
    MSELossFlat,
)
from minilearner.metrics import accuracy_multi
from minilearner.models.heads import AdaptiveConcatPool2d, SigmoidRange, create_body, create_head, sigmoid_range
from minilearner.models.hooks import Hook, Hooks, hook_output, hook_outputs
from minilearner.models.layers import ConvLayer, Flatten, Module, ResBlock, in_channels, params, sequential
from minilearner.models.xresnet import XResNet, xresnet18, xresnet34, xresnet50, xresnet101, xresnet152
from minilearner.plots.axes import show_image, show_images, subplots
from minilearner.plots.pyplot import plt
from minilearner.results.recorder import Recorder
from minilearner.scores.accumulated import AccumMetric, skm_to_fastai
from minilearner.scores.class_metric import ClassMetric
from minilearner.scores.classes import (
    APScoreBinary,
    BalancedAccuracy,
    BrierScore,
    CohenKappa,
    F1Score,
    FBeta,
    HammingLoss,
    Jaccard,
    MatthewsCorrCoef,
    Precision,
    Recall,
    RocAuc,
    RocAucBinary,
)
from minilearner.scores.multi import (
    APScoreMulti,
    F1ScoreMulti,
    FBetaMulti,
    HammingLossMulti,
    JaccardMulti,
    MatthewsCorrCoefMulti,
    PrecisionMulti,
    RecallMulti,
    RocAucMulti,
)
from minilearner.scores.numbers import (
    ExplainedVariance,
    PearsonCorrCoef,
    R2Score,
    SpearmanCorrCoef,
    exp_rmspe,
    mae,
    mse,
    msle,
    rmse,
)
from minilearner.scores.overlaps import Dice, DiceMulti, JaccardCoeff, JaccardCoeffMulti
from minilearner.scores.perplexity import Perplexity
from minilearner.sources.paths import DataPath
from minilearner.sources.paths import DataPath as Path
from minilearner.training.fastai_optimizers import SGD, Adam, Lookahead, OptimWrapper, RAdam, RMSProp, ranger
from minilearner.training.fastai_style import (
    CancelBackwardException,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    CancelTrainException,
    CancelValidException,
)
from minilearner.vision.augment import Dihedral, Rotate, Warp, Zoom, aug_transforms
from minilearner.vision.crops import RandomResizedCropBatch
from minilearner.vision.erasing import RandomErasing
from minilearner.vision.families import model_meta
from minilearner.vision.fastai_names import (
    Metric,
    Mish,
    SchedCos,
    SchedExp,
    SchedLin,
    SchedNo,
    SchedPoly,
    combine_scheds,
)
from minilearner.vision.image_block import ImageBlock, PILBase, PILImage, PILImageBW, PILMask
from minilearner.vision.image_loaders import ImageDataLoaders
from minilearner.vision.images import open_image, verify_images
from minilearner.vision.lighting import Brightness, Contrast, Hue, Saturation
from minilearner.vision.normalize import cifar_stats, imagenet_stats, mnist_stats
from minilearner.vision.refused import REFUSED
from minilearner.vision.resize import CropPad, PadMode, RandomCrop, RandomResizedCrop, RatioResize, Resize, ResizeMethod
from minilearner.vision.shorthands import pd, store_attr, tensor, to_cpu, to_detach, to_device
from minilearner.vision.timm_transforms import timm_transforms
from minilearner.vision.torchvision_models import models, resnet18, resnet34, resnet50, resnet101, resnet152
from minilearner.vision.vision_learner import cnn_learner, vision_learner

__all__ = [
    "EMA",
    "MLP",
    "SGD",
    "SWA",
    "APScoreBinary",
    "APScoreMulti",
    "AccumMetric",
    "ActivationStats",
    "Adam",
    "AdaptiveConcatPool2d",
    "AttrGetter",
    "BCEWithLogitsLossFlat",
    "BalancedAccuracy",
    "BatchTransform",
    "BnFreeze",
    "BrierScore",
    "Brightness",
    "CSVLogger",
    "Callback",
    "CancelBackward",
    "CancelBackwardException",
    "CancelBatch",
    "CancelBatchException",
    "CancelEpoch",
    "CancelEpochException",
    "CancelFit",
    "CancelFitException",
    "CancelStep",
    "CancelStepException",
    "CancelTrain",
    "CancelTrainException",
    "CancelValidException",
    "CancelValidate",
    "Categorize",
    "Category",
    "CategoryBlock",
    "Checkpoint",
    "CheckpointError",
    "ClassMetric",
    "ClassificationInterpretation",
    "CohenKappa",
    "ColReader",
    "ColSplitter",
    "Contrast",
    "ConvLayer",
    "CropPad",
    "CrossEntropyLossFlat",
    "CutMix",
    "CyclicLR",
    "DataBlock",
    "DataError",
    "DataLoader",
    "DataLoaders",
    "DataPath",
    "Dice",
    "DiceMulti",
    "Dihedral",
    "DownloadError",
    "EarlyStopping",
    "EarlyStoppingCallback",
    "EndSplitter",
    "ExplainedVariance",
    "F",
    "F1Score",
    "F1ScoreMulti",
    "FBeta",
    "FBetaMulti",
    "FileFormatError",
    "FileGetter",
    "FileSplitter",
    "Flatten",
    "Flip",
    "FocalLoss",
    "FocalLossFlat",
    "FuncSplitter",
    "GradientAccumulation",
    "GradientCheckpointing",
    "GradientClip",
    "GrandparentSplitter",
    "GroupSplitter",
    "HammingLoss",
    "HammingLossMulti",
    "Hook",
    "HookCallback",
    "Hooks",
    "Hue",
    "Image",
    "ImageBlock",
    "ImageCleaner",
    "ImageDataLoaders",
    "ImageGetter",
    "IndexSplitter",
    "IntToFloatTensor",
    "Interpretation",
    "ItemGetter",
    "JSONLinesLogger",
    "Jaccard",
    "JaccardCoeff",
    "JaccardCoeffMulti",
    "JaccardMulti",
    "L",
    "L1LossFlat",
    "LRFinder",
    "LRSweep",
    "LabelSmoothingCrossEntropy",
    "LabelSmoothingCrossEntropyFlat",
    "LambdaCallback",
    "Learner",
    "LearningRateScheduler",
    "Logger",
    "Lookahead",
    "MLflowLogger",
    "MSELossFlat",
    "MaskSplitter",
    "MatthewsCorrCoef",
    "MatthewsCorrCoefMulti",
    "Metric",
    "MiniGoogLeNet",
    "MinilearnerError",
    "Mish",
    "MixUp",
    "MixedPrecision",
    "Module",
    "MultiCategorize",
    "MultiCategory",
    "MultiCategoryBlock",
    "MultiLabelInterpretation",
    "NoSuggestion",
    "NonFinite",
    "NonFiniteError",
    "Normalize",
    "OptimWrapper",
    "PILBase",
    "PILImage",
    "PILImageBW",
    "PILMask",
    "PadMode",
    "ParamScheduler",
    "Path",
    "PearsonCorrCoef",
    "Perplexity",
    "Pipeline",
    "Precision",
    "PrecisionMulti",
    "Predictions",
    "ProgressCallback",
    "ProgressiveResize",
    "R2Score",
    "RAdam",
    "RMSProp",
    "RandTransform",
    "RandomCrop",
    "RandomErasing",
    "RandomResizedCrop",
    "RandomResizedCropBatch",
    "RandomShift",
    "RandomSplitter",
    "RandomSubsetSplitter",
    "RatioResize",
    "Recall",
    "RecallMulti",
    "Recorder",
    "ReduceLROnPlateau",
    "RegexLabeller",
    "Regression",
    "RegressionBlock",
    "RegressionInterpretation",
    "ResBlock",
    "Resize",
    "ResizeMethod",
    "RocAuc",
    "RocAucBinary",
    "RocAucMulti",
    "Rotate",
    "Run",
    "Saturation",
    "SaveBest",
    "SaveModelCallback",
    "SchedCos",
    "SchedExp",
    "SchedLin",
    "SchedNo",
    "SchedPoly",
    "ShowGraphCallback",
    "SigmoidRange",
    "SpearmanCorrCoef",
    "SplitOnOOM",
    "SplitterFrom",
    "StratifiedSplitter",
    "TensorBase",
    "TensorBoardLogger",
    "TensorCategory",
    "TensorImage",
    "TensorImageBW",
    "TensorMask",
    "TensorMultiCategory",
    "TerminateOnNaNCallback",
    "ToTensor",
    "TorchScheduler",
    "TrackerCallback",
    "TrainDataLoaderIter",
    "TrainTestSplitter",
    "Transform",
    "TransformBlock",
    "URLs",
    "ValDataLoaderIter",
    "Validate",
    "WandbLogger",
    "Warp",
    "XResNet",
    "Zoom",
    "accuracy",
    "accuracy_multi",
    "array",
    "aug_transforms",
    "chain",
    "cifar_stats",
    "cnn_learner",
    "combine_scheds",
    "constant",
    "cosine",
    "create_body",
    "create_head",
    "describe_environment",
    "error_rate",
    "exp_range",
    "exp_rmspe",
    "exponential",
    "exponential_decay",
    "fashion_mnist",
    "find_image_problems",
    "first",
    "flat_cosine",
    "get_files",
    "get_image_files",
    "hook_output",
    "hook_outputs",
    "imagenet_stats",
    "in_channels",
    "inverse_sqrt",
    "largest_batch_size",
    "linear",
    "load_learner",
    "mae",
    "math",
    "minimum",
    "mnist_stats",
    "model_meta",
    "models",
    "mse",
    "msle",
    "multi_step",
    "nn",
    "noop",
    "np",
    "one_cycle",
    "open_image",
    "os",
    "params",
    "parent_label",
    "partial",
    "pd",
    "plot_schedule",
    "plt",
    "polynomial",
    "random",
    "ranger",
    "re",
    "register",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "rmse",
    "sequential",
    "set_seed",
    "sgdr",
    "show_image",
    "show_images",
    "sigmoid_range",
    "skm_to_fastai",
    "slide",
    "steep",
    "step_decay",
    "store_attr",
    "subplots",
    "tensor",
    "time_based_decay",
    "timm_transforms",
    "to_cpu",
    "to_detach",
    "to_device",
    "top_k_accuracy",
    "torch",
    "train_only",
    "triangular",
    "triangular2",
    "untar_data",
    "using_attr",
    "valley",
    "verify_images",
    "vision_learner",
    "warmup",
    "warmup_stable_decay",
    "xresnet18",
    "xresnet34",
    "xresnet50",
    "xresnet101",
    "xresnet152",
]


def __dir__() -> list[str]:
    return sorted(set(__all__) - set(REFUSED))


if not TYPE_CHECKING:  # a type checker that knew these names would not report them
    globals().update(REFUSED)
    __all__ += REFUSED
