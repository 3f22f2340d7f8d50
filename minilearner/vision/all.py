"""The star import for notebooks: everything that people type when they work with images.

    from minilearner.vision.all import *

It brings the names of `minilearner`, those of `minilearner.vision`, and a few modules and classes from elsewhere that
every notebook needs. Importing it patches, seeds and configures nothing.
"""

import re
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import minilearner
from minilearner import *  # noqa: F403 - the package's only star; `__all__` below lists what it brings
from minilearner.data.batch_transforms import train_only
from minilearner.data.blocks import CategoryBlock, MultiCategoryBlock, RegressionBlock, TransformBlock
from minilearner.data.data_block import DataBlock
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
from minilearner.data.targets import MultiCategory
from minilearner.metrics import accuracy_multi
from minilearner.models.heads import AdaptiveConcatPool2d, create_body, create_head
from minilearner.plots.pyplot import plt
from minilearner.sources.paths import DataPath
from minilearner.vision.augment import Dihedral, Rotate, Warp, Zoom, aug_transforms
from minilearner.vision.crops import RandomResizedCropBatch
from minilearner.vision.erasing import RandomErasing
from minilearner.vision.image_block import ImageBlock, PILImage, PILImageBW
from minilearner.vision.image_loaders import ImageDataLoaders
from minilearner.vision.images import open_image, verify_images
from minilearner.vision.lighting import Brightness, Contrast, Hue, Saturation
from minilearner.vision.normalize import cifar_stats, imagenet_stats, mnist_stats
from minilearner.vision.resize import CropPad, PadMode, RandomCrop, RandomResizedCrop, RatioResize, Resize, ResizeMethod
from minilearner.vision.torchvision_models import models, resnet18, resnet34, resnet50, resnet101, resnet152
from minilearner.vision.vision_learner import cnn_learner, vision_learner

__all__ = [
    *minilearner.__all__,
    "AdaptiveConcatPool2d",
    "AttrGetter",
    "Brightness",
    "CategoryBlock",
    "ColReader",
    "ColSplitter",
    "Contrast",
    "CropPad",
    "DataBlock",
    "DataPath",
    "Dihedral",
    "EndSplitter",
    "F",
    "FileGetter",
    "FileSplitter",
    "FuncSplitter",
    "GrandparentSplitter",
    "Hue",
    "ImageBlock",
    "ImageDataLoaders",
    "ImageGetter",
    "IndexSplitter",
    "ItemGetter",
    "MaskSplitter",
    "MultiCategory",
    "MultiCategoryBlock",
    "PILImage",
    "PILImageBW",
    "PadMode",
    "Path",
    "RandomCrop",
    "RandomErasing",
    "RandomResizedCrop",
    "RandomResizedCropBatch",
    "RandomSplitter",
    "RandomSubsetSplitter",
    "RatioResize",
    "RegexLabeller",
    "RegressionBlock",
    "Resize",
    "ResizeMethod",
    "Rotate",
    "Saturation",
    "StratifiedSplitter",
    "TrainTestSplitter",
    "TransformBlock",
    "Warp",
    "Zoom",
    "accuracy_multi",
    "aug_transforms",
    "cifar_stats",
    "cnn_learner",
    "create_body",
    "create_head",
    "get_files",
    "get_image_files",
    "imagenet_stats",
    "mnist_stats",
    "models",
    "nn",
    "np",
    "open_image",
    "parent_label",
    "partial",
    "plt",
    "re",
    "resnet101",
    "resnet152",
    "resnet18",
    "resnet34",
    "resnet50",
    "torch",
    "train_only",
    "using_attr",
    "verify_images",
    "vision_learner",
]
