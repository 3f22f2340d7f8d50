"""Compares our values with fastai's, on random inputs: metrics, losses, optimizers, layers, splitters, schedules and
the defaults of transforms.

    python tests/benchmarks/fastai_values.py

It needs an environment that has fastai too (`pip install --group peers .`). It prints one row for each name, with the
largest difference found. A row that differs by more than rounding must be in `ON_PURPOSE` with a reason; otherwise the
script ends with status 1, as it does if a row in the list no longer differs.
"""

import inspect
import math
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import zero_one_loss
from torch import nn

warnings.filterwarnings("ignore")  # fastai's own, at import and in use

import fastai.metrics  # noqa: E402
import fastai.vision.all as theirs  # noqa: E402
from fastai.callback.schedule import combined_cos  # noqa: E402

import minilearner.vision.all as ours  # noqa: E402
from minilearner.metrics import as_metric  # noqa: E402

TOLERANCE = 2e-6  # of float32, relative to values above 1
SHARE = 0.05  # of 4000 images
GREY_LEVELS = 2  # of 255: Pillow and torch round resampled pixels differently, and fastai cuts before it scales

ON_PURPOSE = {
    "FocalLossFlat, weights": "a class weight multiplies the loss, and does not change the focusing term",
    "LabelSmoothingCrossEntropyFlat, weights": "class weights weigh the share that is spread too, as in torch",
    "RMSProp(mom=0.9)": "torch averages scaled gradients; fastai scales averaged ones",
    "Resize(20, 'pad', pad_mode='zeros')": "we scale before we pad, so the image begins at a whole pixel",
    "RandomErasing(p=0.4), share moved": "p is the chance of each image; fastai draws once for a whole batch",
    "Flip": "without a size, flipping moves pixels and interpolates nothing: mode, pad_mode and align_corners are None",
}


class Row(NamedTuple):
    kind: str
    name: str
    difference: float
    """The largest absolute difference, relative to values above 1. Infinite for things that are no numbers."""


def difference(mine, their):
    """Returns the largest difference of two values, lists or tensors."""
    mine, their = (torch.as_tensor(np.asarray(v, dtype=np.float64)).flatten() for v in (_plain(mine), _plain(their)))
    if mine.shape != their.shape:
        return math.inf
    gap = (mine - their).abs() / their.abs().clamp_min(1)
    both_nan = mine.isnan() & their.isnan()
    return float(gap.where(~both_nan, 0).nan_to_num(math.inf).max()) if len(gap) else 0.0


def _plain(value):
    return value.detach().double().cpu().as_subclass(torch.Tensor).numpy() if isinstance(value, torch.Tensor) else value


def batches(pred, target, sizes=(30, 20, 14)):
    return list(zip(pred.split(sizes), target.split(sizes)))


def my_metric(metric, pairs):
    metric = as_metric(metric)
    metric.reset()
    for pred, target in pairs:
        metric.update(pred, target)
    return float(metric.compute())


def their_metric(metric, pairs):
    metric = theirs.mk_metric(metric)
    metric.reset()
    for pred, target in pairs:
        loss = nn.functional.cross_entropy(pred, target) if pred.ndim > 1 and not target.is_floating_point() else None
        metric.accumulate(SimpleNamespace(pred=pred, y=target, yb=(target,), loss=loss, to_detach=theirs.to_detach))
    return float(metric.value)


METRICS = {
    "classes": [
        *("accuracy", "error_rate", "BalancedAccuracy", "CohenKappa", "MatthewsCorrCoef", "HammingLoss", "RocAuc"),
        *("Perplexity", ("top_k_accuracy", {"k": 2}), ("FBeta", {"beta": 2.0, "average": "weighted"})),
        *((name, {"average": "macro"}) for name in ("F1Score", "Precision", "Recall", "Jaccard")),
    ],
    "two classes": [
        *("F1Score", "Precision", "Recall", "Jaccard", "RocAucBinary", "BrierScore", "APScoreBinary"),
        *("MatthewsCorrCoef", ("FBeta", {"beta": 0.5})),
    ],
    "many": [  # without MatthewsCorrCoefMulti, since fastai's raises
        *("accuracy_multi", "F1ScoreMulti", "PrecisionMulti", "RecallMulti", "JaccardMulti", "HammingLossMulti"),
        *("APScoreMulti", "RocAucMulti", ("FBetaMulti", {"beta": 2.0, "thresh": 0.3, "average": "micro"})),
    ],
    "numbers": [
        *("mse", "mae", "msle", "rmse", "exp_rmspe", "R2Score", "ExplainedVariance", "PearsonCorrCoef"),
        "SpearmanCorrCoef",
    ],
    "masks": ["Dice", "JaccardCoeff"],
    "many masks": ["DiceMulti", "JaccardCoeffMulti", ("accuracy", {"axis": 1})],
}


def metric_rows():
    n = 64
    g = torch.Generator().manual_seed(0)
    sets = {
        "classes": (torch.randn(n, 5, generator=g), torch.randint(5, (n,), generator=g)),
        "two classes": (torch.randn(n, 2, generator=g), torch.randint(2, (n,), generator=g)),
        "many": (torch.randn(n, 4, generator=g), torch.randint(2, (n, 4), generator=g).float()),
        "numbers": (torch.rand(n, 1, generator=g), torch.rand(n, generator=g)),
        "masks": (torch.randn(n, 2, 6, 7, generator=g), torch.randint(2, (n, 6, 7), generator=g)),
        "many masks": (torch.randn(n, 4, 6, 7, generator=g), torch.randint(4, (n, 6, 7), generator=g)),
    }
    for what, (pred, target) in sets.items():
        pairs = batches(pred, target)
        for entry in METRICS[what]:
            name, options = (entry, {}) if isinstance(entry, str) else entry
            mine, their = (_make(getattr(module, name), options) for module in (ours, fastai.metrics))
            yield Row("metric", f"{name}, {what}", difference(my_metric(mine, pairs), their_metric(their, pairs)))
    made = [module.skm_to_fastai(zero_one_loss) for module in (ours, fastai.metrics)]
    pairs = batches(*sets["classes"])
    yield Row("metric", "skm_to_fastai", difference(my_metric(made[0], pairs), their_metric(made[1], pairs)))


def _make(metric, options):
    if isinstance(metric, type) or (inspect.isfunction(metric) and metric.__name__[0].isupper()):
        return metric(**options)
    return partial(metric, **options) if options else metric


def loss_rows():
    g = torch.Generator().manual_seed(1)
    flat = torch.randn(8, 5, generator=g), torch.randint(5, (8,), generator=g)
    text = torch.randn(8, 3, 5, generator=g), torch.randint(5, (8, 3), generator=g)
    mask = torch.randn(8, 5, 4, 6, generator=g), torch.randint(5, (8, 4, 6), generator=g)
    weight = torch.rand(5, generator=g) + 0.5
    logits, several = torch.randn(8, 5, generator=g), torch.randint(2, (8, 5), generator=g)
    numbers, wanted = torch.randn(8, 1, generator=g), torch.randn(8, generator=g)
    of_classes = ("CrossEntropyLossFlat", "LabelSmoothingCrossEntropyFlat", "FocalLossFlat")
    for name in of_classes:
        for what, axis, (pred, y) in (("classes", -1, flat), ("classes at the end", -1, text), ("masks", 1, mask)):
            for reduction in ("mean", "sum", "none"):
                yield _loss(name, f"{what}, {reduction}", pred, y, axis=axis, reduction=reduction)
        yield _loss(name, "weights", *flat, weight=weight)
    for options in ({}, {"reduction": "sum"}, {"reduction": "none"}, {"pos_weight": weight}):
        yield _loss("BCEWithLogitsLossFlat", ", ".join(options), logits, several, **options)
    for name in ("MSELossFlat", "L1LossFlat"):
        for options in ({}, {"reduction": "sum"}, {"reduction": "none"}):
            yield _loss(name, ", ".join(options.values()), numbers, wanted, **options)
    for name in (*of_classes, "BCEWithLogitsLossFlat"):
        mine, their = (getattr(module, name)() for module in (ours, theirs))
        act = [loss.activation(logits) for loss in (mine, their)]
        yield Row("loss", f"{name}.activation", difference(*act))
        yield Row("loss", f"{name}.decodes", difference(mine.decodes(act[0]), their.decodes(act[1])))
    yield _loss("LabelSmoothingCrossEntropy", "", *flat, eps=0.2)
    yield _loss("FocalLoss", "", *flat, gamma=1.5)


def _loss(name, what, pred, target, **options):
    mine, their = (getattr(module, name)(**options)(pred, target) for module in (ours, theirs))
    if pred.ndim == 4 and options.get("reduction") == "none":
        their = their.reshape(8, 6, 4).transpose(1, 2)  # fastai swaps the classes with the last dimension
    return Row("loss", f"{name}, {what}".rstrip(", "), difference(mine, their))


OPTIMIZERS = (
    *("SGD()", "SGD(mom=0.9, wd=0.1)", "SGD(mom=0.9, wd=0.1, decouple_wd=False)", "Adam()"),
    *("Adam(wd=0.1, decouple_wd=False)", "RMSProp()", "RMSProp(wd=0.1)", "RMSProp(mom=0.9)", "RAdam()", "ranger()"),
)


def optimizer_rows():
    for call in OPTIMIZERS:
        name, options = call.split("(")[0], eval(f"dict({call.split('(')[1]}")
        yield Row("optimizer", call, difference(_updates(ours, name, options), _updates(theirs, name, options)))
    look = [_updates(module, "SGD", {"mom": 0.9}, wrap=module.Lookahead) for module in (ours, theirs)]
    yield Row("optimizer", "Lookahead(SGD)", difference(*look))


def _updates(module, name, options, wrap=lambda optimizer: optimizer):
    g = torch.Generator().manual_seed(2)
    weights = [nn.Parameter(torch.randn(4, 3, generator=g)), nn.Parameter(torch.randn(3, generator=g))]
    optimizer = wrap(getattr(module, name)(weights, lr=0.01, **options))
    for _ in range(20):
        for p in weights:
            p.grad = torch.randn(p.shape, generator=g)
        optimizer.step()
    return torch.cat([p.flatten() for p in weights])


def layer_rows():
    g = torch.Generator().manual_seed(3)
    x = torch.randn(4, 3, 64, 64, generator=g)
    for name in ("xresnet18", "xresnet34", "xresnet50"):
        yield _layer(name, getattr(ours, name)(n_out=7), getattr(theirs, name)(n_out=7), x)
    for options in ({}, {"stride": 2}, {"ks": 5, "act_cls": None}, {"bn_1st": False}, {"transpose": True}):
        shown = ", ".join(f"{name}={value}" for name, value in options.items())
        yield _layer(f"ConvLayer({shown})", ours.ConvLayer(3, 8, **options), theirs.ConvLayer(3, 8, **options), x)
    yield Row("layer", "Mish", difference(ours.Mish()(x), theirs.Mish()(x)))
    yield Row("layer", "sigmoid_range", difference(ours.sigmoid_range(x, -1, 2), theirs.sigmoid_range(x, -1, 2)))
    yield Row("layer", "SigmoidRange", difference(ours.SigmoidRange(-1, 2)(x), theirs.SigmoidRange(-1, 2)(x)))
    yield Row("layer", "Flatten", difference(ours.Flatten()(x), theirs.Flatten()(x)))
    yield Row("layer", "AdaptiveConcatPool2d", difference(*(m.AdaptiveConcatPool2d(2)(x) for m in (ours, theirs))))
    net = nn.Sequential(nn.Conv2d(5, 2, 3))
    yield Row("layer", "in_channels", difference(*(m.in_channels(net) for m in (ours, theirs))))
    for name in ("resnet18", "resnet50", "xresnet18", "xresnet50"):
        cuts = [m.model_meta[getattr(m, name)]["cut"] for m in (ours, theirs)]
        yield Row("layer", f"model_meta[{name}]", difference(*cuts))


def _layer(name, mine, their, x):
    """Gives both the same weights, and compares outputs, the count of parameters and buffers, and first constants."""
    state = list(their.state_dict().values())
    if [t.shape for t in state] != [t.shape for t in mine.state_dict().values()]:
        return Row("layer", name, math.inf)
    constants = [
        [float(p.mean()) for p in model.parameters() if p.ndim == 1 and float(p.std()) == 0] for model in (mine, their)
    ]
    state = [t.double().uniform_(-0.5, 1).to(t.dtype) if t.ndim == 1 else t for t in state]  # also in the last norms
    for model in (mine, their):
        model.load_state_dict(dict(zip(model.state_dict(), state)))
        for part in model.modules():
            if isinstance(part, nn.modules.batchnorm._NormBase):
                part.running_var.fill_(1.0)
    outputs = [model.train()(x) for model in (mine, their)] + [model.eval()(x) for model in (mine, their)]
    values = difference(outputs[0], outputs[1]), difference(outputs[2], outputs[3]), difference(*constants)
    return Row("layer", name, max(values))


def splitter_rows():
    items = [Path(folder) / kind / f"{i}.png" for folder in ("train", "valid") for kind in "ab" for i in range(20)]
    frame = pd.DataFrame({"name": list(map(str, items)), "is_valid": [i % 3 == 0 for i in range(80)], "k": range(80)})
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "valid.txt"
        listed.write_text("\n".join(item.name for item in items[3:7]))
        made = {
            "RandomSplitter": lambda m: m.RandomSplitter(0.3, seed=42)(items),
            "RandomSplitter()": lambda m: m.RandomSplitter(seed=7)(items),
            "EndSplitter": lambda m: m.EndSplitter(0.25)(items),
            "EndSplitter(valid_last=False)": lambda m: m.EndSplitter(0.25, valid_last=False)(items),
            "IndexSplitter": lambda m: m.IndexSplitter([3, 7, 9])(items),
            "GrandparentSplitter": lambda m: m.GrandparentSplitter()(items),
            "FuncSplitter": lambda m: m.FuncSplitter(lambda item: item.parent.name == "b")(items),
            "MaskSplitter": lambda m: m.MaskSplitter([i % 4 == 0 for i in range(80)])(items),
            "FileSplitter": lambda m: m.FileSplitter(listed)(items),
            "ColSplitter": lambda m: m.ColSplitter()(frame),
            "ColSplitter(on=)": lambda m: m.ColSplitter("k", on=[3, 5])(frame),
            "TrainTestSplitter": lambda m: m.TrainTestSplitter(random_state=1)(items),
            "TrainTestSplitter(stratify=)": lambda m: m.TrainTestSplitter(
                random_state=1, stratify=[item.parent.name for item in items]
            )(items),
        }
        for name, split in made.items():
            mine, their = split(ours), split(theirs)
            yield Row("splitter", name, max(difference(list(a), list(b)) for a, b in zip(mine, their)))
    sizes = [[len(part) for part in m.RandomSubsetSplitter(0.3, 0.1, seed=1)(items)] for m in (ours, theirs)]
    yield Row("splitter", "RandomSubsetSplitter, sizes", difference(*sizes))
    split = [[list(part) for part in m.RandomSubsetSplitter(0.3, 0.1, seed=1)(items)] for m in (ours, theirs)]
    yield Row("splitter", "RandomSubsetSplitter", max(difference(a, b) for a, b in zip(*split)))


def schedule_rows():
    pairs = {
        name: [getattr(m, name)(*arguments) for m in (ours, theirs)]
        for name, arguments in (
            *(("SchedLin", (1, 3)), ("SchedCos", (1, 3)), ("SchedExp", (1, 3)), ("SchedNo", (1, 3))),
            ("SchedPoly", (1, 3, 2)),
        )
    }
    pairs["combine_scheds"] = [
        m.combine_scheds([0.3, 0.7], [m.SchedCos(0.3, 0.6), m.SchedCos(0.6, 0.2)]) for m in (ours, theirs)
    ]
    lr, lr_end = 1e-2, 1e-7
    cycle = ours.one_cycle(lr)
    pairs["one_cycle, lr"] = cycle["lr"], combined_cos(0.25, lr / 25, lr, lr_end)
    pairs["one_cycle, momentum"] = cycle["momentum"], combined_cos(0.25, 0.95, 0.85, 0.95)
    flat = theirs.combine_scheds([0.75, 0.25], [theirs.SchedNo(lr, lr), theirs.SchedCos(lr, lr_end)])
    pairs["flat_cosine"] = ours.flat_cosine(lr), flat
    pairs["sgdr"] = ours.sgdr(lr, 3), theirs.combine_scheds([1 / 7, 2 / 7, 4 / 7], [theirs.SchedCos(lr, 0)] * 3)
    places = [i / 40 for i in range(40)]
    for name, schedules in pairs.items():
        yield Row("schedule", name, difference(*([schedule(p) for p in places] for schedule in schedules)))


def transform_rows():
    """Single images as validation sees them, and the share of a batch that random transforms move."""
    g = np.random.default_rng(5)
    image = g.integers(0, 256, (37, 52, 3), dtype=np.uint8)
    smooth = np.add.outer(np.arange(60), np.arange(80)).astype(np.uint8)[..., None].repeat(3, 2)
    calls = {
        "CropPad(30)": (image, lambda m: m.CropPad(30)),
        "CropPad(64)": (image, lambda m: m.CropPad(64)),
        "CropPad(64, pad_mode='border')": (image, lambda m: m.CropPad(64, pad_mode="border")),
        "CropPad((50, 40), pad_mode='reflection')": (image, lambda m: m.CropPad((50, 40), pad_mode="reflection")),
        "RandomCrop(20)": (image, lambda m: m.RandomCrop(20)),
        "Resize(20)": (smooth, lambda m: m.Resize(20)),
        "Resize(20, 'squish')": (smooth, lambda m: m.Resize(20, "squish")),
        "Resize(20, 'pad', pad_mode='zeros')": (smooth, lambda m: m.Resize(20, "pad", pad_mode="zeros")),
        "RandomResizedCrop(20)": (smooth, lambda m: m.RandomResizedCrop(20)),
        "RatioResize(40)": (smooth, lambda m: m.RatioResize(40)),
    }
    for call, (pixels, make) in calls.items():
        mine, their = (np.asarray(make(m)(m.PILImage.create(pixels), split_idx=1), np.float64) for m in (ours, theirs))
        gap = difference(mine, their) if mine.shape == their.shape else math.inf
        near = pixels is smooth and mine.shape == their.shape and np.abs(mine - their).max() <= GREY_LEVELS
        yield Row("transform", call, 0.0 if near else gap)
    batch = torch.rand(4000, 1, 4, 4, generator=torch.Generator().manual_seed(6))
    for call in ("Flip(p=0.3)", "Dihedral(p=0.8)", "Brightness(p=0.25)", "Contrast(p=0.25)", "RandomErasing(p=0.4)"):
        shares = []
        for module in (ours, theirs):
            torch.manual_seed(0)
            transform = eval(call, vars(module))
            moved = (
                transform(batch, torch.Generator().manual_seed(0))
                if module is ours
                else transform(theirs.TensorImage(batch.clone()), split_idx=0)
            )
            shares.append(float((moved.as_subclass(torch.Tensor) != batch).flatten(1).any(1).float().mean()))
        gap = abs(shares[0] - shares[1])
        yield Row("transform", f"{call}, share moved", 0.0 if gap < 0.05 else gap)
    x = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    y = torch.zeros(64, dtype=torch.int64)
    mine = ours.DataLoaders.from_arrays((x, y), bs=64, batch_tfms=ours.Normalize()).train.batch_tfms.transforms[0]
    their = theirs.Normalize()
    their.setup(theirs.DataLoader(list(zip(x, y)), bs=64))
    for stats in ("mean", "std"):
        yield Row(
            "transform", f"Normalize().{stats}", difference(getattr(mine, stats), getattr(their, stats).flatten())
        )


LISTS = (
    *("L(1, 2, 3)", "L(range(5))", "L(None)", "L(1, match=3)", "L([1], [2, 3]).map(len)", "L(range(5))[[1, 3]]"),
    *("L(range(4))[[True, False, True, False]]", "L(1, 0, 2).filter()", "L(3, 1, 2).sorted(reverse=True)"),
    *("L(3, 1, 3).unique()", "L(1, 2, 3).argwhere(lambda o: o % 2)", "L([[1, 2], [3, 4]]).zip()", "L(1, 2).sum()"),
    *("L(1, 2).zipwith([3, 4])", "L([1, 2], [3], 4).concat()", "L([(1, 2), (3, 4)]).itemgot(1)", "L.range(2, 5)"),
    *("L(4, 5).enumerate()", "L(1, 2).product()", "~L(True, False)", "L(1) + 2", "L(1, 2).reduce(lambda a, b: a - b)"),
)


def list_rows():
    for call in LISTS:
        mine, their = (eval(call, {"L": module.L}) for module in (ours, theirs))
        yield Row("list", call, difference(mine, list(their) if isinstance(their, theirs.L) else their))


TRANSFORMS = (
    *("Resize", "RandomResizedCrop", "CropPad", "RandomCrop", "RatioResize", "Flip", "Dihedral", "Rotate", "Zoom"),
    *("Warp", "Brightness", "Contrast", "Saturation", "Hue", "RandomErasing", "aug_transforms"),
)
METHODS = ("fit_one_cycle", "fit_flat_cos", "fit_sgdr", "fine_tune")


def default_rows():
    pairs = {name: (getattr(ours, name), getattr(theirs, name)) for name in TRANSFORMS}
    pairs |= {f"Learner.{name}": (getattr(ours.Learner, name), getattr(theirs.Learner, name)) for name in METHODS}
    for name, (mine, their) in pairs.items():
        both = [_defaults(mine), _defaults(their)]
        shared = both[0].keys() & both[1].keys()
        yield Row("default", name, 0.0 if all(both[0][k] == both[1][k] for k in shared) else math.inf)
    for name in ("imagenet_stats", "cifar_stats", "mnist_stats"):
        yield Row("default", name, max(difference(*ab) for ab in zip(getattr(ours, name), getattr(theirs, name))))
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    mine = ours.Normalize.from_stats(*ours.imagenet_stats)
    their = theirs.Normalize.from_stats(*theirs.imagenet_stats, cuda=False)
    yield Row("default", "Normalize", difference(_normalize(mine, x), their.encodes(theirs.TensorImage(x))))


def _normalize(transform, x):
    return (x - transform.mean.view(1, -1, 1, 1)) / transform.std.view(1, -1, 1, 1)


def _defaults(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: _comparable(p.default) for p in parameters if p.default is not p.empty}


def _comparable(value):
    value = getattr(value, "value", value)
    return tuple(map(_comparable, value)) if isinstance(value, (list, tuple)) else value


def main():
    failed, differing = [], set()
    parts = (
        list_rows,
        transform_rows,
        metric_rows,
        loss_rows,
        optimizer_rows,
        layer_rows,
        splitter_rows,
        schedule_rows,
        default_rows,
    )
    print("| kind | name | largest difference | |\n|---|---|---|---|")
    for part in parts:
        for row in part():
            differs = row.difference > TOLERANCE
            reason = ON_PURPOSE.get(row.name, "") if differs else ""
            if differs:
                differing.add(row.name)
            if differs and not reason:
                failed.append(row.name)
            mark = f"on purpose: {reason}" if reason else "DIFFERS" if differs else ""
            print(f"| {row.kind} | {row.name} | {row.difference:.1e} | {mark} |", flush=True)
    failed += [f"{name} (no longer differs)" for name in ON_PURPOSE.keys() - differing]
    if failed:
        sys.exit(f"not as expected: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
