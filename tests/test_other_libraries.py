"""People who come from Keras, Lightning or fastai learn our word for theirs from one sentence."""

import copy
import pickle

import pytest
import torch
from torch import nn

import minilearner.vision.all
from minilearner import DataLoaders, EarlyStopping, Learner, LRFinder
from minilearner.callbacks.fastai_tracking import SaveModelCallback
from minilearner.other_libraries import (
    _ADVICE_ON_ARGUMENTS,
    _ADVICE_ON_LEARNER,
    LOSSES_ELSEWHERE,
    METRICS_ELSEWHERE,
)
from minilearner.vision.all import ImageDataLoaders


@pytest.fixture
def learn():
    x, y = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 2
    return Learner(DataLoaders.from_arrays((x, y), (x, y), bs=8, seed=1), nn.Linear(4, 2), device="cpu")


@pytest.mark.parametrize(
    ("argument", "way_out"),
    [
        ("epochs", "Did you mean 'n_epoch'"),
        ("max_epochs", "Did you mean 'n_epoch'"),
        ("callbacks", "Did you mean 'cbs'"),
        ("learning_rate", "Did you mean 'lr'"),
        ("class_weight", r"loss_func=nn.CrossEntropyLoss\(weight=weights\)"),
        ("validation_data", r"DataLoaders.from_arrays\(\(x, y\), \(valid_x, valid_y\), bs=64\)"),
        ("monitor", r"cbs=EarlyStopping\('valid_loss', patience=3\)"),
        ("verbose", "with learn.no_bar"),
        ("gradient_clip_val", r"cbs=GradientClip\(1.0\)"),
        ("lr_max", "Did you mean 'lr'"),
        ("shuffle", "shuffled in each epoch"),
        ("validation_split", "valid_pct=0.2"),
        ("validation_freq", r"cbs=Validate\(every_epochs=5\)"),
    ],
)
def test_an_argument_of_another_library_gets_our_word(learn, argument, way_out):
    with pytest.raises(TypeError, match=rf"`Learner.fit` has no argument `{argument}`\. .*{way_out}"):
        learn.fit(1, **{argument: 1})


def test_the_learner_itself_says_where_arguments_go(learn):
    for argument, way_out in (
        ("accelerator", 'device="cpu"'),
        ("max_epochs", "goes to `fit`"),
        ("loss", "'loss_func'"),
    ):
        with pytest.raises(TypeError, match=f"`Learner` has no argument `{argument}`.*{way_out}"):
            Learner(learn.dls, learn.model, **{argument: "gpu"})
    for argument, way_out in (("mode", "comp=np.greater"), ("filepath", "Did you mean 'fname'")):
        with pytest.raises(TypeError, match=f"`SaveModelCallback` has no argument `{argument}`.*{way_out}"):
            SaveModelCallback(**{argument: "x"})
    with pytest.raises(TypeError, match=r"cbs=\[EarlyStopping\(\), SaveBest\(\)\]"):
        EarlyStopping("valid_loss", restore_best_weights=True)


@pytest.mark.parametrize(
    ("given", "meant"),
    [("16-mixed", "fp16"), (16, "fp16"), ("bf16-mixed", "bf16"), (torch.bfloat16, "bf16"), ("mixed_float16", "fp16")],
)
def test_a_precision_of_another_library_is_known(learn, given, meant):
    with pytest.raises(ValueError, match=f"`precision` must be one of .*Did you mean '{meant}'"):
        Learner(learn.dls, learn.model, precision=given)


def test_values_of_another_library_are_refused_with_the_way_out(learn):
    with pytest.raises(ValueError, match=r"Did you mean 'cuda:1'\? Received: device='gpu:1'"):
        Learner(learn.dls, learn.model, device="gpu:1")
    with pytest.raises(ValueError, match=r"Did you mean 'cuda:0'\? Received: device='/GPU:0'"):
        Learner(learn.dls, learn.model, device="/GPU:0")
    if not torch.backends.mps.is_available():
        with pytest.raises(ValueError, match="`device` must be one that this machine has, .* no 'mps' here"):
            Learner(learn.dls, learn.model, device="mps")
    with pytest.raises(TypeError, match="Name a folder for this run: checkpoint='runs/1'"):
        learn.fit(1, checkpoint=True)
    with pytest.raises(TypeError, match=r"`n_epoch` must be a number of epochs\. Received: data\."):
        learn.fit(torch.zeros(3), torch.zeros(3))
    with pytest.raises(TypeError, match=r"`cbs` must be callbacks\. Received: 'early'\.$"):
        learn.fit(1, cbs="early")
    optimizer = torch.optim.SGD(learn.model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"TorchScheduler\(lambda opt: StepLR\(opt, \.\.\.\)\)"):
        learn.fit(1, cbs=torch.optim.lr_scheduler.StepLR(optimizer, 1))


@pytest.mark.parametrize("name", _ADVICE_ON_LEARNER)
def test_a_method_of_another_library_gets_our_word(learn, name):
    with pytest.raises(AttributeError, match=f"no attribute '{name}'") as raised:
        getattr(learn, name)
    assert str(raised.value).endswith(f". {_ADVICE_ON_LEARNER[name]}") and not hasattr(learn, name)


def test_a_misspelt_method_gets_the_nearest_and_copies_work(learn):
    with pytest.raises(AttributeError, match=r"no attribute 'fit_one_cicle'\. Did you mean 'fit_one_cycle'\?"):
        _ = learn.fit_one_cicle
    assert copy.copy(learn).model is learn.model
    with pytest.raises(AttributeError, match="'_nothing'$|'_nothing'.$"):
        _ = learn._nothing
    assert pickle.loads(pickle.dumps(learn.opt.hypers)) == learn.opt.hypers


@pytest.mark.parametrize(
    ("part", "text", "way_out"),
    [
        ("loss_func", "categorical_crossentropy", r"Write loss_func=nn\.CrossEntropyLoss\(\)\.$"),
        ("loss_func", "BinaryCrossentropy", r"Write loss_func=nn\.BCEWithLogitsLoss\(\)\.$"),
        ("loss_func", "MSELoss", r"Write loss_func=nn\.MSELoss\(\)\.$"),
        ("loss_func", "nothing", r"Received: loss_func='nothing'\.$"),
        ("metrics", ["accuracy"], r"Write metrics=accuracy, from minilearner\.vision\.all\.$"),
        ("metrics", "f1_score", r"Write metrics=F1Score\(\), from"),
        ("opt_func", "adam", r"opt_func=torch\.optim\.Adam\.$"),
        ("opt_func", "RMSProp", r"opt_func=torch\.optim\.RMSprop\.$"),
        ("splitter", "body", r"`splitter` must be a function .* Received: splitter='body'\.$"),
    ],
)
def test_a_text_is_refused_with_the_object_to_give(learn, part, text, way_out):
    with pytest.raises(TypeError, match=way_out):
        Learner(learn.dls, learn.model, **{part: text})
    with pytest.raises(TypeError, match=way_out):
        setattr(learn, part, text)


def test_each_object_to_give_is_there():
    for meant in (*LOSSES_ELSEWHERE.values(), *METRICS_ELSEWHERE.values()):
        assert callable(eval(meant, vars(minilearner.vision.all))) or meant.endswith("()")


def test_an_argument_is_not_taken_for_one_that_only_looks_like_it():
    for argument, way_out in (("image_size", r"item_tfms=Resize\(224\)"), ("ds_tfms", "'item_tfms' or 'batch_tfms'")):
        with pytest.raises(TypeError, match=f"no argument `{argument}`.*{way_out}"):
            ImageDataLoaders.from_folder("photos", **{argument: 224})


def test_advice_names_only_what_there_is(learn):
    for text in (*_ADVICE_ON_LEARNER.values(), *_ADVICE_ON_ARGUMENTS.values()):
        words = text.replace("(", " ").replace("`", " ").replace(",", " ").replace(")", " ").split()
        for word in words:
            if word.startswith("learn."):
                name = word.split(".")[1].split("=")[0]
                assert hasattr(learn, name), text


def test_predict_says_which_call_takes_batches(learn):
    way_out = r"`predict` takes one item\. For several, write learn.get_preds\(dl=learn.dls.test_dl\(items\)\)\."
    x = learn.dls.valid.items(range(3))[0]
    for batch, received in (
        (x, r"an array of shape \(3, 4\)"),
        (list(x), "a list of 3"),
        (learn.dls.valid, "a Memory"),
        (learn.dls.one_batch(), "a tuple of 2"),
    ):
        with pytest.raises(TypeError, match=f"{way_out} Received: {received}"):
            learn.predict(batch)
    assert learn.get_preds(dl=learn.dls.test_dl(list(x))).preds.shape == (3, 2)


def test_a_sweep_refuses_an_optimizer_of_another_model():
    model, other = nn.Linear(4, 2), nn.Linear(4, 2)
    with pytest.raises(ValueError, match=r"`optimizer` must hold parameters of `model`\..*SGD\(model.parameters\(\)"):
        LRFinder(model, torch.optim.SGD(other.parameters(), lr=0.1), nn.CrossEntropyLoss())
