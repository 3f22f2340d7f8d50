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

import numpy as np
import torch
import torch.nn.functional as F
from numpy import array
from PIL import Image
from torch import nn

import minilearner
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
from minilearner.vision.torchvision_models import models, resnet18, resnet34, resnet50, resnet101, resnet152
from minilearner.vision.vision_learner import cnn_learner, vision_learner

__all__ = [
    *minilearner.__all__,
    "EarlyStoppingCallback",
    "SaveModelCallback",
    "TerminateOnNaNCallback",
    "TrackerCallback",
    "MixedPrecision",
    "ProgressCallback",
    "ShowGraphCallback",
    "Hooks",
    "hook_outputs",
    "Recorder",
    *REFUSED,
    "APScoreBinary",
    "APScoreMulti",
    "AccumMetric",
    "Adam",
    "AdaptiveConcatPool2d",
    "AttrGetter",
    "BCEWithLogitsLossFlat",
    "BalancedAccuracy",
    "BrierScore",
    "Brightness",
    "CancelBackwardException",
    "CancelBatchException",
    "CancelEpochException",
    "CancelFitException",
    "CancelStepException",
    "CancelTrainException",
    "CancelValidException",
    "Categorize",
    "CategoryBlock",
    "CohenKappa",
    "ClassMetric",
    "ColReader",
    "ColSplitter",
    "Contrast",
    "ConvLayer",
    "CropPad",
    "CrossEntropyLossFlat",
    "DataBlock",
    "DataLoader",
    "DataPath",
    "Dice",
    "DiceMulti",
    "Dihedral",
    "EndSplitter",
    "ExplainedVariance",
    "F",
    "F1Score",
    "F1ScoreMulti",
    "FBeta",
    "FBetaMulti",
    "FileGetter",
    "FileSplitter",
    "Flatten",
    "FocalLossFlat",
    "FuncSplitter",
    "GrandparentSplitter",
    "GroupSplitter",
    "HammingLoss",
    "HammingLossMulti",
    "Hook",
    "HookCallback",
    "Hue",
    "Image",
    "ImageBlock",
    "ImageDataLoaders",
    "ImageGetter",
    "IndexSplitter",
    "IntToFloatTensor",
    "ItemGetter",
    "Jaccard",
    "JaccardCoeff",
    "JaccardCoeffMulti",
    "JaccardMulti",
    "L",
    "L1LossFlat",
    "LabelSmoothingCrossEntropyFlat",
    "Lookahead",
    "MSELossFlat",
    "MaskSplitter",
    "MatthewsCorrCoef",
    "MatthewsCorrCoefMulti",
    "Metric",
    "Mish",
    "Module",
    "MultiCategorize",
    "MultiCategory",
    "MultiCategoryBlock",
    "OptimWrapper",
    "PILBase",
    "PILImage",
    "PILImageBW",
    "PILMask",
    "PadMode",
    "Path",
    "PearsonCorrCoef",
    "Perplexity",
    "Pipeline",
    "Precision",
    "PrecisionMulti",
    "R2Score",
    "RAdam",
    "RMSProp",
    "RandTransform",
    "RandomCrop",
    "RandomErasing",
    "RandomResizedCrop",
    "RandomResizedCropBatch",
    "RandomSplitter",
    "RandomSubsetSplitter",
    "RatioResize",
    "Recall",
    "RecallMulti",
    "RegexLabeller",
    "RegressionBlock",
    "ResBlock",
    "Resize",
    "ResizeMethod",
    "RocAuc",
    "RocAucBinary",
    "RocAucMulti",
    "Rotate",
    "SGD",
    "Saturation",
    "SchedCos",
    "SchedExp",
    "SchedLin",
    "SchedNo",
    "SchedPoly",
    "SigmoidRange",
    "SpearmanCorrCoef",
    "SplitterFrom",
    "StratifiedSplitter",
    "TensorBase",
    "TensorCategory",
    "TensorImage",
    "TensorImageBW",
    "TensorMask",
    "TensorMultiCategory",
    "ToTensor",
    "TrainTestSplitter",
    "Transform",
    "TransformBlock",
    "Warp",
    "XResNet",
    "Zoom",
    "accuracy_multi",
    "array",
    "aug_transforms",
    "cifar_stats",
    "cnn_learner",
    "combine_scheds",
    "create_body",
    "create_head",
    "exp_rmspe",
    "first",
    "get_files",
    "get_image_files",
    "hook_output",
    "imagenet_stats",
    "in_channels",
    "mae",
    "math",
    "mnist_stats",
    "model_meta",
    "models",
    "mse",
    "msle",
    "nn",
    "noop",
    "np",
    "open_image",
    "os",
    "params",
    "parent_label",
    "partial",
    "pd",
    "plt",
    "random",
    "ranger",
    "re",
    "resnet101",
    "resnet152",
    "resnet18",
    "resnet34",
    "resnet50",
    "rmse",
    "sequential",
    "show_image",
    "show_images",
    "sigmoid_range",
    "skm_to_fastai",
    "store_attr",
    "subplots",
    "tensor",
    "to_cpu",
    "to_detach",
    "to_device",
    "torch",
    "train_only",
    "using_attr",
    "verify_images",
    "vision_learner",
    "xresnet101",
    "xresnet152",
    "xresnet18",
    "xresnet34",
    "xresnet50",
]

globals().update(REFUSED)
