"""What a loss gives each item, and what it divides by."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from minilearner import Learner, MixUp
from minilearner.errors import DataError
from minilearner.training.item_losses import DivisorProbe, make_item_loss, measure_loss, mix_losses
from minilearner.training.loss_terms import LossTerms, add_divisors, is_plain_mean

G = torch.Generator().manual_seed(0)
PRED, WEIGHT = torch.randn(6, 3, generator=G), torch.tensor([1.0, 5.0, 0.2])
Y = torch.tensor([0, 1, 2, 2, 1, 0])
MAP, MASK = torch.randn(3, 3, 4, 4, generator=G), torch.randint(3, (3, 4, 4), generator=G)


def of_each(loss, pred, y):
    return torch.stack([loss(pred[i : i + 1], y[i : i + 1]) for i in range(len(y))])


def test_pixels_that_are_ignored_do_not_dilute_an_items_loss():
    mask = MASK.clone()
    mask[0, :3] = 255
    loss = nn.CrossEntropyLoss(ignore_index=255)
    torch.testing.assert_close(make_item_loss(loss)(MAP, mask), of_each(loss, MAP, mask))
    torch.testing.assert_close(make_item_loss(lambda p, y: loss(p, y))(MAP, mask), of_each(loss, MAP, mask))


@pytest.mark.parametrize("wrap", [lambda loss: loss, lambda loss: lambda pred, y: loss(pred, y)])
def test_an_item_that_is_ignored_altogether_has_no_loss(wrap):
    mask = MASK.clone()
    mask[1] = -100
    losses = make_item_loss(wrap(nn.CrossEntropyLoss(WEIGHT)))(MAP, mask)
    assert losses[1] == 0 and (losses[[0, 2]] > 0).all()


@pytest.mark.parametrize("reduction", ["sum", "batchmean"])
def test_what_is_added_up_is_added_up_in_each_item(reduction):
    target = F.one_hot(Y, 3) * 0.8 + 0.1
    loss = nn.KLDivLoss(reduction=reduction)
    wanted = F.kl_div(PRED.log_softmax(1), target, reduction="none").sum(1)
    torch.testing.assert_close(make_item_loss(loss)(PRED.log_softmax(1), target), wanted)


def test_a_module_that_cannot_do_without_a_reduction_is_asked_item_by_item():
    class Strict(nn.CrossEntropyLoss):
        def forward(self, pred, y):
            if self.reduction == "none":
                raise ValueError("only mean and sum")
            return super().forward(pred, y)

    wanted = F.cross_entropy(PRED, Y, WEIGHT, reduction="none")
    torch.testing.assert_close(make_item_loss(Strict(WEIGHT))(PRED, Y), wanted)


def test_a_loss_for_whole_batches_says_that_it_has_none_for_an_item():
    def contrastive(pred, y):
        return F.cross_entropy(pred.reshape(2, 3, 3).sum(2), torch.arange(2))

    with pytest.raises(DataError, match="no value for a single item.*with_loss=False"):
        make_item_loss(contrastive)(PRED, Y)
    share = torch.full((6,), 0.75)
    torch.testing.assert_close(mix_losses(contrastive, PRED, Y, Y.flip(0), share)[0], contrastive(PRED, Y))


def test_a_list_of_one_target_an_item_has_no_losses_of_items():
    def loss(pred, y):
        return sum(F.cross_entropy(p.expand(len(t), 3), t) for p, t in zip(pred, y, strict=False))

    with pytest.raises(DataError, match=r"an entry for each item. Received: tensors of lengths \[6, 1\]"):
        make_item_loss(loss)(PRED, [Y, Y[:1]])


@pytest.mark.parametrize("seed", range(8))
def test_a_mixture_leaves_out_items_that_a_loss_selects_away(seed):
    def selected(pred, y):
        return F.cross_entropy(pred[y >= 0], y[y >= 0], torch.tensor([1.0, 5.0, 0.5]))

    g = torch.Generator().manual_seed(seed)
    pred, share = torch.randn(14, 3, generator=g), 0.5 + torch.rand(14, generator=g) / 2
    y, other = torch.randint(-1, 3, (14,), generator=g), torch.randint(-1, 3, (14,), generator=g)
    ignoring = torch.nn.CrossEntropyLoss(torch.tensor([1.0, 5.0, 0.5]), ignore_index=-1)
    wanted, _ = mix_losses(ignoring, pred, y, other, share)
    torch.testing.assert_close(mix_losses(selected, pred, y, other, share)[0], wanted)


def test_items_whose_losses_interact_are_mixed_by_the_mean_share():
    def dice(pred, y):
        p, t = pred.softmax(1), F.one_hot(y, 3)
        return 1 - 2 * (p * t).sum() / (p * p).sum()

    other, share = Y.flip(0), torch.tensor([0.5, 1.0, 0.75, 0.5, 1.0, 0.75])
    wanted = 0.75 * dice(PRED, Y) + 0.25 * dice(PRED, other)
    torch.testing.assert_close(mix_losses(dice, PRED, Y, other, share)[0], wanted)
    both = lambda pred, y: F.cross_entropy(pred, y) + dice(pred, y)  # noqa: E731 - the classic of segmentation
    found = mix_losses(both, PRED, Y, other, share)[0]
    torch.testing.assert_close(found, 0.75 * both(PRED, Y) + 0.25 * both(PRED, other), rtol=0.1, atol=0.1)


def ctc(reduction="mean"):
    log_probs = torch.randn(7, 2, 4, generator=torch.Generator().manual_seed(0)).log_softmax(2)
    targets, of_inputs, lengths = torch.tensor([[1, 2, 3], [1, 3, 0]]), torch.tensor([7, 7]), torch.tensor([3, 2])
    return F.ctc_loss(log_probs, targets, of_inputs, lengths, reduction=reduction)


POSITIVE = torch.rand(6, 3, generator=G) + 0.1
SIGNS = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, -1.0])
TORCH = {
    "cross_entropy": lambda r: F.cross_entropy(PRED, Y, WEIGHT, reduction=r, ignore_index=2, label_smoothing=0.1),
    "probabilities": lambda r: F.cross_entropy(PRED, POSITIVE, WEIGHT, reduction=r),
    "pixels": lambda r: F.cross_entropy(MAP, MASK, WEIGHT, reduction=r),
    "nll_loss": lambda r: F.nll_loss(PRED, Y, WEIGHT, reduction=r),
    "bce": lambda r: F.binary_cross_entropy(PRED.sigmoid(), POSITIVE.clamp(0, 1), WEIGHT, reduction=r),
    "bce_with_logits": lambda r: F.binary_cross_entropy_with_logits(PRED, POSITIVE, WEIGHT, reduction=r),
    "mse": lambda r: F.mse_loss(PRED, POSITIVE, reduction=r),
    "l1": lambda r: F.l1_loss(PRED, POSITIVE, reduction=r),
    "smooth_l1": lambda r: F.smooth_l1_loss(PRED, POSITIVE, reduction=r),
    "huber": lambda r: F.huber_loss(PRED, POSITIVE, reduction=r),
    "kl_div": lambda r: F.kl_div(PRED, POSITIVE, reduction=r),
    "poisson": lambda r: F.poisson_nll_loss(PRED, POSITIVE, reduction=r),
    "gaussian": lambda r: F.gaussian_nll_loss(PRED, POSITIVE, POSITIVE, reduction=r),
    "hinge": lambda r: F.hinge_embedding_loss(PRED[:, 0], SIGNS, reduction=r),
    "cosine": lambda r: F.cosine_embedding_loss(PRED, POSITIVE, SIGNS, reduction=r),
    "ranking": lambda r: F.margin_ranking_loss(PRED[:, 0], PRED[:, 1], SIGNS, reduction=r),
    "margin": lambda r: F.multi_margin_loss(PRED, Y, weight=WEIGHT, reduction=r),
    "multilabel": lambda r: F.multilabel_soft_margin_loss(PRED, POSITIVE, WEIGHT, reduction=r),
    "multilabel_margin": lambda r: F.multilabel_margin_loss(PRED, Y[:, None].repeat(1, 3), reduction=r),
    "soft_margin": lambda r: F.soft_margin_loss(PRED, POSITIVE, reduction=r),
    "triplet": lambda r: F.triplet_margin_loss(PRED, POSITIVE, PRED.flip(0), reduction=r),
    "ctc": ctc,
}


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss")
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", TORCH)
def test_each_of_torchs_losses_is_the_sum_of_its_items_over_its_divisor(name, reduction):
    with LossTerms() as seen:
        value = TORCH[name](reduction)
    (term,) = seen.terms
    divisor, n = term.divisor(), 2 if name == "ctc" else 3 if name == "pixels" else 6
    items = term.by_item(n)
    total = items.sums.sum()
    torch.testing.assert_close(total if items.is_sum else total / items.divisors.sum(), value)
    assert items.is_sum == divisor.is_sum == (reduction == "sum")
    assert divisor.is_sum or divisor.value == pytest.approx(float(items.divisors.sum()))
    torch.testing.assert_close(term.safe_value(divisor), value)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_a_batch_that_is_ignored_measures_0_and_moves_nothing(weight):
    pred = PRED.clone().requires_grad_()
    loss, divisor = measure_loss(nn.CrossEntropyLoss(weight), pred, torch.full((6,), -100))
    loss.backward()
    assert loss == 0 and divisor.value == 0 and not pred.grad.any()


@pytest.mark.parametrize(
    ("loss", "value", "is_sum"),
    [
        (lambda pred, y: (F.cross_entropy(pred, y, reduction="none") * WEIGHT[y]).sum() / WEIGHT[y].sum(), None, False),
        (lambda pred, y: F.cross_entropy(pred, y, reduction="none").mean(), 6, False),
        (lambda pred, y: F.cross_entropy(pred, y, reduction="none").sum(), 6, True),
    ],
)
def test_a_probe_measures_a_loss_that_reduces_by_hand(loss, value, is_sum):
    probe = DivisorProbe()
    first, second = (probe.measure(loss, PRED, y) for y in (Y, torch.tensor([1, 1, 1, 1, 1, 2])))
    assert first is None or first.is_sum
    if value is None:  # in units of the first batch, whose divisor counts as its number of items
        assert second.value == pytest.approx(6 * 25.2 / 12.4, rel=1e-4)
    else:
        assert (second is None) == (not is_sum)


def test_a_probe_leaves_alone_what_is_no_mean_over_items():
    probe = DivisorProbe()
    assert [probe.measure(lambda pred, y: pred.std(), pred, Y) for pred in (PRED, 3 * PRED.flip(0), PRED)][1:] == [
        None
    ] * 2


def test_divisors_of_parts_add_up():
    with LossTerms() as seen:
        for part in (slice(0, 2), slice(2, 6)):
            F.cross_entropy(PRED[part], Y[part], WEIGHT)
    whole = add_divisors([term.divisor() for term in seen.terms])
    assert whole.value == pytest.approx(float(WEIGHT[Y].sum())) and whole.size == 6


def test_class_weights_count_under_mixup():
    x, y = torch.randn(24, 4, generator=G), (torch.arange(24) % 4 == 3).long()

    def share_of_rare(loss):
        torch.manual_seed(0)
        model = nn.Linear(4, 2)
        nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
        learn = Learner(([(x, y)], None), model, loss, torch.optim.SGD, device="cpu", cbs=MixUp())
        with learn.no_logging():
            learn.fit(3, 0.1)
        return float(model(x).softmax(1)[:, 1].mean().detach())

    weight = torch.tensor([1.0, 50.0])
    wanted = share_of_rare(nn.CrossEntropyLoss(weight))
    assert wanted > share_of_rare(nn.CrossEntropyLoss()) + 0.05

    def by_hand(pred, y):
        return (F.cross_entropy(pred, y, reduction="none") * weight[y]).sum() / weight[y].sum()

    for loss in (lambda pred, y: F.cross_entropy(pred, y, weight), by_hand):
        assert share_of_rare(loss) == pytest.approx(wanted, rel=1e-4)


def test_a_loss_without_gradients_gives_items_their_losses_all_the_same():
    losses = make_item_loss(lambda pred, y: (pred.argmax(1) != y).float().mean())(PRED, Y)
    assert losses.tolist() == (PRED.argmax(1) != Y).float().tolist()


def test_weights_by_hand_count_though_all_items_have_the_same_loss():
    pred = torch.zeros(6, 3)

    def by_hand(pred, y):
        return (F.cross_entropy(pred, y, reduction="none") * WEIGHT[y]).sum() / WEIGHT[y].sum()

    losses = make_item_loss(by_hand)(pred, Y)
    torch.testing.assert_close(losses / losses.sum(), WEIGHT[Y] / WEIGHT[Y].sum(), rtol=1e-4, atol=1e-6)


VALUES, HITS = torch.randn(6, 3, generator=G), torch.rand(6, 3, generator=G)


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (nn.CrossEntropyLoss(), Y),
        (nn.CrossEntropyLoss(WEIGHT, ignore_index=2, label_smoothing=0.1), Y),
        (nn.CrossEntropyLoss(), torch.full((6,), -100)),
        (nn.CrossEntropyLoss(), HITS),
        (nn.NLLLoss(WEIGHT), Y),
        (nn.BCEWithLogitsLoss(WEIGHT, pos_weight=WEIGHT), HITS),
        (nn.HuberLoss(delta=0.5), VALUES),
        (nn.SmoothL1Loss(beta=0.5), VALUES),
        (nn.L1Loss(), VALUES),
        (nn.MSELoss(), VALUES),
    ],
)
def test_a_loss_of_torch_is_measured_as_if_a_function_had_called_it(loss, y):
    found, expected = measure_loss(loss, PRED, y), measure_loss(lambda p, t: loss(p, t), PRED, y)
    assert torch.equal(found[0], expected[0]) and found[1] == expected[1]


def test_a_loss_with_a_hook_is_watched():
    loss = nn.MSELoss()
    loss.register_forward_hook(lambda module, args, value: 2 * value)
    assert measure_loss(loss, PRED, VALUES)[0] == 2 * F.mse_loss(PRED, VALUES)


def test_a_plain_loss_that_somebody_replaced_is_called(monkeypatch):
    original = nn.MSELoss.forward
    monkeypatch.setattr(nn.MSELoss, "forward", lambda self, pred, y: 10 * original(self, pred, y))
    assert not is_plain_mean(nn.MSELoss())
    assert measure_loss(nn.MSELoss(), PRED, VALUES)[0] == nn.MSELoss()(PRED, VALUES)


def test_a_hook_of_all_modules_sees_a_plain_loss():
    hook = register_module_forward_hook(lambda module, inputs, loss: 10 * loss)
    try:
        assert measure_loss(nn.MSELoss(), PRED, VALUES)[0] == nn.MSELoss()(PRED, VALUES)
    finally:
        hook.remove()
