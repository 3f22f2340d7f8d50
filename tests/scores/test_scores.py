"""Scores over batches of unequal size equal scikit-learn's value for the whole set."""

import pytest
import sklearn.metrics as sk
import torch

from minilearner import DataLoaders, Learner
from minilearner.directions import direction_of_metric, direction_of_name
from minilearner.metrics import as_metric, metric_name, metric_names
from minilearner.scores import classes, multi, numbers
from minilearner.scores.accumulated import AccumMetric, skm_to_fastai
from minilearner.scores.perplexity import Perplexity

N = 60
g = torch.Generator().manual_seed(0)
SCORES, CLASSES = torch.randn(N, 4, generator=g), torch.randint(4, (N,), generator=g)
TWO, YES = torch.randn(N, 2, generator=g), torch.randint(2, (N,), generator=g)
LOGITS, SEVERAL = torch.randn(N, 3, generator=g), torch.randint(2, (N, 3), generator=g).float()
NUMBERS, WANTED = torch.rand(N, 1, generator=g), torch.rand(N, generator=g)


def over_batches(metric, pred, target):
    metric = as_metric(metric)
    metric.reset()
    for one, other in zip(pred.split([30, 20, 10]), target.split([30, 20, 10])):
        metric.update(one, other)
    return float(metric.compute())


BEST = SCORES.argmax(1)
OF_CLASSES = [
    (classes.F1Score(average="macro"), sk.f1_score(CLASSES, BEST, average="macro")),
    (classes.F1Score(labels=[0, 1], average="micro"), sk.f1_score(CLASSES, BEST, labels=[0, 1], average="micro")),
    (classes.FBeta(2.0, average="weighted"), sk.fbeta_score(CLASSES, BEST, beta=2.0, average="weighted")),
    (classes.Precision(average="macro"), sk.precision_score(CLASSES, BEST, average="macro")),
    (classes.Recall(average="macro"), sk.recall_score(CLASSES, BEST, average="macro")),
    (classes.Jaccard(average="macro"), sk.jaccard_score(CLASSES, BEST, average="macro")),
    (classes.BalancedAccuracy(), sk.balanced_accuracy_score(CLASSES, BEST)),
    (classes.BalancedAccuracy(adjusted=True), sk.balanced_accuracy_score(CLASSES, BEST, adjusted=True)),
    (classes.CohenKappa(), sk.cohen_kappa_score(CLASSES, BEST)),
    (classes.CohenKappa(weights="quadratic"), sk.cohen_kappa_score(CLASSES, BEST, weights="quadratic")),
    (classes.MatthewsCorrCoef(), sk.matthews_corrcoef(CLASSES, BEST)),
    (classes.HammingLoss(), sk.hamming_loss(CLASSES, BEST)),
    (classes.RocAuc(), sk.roc_auc_score(CLASSES, SCORES.softmax(1).numpy(), multi_class="ovr")),
    (classes.RocAuc(multi_class="ovo"), sk.roc_auc_score(CLASSES, SCORES.softmax(1).numpy(), multi_class="ovo")),
    (skm_to_fastai(sk.zero_one_loss), sk.zero_one_loss(CLASSES, BEST)),
]
SECOND = TWO.softmax(1)[:, 1]
OF_TWO = [
    (classes.F1Score(), sk.f1_score(YES, TWO.argmax(1))),
    (classes.Precision(pos_label=0), sk.precision_score(YES, TWO.argmax(1), pos_label=0)),
    (classes.RocAucBinary(), sk.roc_auc_score(YES, SECOND)),
    (classes.APScoreBinary(), sk.average_precision_score(YES, SECOND)),
    (classes.BrierScore(), sk.brier_score_loss(YES, TWO.argmax(1))),
]
HAS = (LOGITS.sigmoid() >= 0.5).long()
OF_MANY = [
    (multi.F1ScoreMulti(), sk.f1_score(SEVERAL, HAS, average="macro")),
    (multi.F1ScoreMulti(0.3, average="micro"), sk.f1_score(SEVERAL, LOGITS.sigmoid() >= 0.3, average="micro")),
    (multi.F1ScoreMulti(0.0, sigmoid=False), sk.f1_score(SEVERAL, LOGITS >= 0, average="macro")),
    (multi.FBetaMulti(0.5, average="weighted"), sk.fbeta_score(SEVERAL, HAS, beta=0.5, average="weighted")),
    (multi.PrecisionMulti(), sk.precision_score(SEVERAL, HAS, average="macro")),
    (multi.RecallMulti(), sk.recall_score(SEVERAL, HAS, average="macro")),
    (multi.JaccardMulti(), sk.jaccard_score(SEVERAL, HAS, average="macro")),
    (multi.MatthewsCorrCoefMulti(), sk.matthews_corrcoef(SEVERAL.flatten(), HAS.flatten())),
    (multi.HammingLossMulti(), sk.hamming_loss(SEVERAL, HAS)),
    (multi.APScoreMulti(), sk.average_precision_score(SEVERAL, LOGITS.sigmoid())),
    (multi.RocAucMulti(), sk.roc_auc_score(SEVERAL, LOGITS.sigmoid())),
]
FLAT = NUMBERS.flatten()
RANKS = torch.stack([WANTED, FLAT]).argsort(1).argsort(1).double()
OF_NUMBERS = [
    (numbers.R2Score(), sk.r2_score(WANTED, FLAT)),
    (numbers.ExplainedVariance(), sk.explained_variance_score(WANTED, FLAT)),
    (numbers.mse, sk.mean_squared_error(WANTED, FLAT)),
    (numbers.mae, sk.mean_absolute_error(WANTED, FLAT)),
    (numbers.msle, sk.mean_squared_log_error(WANTED, FLAT)),
    (numbers.rmse, sk.root_mean_squared_error(WANTED, FLAT)),
    (numbers.PearsonCorrCoef(), torch.corrcoef(torch.stack([WANTED, FLAT]))[0, 1]),
    (
        numbers.SpearmanCorrCoef(),
        torch.corrcoef(torch.stack([t.argsort().argsort().double() for t in (WANTED, FLAT)]))[0, 1],
    ),
    (numbers.exp_rmspe, (1 - (FLAT - WANTED).exp()).square().mean().sqrt()),
]
ALL = [
    *((metric, SCORES, CLASSES, value) for metric, value in OF_CLASSES),
    *((metric, TWO, YES, value) for metric, value in OF_TWO),
    *((metric, LOGITS, SEVERAL, value) for metric, value in OF_MANY),
    *((metric, NUMBERS, WANTED, value) for metric, value in OF_NUMBERS),
]


@pytest.mark.parametrize(("metric", "pred", "target", "value"), ALL, ids=lambda case: getattr(case, "name", None))
def test_over_batches_it_is_the_value_of_the_whole_set(metric, pred, target, value):
    assert over_batches(metric, pred, target) == pytest.approx(float(value), rel=1e-6)


@pytest.mark.parametrize("metric", [case[0] for case in ALL], ids=metric_name)
def test_it_is_known_whether_more_is_better(metric):
    direction = direction_of_metric(metric) or direction_of_name(metric_name(metric))
    less = "loss" in metric_name(metric) or metric_name(metric) in ("mse", "mae", "msle", "rmse", "exp_rmspe")
    assert direction == ("min" if less else "max")


def test_the_column_has_the_name_of_scikit_learns_function():
    assert metric_name(classes.BalancedAccuracy()) == classes.BalancedAccuracy().name == "balanced_accuracy_score"
    assert metric_name(AccumMetric(torch.dist, name="far")) == "far"


def test_the_name_of_a_column_can_be_assigned():
    metric = classes.F1Score(average="macro")
    metric.name = "F1(macro)"
    assert metric_names([metric, classes.F1Score()]) == ["F1(macro)", "f1_score"]
    with pytest.raises(TypeError, match="`name` must be text. Received: name=3"):
        metric.name = 3


def test_classes_may_be_in_any_dimension():
    pred, target = SCORES.reshape(6, 10, 4), CLASSES.reshape(6, 10)
    value = sk.f1_score(CLASSES, BEST, average="macro")
    metric = classes.F1Score(average="macro")
    assert float(metric(pred, target)) == value
    assert float(classes.F1Score(axis=1, average="macro")(pred.movedim(2, 1), target)) == value
    assert float(metric(SCORES[:20], CLASSES[:20])) == sk.f1_score(CLASSES[:20], BEST[:20], average="macro")


def test_scores_in_half_precision_are_read_as_they_are():
    half = TWO.bfloat16()
    expected = sk.roc_auc_score(YES, half.float().softmax(1)[:, 1])
    assert float(classes.RocAucBinary()(half, YES)) == expected


def test_a_function_of_ones_own_gets_tensors_or_arrays():
    seen = []

    def note(pred, target):
        seen.append((type(pred), pred.shape))
        return 1

    AccumMetric(note, dim_argmax=1)(SCORES, CLASSES)
    AccumMetric(note, flatten=False, to_np=True)(SCORES, CLASSES)
    assert seen[0] == (torch.Tensor, (N,)) and seen[1][1] == (N, 4) and seen[1][0].__module__ == "numpy"


def test_a_learner_shows_scores_of_its_whole_validation_set():
    dls = DataLoaders.from_arrays((SCORES, CLASSES), (SCORES, CLASSES), bs=16)
    learn = Learner(
        dls, torch.nn.Linear(4, 4), metrics=[classes.F1Score(average="macro"), classes.CohenKappa(), Perplexity()]
    )
    _, f1, kappa, perplexity = learn.validate()
    preds, targets = learn.get_preds()
    assert f1 == pytest.approx(sk.f1_score(targets, preds.argmax(1), average="macro"))
    assert kappa == pytest.approx(sk.cohen_kappa_score(targets, preds.argmax(1)))
    assert perplexity == pytest.approx(float(torch.nn.functional.nll_loss(preds.log(), targets).exp()), rel=1e-5)


def test_perplexity_leaves_out_what_does_not_count():
    target = CLASSES.clone()
    target[::2] = -100
    value = torch.nn.functional.cross_entropy(SCORES, target).exp()
    assert over_batches(Perplexity(), SCORES, target) == pytest.approx(float(value))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: classes.RocAuc(multi_class="all"), "`multi_class` must be one of 'ovr', 'ovo'"),
        (lambda: classes.FBeta(-1.0), "`beta` must be finite and not negative"),
        (lambda: AccumMetric(torch.dist, activation="tanh"), "`activation` must be one of 'no', 'sigmoid'"),
        (lambda: classes.F1Score()(SCORES, CLASSES[:5]), r"one value for each prediction. Received: \(5,\) targets"),
        (lambda: numbers.mse(NUMBERS, WANTED[:5]), r"one value for each prediction. Received: \(5,\) targets"),
    ],
)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_misspelt_argument_is_named():
    with pytest.raises(TypeError, match="Did you mean 'average'"):
        classes.F1Score(averge="macro")
