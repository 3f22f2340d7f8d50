"""Which values of a metric are better: by what it says of itself, and by its name."""

from functools import partial

import pytest
import torchmetrics
import torchmetrics.retrieval
from torchmetrics import clustering
from torchmetrics.classification import MulticlassAccuracy, MulticlassSpecificity
from torchmetrics.regression import MeanSquaredError
from torchmetrics.wrappers import Running

from minilearner.directions import direction_of_metric, direction_of_name
from minilearner.metrics import MeanMetric, metric_name

SMALLER = """
valid_loss train_loss rmse val_RMSE valRMSE mae MAE mape MeanSquaredError mean_squared_error error_rate top_5_error
perplexity nll neg_log_likelihood negative_log_likelihood_loss one_minus_accuracy inaccuracy dissimilarity dice_loss
brier_score fid_score fpr_at_95_tpr fpr95 false_negative_rate hamming_distance binary_cross_entropy bits_per_byte wer
CharErrorRate EER hd95 myloss loss2 kl_div expected_calibration_error max_error log_loss neg_accuracy mean_io_u_loss
accuracy_drop not_accuracy iou_decrease
"""
LARGER = """
accuracy top_5_accuracy acc1 train_accuracy accuracy_2 top_k_accuracy_k_5 r2 R2Score neg_mean_squared_error neg_log_loss
error_free ErrorFree gloss_accuracy dice_score f1 MulticlassF1Score mIoU MeanIoU mean_io_u AUROC roc_auc_score score
recall_at_fpr true_negative_rate negative_predictive_value cohen_kappa_score matthews_corrcoef explained_variance map50
error_reduction non_error ndcg_at_10 hits@10 cosine_similarity psnr BLEUScore average_precision
"""
UNKNOWN = ["my_metric", "lambda", "temperature", "anomaly_score", "mean_metric", "metric", "l1", "never_better", ""]
UNKNOWN += ["loss_improvement", "accuracy_gap", "delta_loss", "lossDifference"]


@pytest.mark.parametrize(("names", "direction"), [(SMALLER.split(), "min"), (LARGER.split(), "max"), (UNKNOWN, None)])
def test_names_say_which_values_are_better(names, direction):
    assert {name: direction_of_name(name) for name in names} == dict.fromkeys(names, direction)


def test_names_never_contradict_what_torchmetrics_says():
    packages = torchmetrics, torchmetrics.classification, torchmetrics.regression, torchmetrics.retrieval, clustering
    metrics = {name: one for package in packages for name, one in vars(package).items() if isinstance(one, type)}
    says = {name: direction_of_metric(one) for name, one in metrics.items()}
    reads = {name: direction_of_name(name) for name, direction in says.items() if direction is not None}
    assert len(reads) > 80
    odd = {name for name, direction in reads.items() if direction not in (None, says[name])}
    assert odd <= {"DaviesBouldinScore"}  # of which less is better, whatever torchmetrics says


def test_a_metric_says_it_itself():
    assert direction_of_metric(MulticlassAccuracy(3)) == "max"
    assert direction_of_metric(MeanSquaredError()) == "min"
    assert direction_of_metric(Running(MeanSquaredError())) == "min"
    assert direction_of_metric(MulticlassSpecificity(3)) is None  # torchmetrics leaves this to the name
    assert direction_of_name(metric_name(MulticlassSpecificity(3))) == "max"


def test_a_function_may_say_it_too():
    def temperature(pred, target, scale=1):
        return scale

    temperature.higher_is_better = False
    assert direction_of_metric(MeanMetric(partial(temperature, scale=2))) == "min"
    assert direction_of_metric(MeanMetric(len)) is None
