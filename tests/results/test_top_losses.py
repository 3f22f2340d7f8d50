"""The worst items of any kind of target: several labels, numbers and classes."""

import numpy as np
import pytest
import torch
from torch import nn

from minilearner import ClassificationInterpretation, DataError, DataLoaders, Interpretation, Learner, Regression
from minilearner.data.targets import MultiCategory

SEVERAL = MultiCategory(["blue", "green", "red"])


def images(n=12):
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def learner(y, n_out, **options):
    dls = DataLoaders.from_arrays((images(), y), (images(), y), bs=5, seed=1, device="cpu", **options)
    torch.manual_seed(0)
    return Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(192, n_out)), device="cpu")


def several():
    return learner((images().mean((2, 3)) > 0.5).float(), 3, target=SEVERAL)


def numbers():
    return learner(images().mean((1, 2, 3))[:, None], 1, target=Regression(1))


def titles(figure):
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


@pytest.mark.parametrize("make", [several, numbers])
def test_the_largest_losses_are_those_of_get_preds(make):
    learn = make()
    interp, losses = Interpretation.from_learner(learn), learn.get_preds(with_loss=True).losses
    worst, indices = interp.top_losses(4)
    torch.testing.assert_close(worst, losses.sort(descending=True)[0][:4])
    torch.testing.assert_close(losses[indices], worst)
    torch.testing.assert_close(interp.top_losses(2, largest=False).losses, losses.sort()[0][:2])
    assert len(interp) == 12 and repr(interp).startswith("Interpretation: 12 items, mean loss 0.")


def test_titles_say_all_labels_and_the_loss():
    learn = several()
    interp = Interpretation.from_learner(learn)
    shown = titles(interp.plot_top_losses(3, nrows=1))
    found = learn.get_preds(with_decoded=True, with_loss=True)
    for title, index in zip(shown, interp.top_losses(3).indices, strict=True):
        actual, predicted, loss = title.split("\n")
        assert actual == (", ".join(SEVERAL.label(found.targets[index])) or "(none)")
        assert predicted == (", ".join(SEVERAL.label(found.decoded[index])) or "(none)")
        assert loss == f"loss: {found.losses[index]:.4f}"


def test_numbers_are_shown_beside_what_was_predicted():
    learn = numbers()
    interp = Interpretation.from_learner(learn)
    (title,) = titles(interp.show_results(5))
    found = learn.get_preds(with_loss=True)
    assert title == f"{found.targets[5].item():.4g}\n{found.preds[5].item():.4g}\nloss: {found.losses[5]:.4f}"


def test_places_in_the_order_of_losses_are_drawn():
    interp = Interpretation.from_learner(several())
    ninth_on = titles(interp.plot_top_losses(range(8, 12)))
    assert ninth_on == titles(interp.plot_top_losses(12))[8:]
    assert titles(interp.plot_top_losses([11], largest=False)) == titles(interp.plot_top_losses(1))
    with pytest.raises(ValueError, match="`idxs` must be between 0 and 11. Received: 12."):
        interp.show_results([0, 12])


def test_a_classifier_has_both():
    learn = learner(torch.arange(12) % 3, 3, vocab=["a", "b", "c"])
    interp = ClassificationInterpretation.from_learner(learn, act=lambda pred: pred.softmax(1))
    assert isinstance(interp, Interpretation) and len(titles(interp.show_results([1, 2]))) == 2
    figure = interp.plot_confusion_matrix(figsize=(4, 4), dpi=60, normalize=True, norm_dec=1)
    assert figure.get_dpi() == 60 and list(figure.get_size_inches()) == [4, 4]
    everything, own = Interpretation.from_learner(learn), interp.top_losses()
    torch.testing.assert_close(everything.top_losses().losses, own.losses)
    np.testing.assert_array_equal(everything.top_losses().indices, own.indices)


def test_what_cannot_be_interpreted_is_refused():
    learn = several()
    with pytest.raises(TypeError, match="Write `Interpretation.from_learner"):
        Interpretation(learn)
    with pytest.raises(DataError, match="the loss of each item, and so targets"):
        Interpretation.from_learner(learn, dl=learn.dls.test_dl(images()))
    with pytest.raises(DataError, match="For several labels, use `MultiLabelInterpretation`; for numbers"):
        ClassificationInterpretation.from_learner(learn)
    with pytest.raises(ValueError, match="build this with `from_learner`"):
        Interpretation(learn.predict_batches()).plot_top_losses(1)
