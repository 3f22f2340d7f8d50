"""Activation statistics equal values computed by hand, hooks are removed, and figures show the numbers."""

import numpy as np
import pytest
import torch
from torch import nn

from minilearner import ActivationStats, Callback, DataLoaders, Learner


class Outputs(Callback):
    """Keeps each training batch's output of one layer."""

    def __init__(self, layer):
        self.layer, self.seen = layer, []

    def before_batch(self, run):
        if run.training:
            self.handle = self.layer.register_forward_hook(lambda m, i, o: self.seen.append(o.detach().clone()))

    def after_batch(self, run):
        if run.training:
            self.handle.remove()


def learner(model, blobs):
    return Learner(DataLoaders.from_arrays(*blobs, bs=16, seed=3), model, lr=0.1)


def fit(model, blobs, stats, *cbs, n_epochs=2):
    with (learn := learner(model, blobs)).no_logging():
        learn.fit(n_epochs, cbs=[stats, *cbs])
    return learn


def n_hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def test_values_equal_those_computed_by_hand(net, blobs):
    model = net()
    stats, outputs = ActivationStats(with_hist=True), Outputs(model[1])
    fit(model, blobs, stats, outputs)
    assert stats.names == ["0", "1", "4"]
    assert stats.means.shape == (10, 3) and stats.hists.shape == (10, 3, 40)
    np.testing.assert_allclose(stats.means[:, 1], [t.mean() for t in outputs.seen], atol=1e-6)
    np.testing.assert_allclose(stats.stds[:, 1], [t.std() for t in outputs.seen], rtol=1e-5)
    np.testing.assert_allclose(stats.near_zero[:, 1], [(t.abs() <= 0.05).float().mean() for t in outputs.seen])
    np.testing.assert_allclose(stats.hists[:, 1], [t.abs().histc(40, 0, 10) for t in outputs.seen])


def test_every_fourth_batch_and_chosen_layers(net, blobs):
    model = net()
    stats, outputs = ActivationStats([model[2]], every=4), Outputs(model[2])
    fit(model, blobs, stats, outputs)
    assert stats.names == ["2"] and len(stats.means) == 3  # batches 0, 4 and 8 of 10
    np.testing.assert_allclose(stats.means[:, 0], [outputs.seen[i].mean() for i in (0, 4, 8)], atol=1e-6)


def test_layers_without_parameters_can_be_included(net, blobs):
    fit(model := net(), blobs, stats := ActivationStats(include_paramless=True))
    assert stats.names == [str(i) for i in range(len(model))]


def test_a_layer_that_is_not_called_is_nan(blobs):
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.n = nn.Linear(2, 3), nn.Linear(3, 3), 0

        def forward(self, x):
            self.n += self.training
            return self.a(x) if self.n % 2 else self.b(self.a(x))

    fit(Sometimes(), blobs, stats := ActivationStats(), n_epochs=1)
    assert np.isnan(stats.stds[:, 1]).tolist() == [True, False, True, False, True]
    assert not np.isnan(stats.stds[:, 0]).any()


def test_training_is_the_same_and_no_hook_stays(net, blobs):
    with_stats, plain = net(), net()
    torch.manual_seed(0)
    fit(with_stats, blobs, ActivationStats(with_hist=True))
    torch.manual_seed(0)
    fit(plain, blobs, Callback())
    assert all(torch.equal(a, b) for a, b in zip(with_stats.parameters(), plain.parameters()))
    assert n_hooks(with_stats) == 0


def test_no_hook_stays_after_an_interrupt(net, blobs):
    class Interrupts(Callback):
        def after_backward(self, run):
            assert n_hooks(run.model) == 3
            raise KeyboardInterrupt

    model, stats = net(), ActivationStats()
    with (learn := learner(model, blobs)).no_logging(), pytest.raises(KeyboardInterrupt):
        learn.fit(1, cbs=[stats, Interrupts()])
    assert n_hooks(model) == 0 and len(stats.means) == 1


def test_validate_and_the_sweep_record_nothing(net, blobs):
    learn, stats = learner(net(), blobs), ActivationStats()
    learn.add_cb(stats)
    with learn.no_logging():
        learn.fit(1)
        learn.validate()
        learn.lr_find(num_it=3, show_plot=False)
    assert len(stats.means) == 5


def test_low_precision_is_summed_in_full(net, blobs):
    dls = DataLoaders.from_arrays(*blobs, bs=16, seed=3)
    with (learn := Learner(dls, net(), precision="bf16")).no_logging():
        learn.fit(1, cbs=(stats := ActivationStats()))
    assert stats.means.dtype == np.float32 and np.isfinite(stats.means).all()


def test_layer_stats_are_drawn(net, blobs):
    fit(net(), blobs, stats := ActivationStats())
    figure = stats.plot_layer_stats(-1)
    drawn = {ax.get_ylabel(): ax.lines[0].get_ydata() for ax in figure.axes}
    np.testing.assert_allclose(drawn["mean"], stats.means[:, -1])
    np.testing.assert_allclose(drawn["standard deviation"], stats.stds[:, -1])
    np.testing.assert_allclose(drawn["share near zero"], stats.near_zero[:, -1])
    assert "'4'" in figure.axes[-1].get_xlabel()


def test_histograms_are_drawn_as_columns(net, blobs):
    fit(net(), blobs, stats := ActivationStats(with_hist=True))
    ax = stats.color_dim(0).axes[0]
    np.testing.assert_allclose(ax.images[0].get_array(), np.log1p(stats.hists[:, 0].T))
    assert ax.images[0].get_extent() == [-0.5, 9.5, 0, 10]


def test_bad_arguments_are_refused(net, blobs):
    with pytest.raises(ValueError, match="`every` must be at least 1"):
        ActivationStats(every=0)
    with pytest.raises(ValueError, match="`modules` must be modules of the model"):
        fit(net(), blobs, ActivationStats([nn.Linear(1, 1)]))
    with pytest.raises(ValueError, match="no layers to watch"):
        fit(net(), blobs, ActivationStats([]))
    fit(net(), blobs, stats := ActivationStats())
    with pytest.raises(ValueError, match="there are no histograms"):
        stats.color_dim(0)
    with pytest.raises(ValueError, match="`idx` must be an index into the 3 recorded layers. Received: idx=3"):
        stats.plot_layer_stats(3)
