"""Is more or less of a value better? What a metric says of itself, and what its name says.

A metric says it by an attribute `higher_is_better`, as those of torchmetrics do; a function may have one too. Names say
it by their words: "val_rmse" is an error, "top_5_accuracy" is not. If neither says it, the answer is None, and the
caller must ask.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

__all__ = ["Direction", "direction_of_metric", "direction_of_name"]

Direction: TypeAlias = Literal["min", "max"]
"""Which values are better: "min" for smaller ones, "max" for larger ones."""


def _read_table(words: str) -> frozenset[str]:
    return frozenset(words.split())


_LESS = _read_table(
    """
    bce ber bias bits_per bpb bpc bpd brier ce cer chamfer cost cross_entropy crossentropy crps davies_bouldin
    deviance disparity distance distances divergence ece edit_distance eer emd epe err error errors fall_out fallout
    false_alarm false_alarms false_discovery false_negative false_negatives false_omission false_positive
    false_positives far fdr fid fnr fpr frr hausdorff hd hinge jsd kid kl kld levenshtein log_cosh logcosh logloss
    loss losses lpips mad mae maes mape mase mce medae minus_log_likelihood misclassification misclassified
    miss_rate misses mistakes mse mses msle neg_log_likelihood negative_log_likelihood nll nmae nme nmse nrmse
    perplexity pinball ppl rae regret residual residuals rmse rmses rmsle rmspe rrse rse rss smape sse ter wape
    wasserstein wer wmape wrong xent zero_one
    """
)
_MORE = _read_table(
    """
    acc accuracies accuracy ap area_under_curve ari auc aucpr auprc auroc average_precision bleu bleurt c_index
    cider cindex completeness concordance corr corrcoef correct correlation dcg dice dicescore em exact_match
    explained f1 f1score f2 f_beta f_measure f_score fbeta fmeasure fowlkes fscore gini gmean hit hitrate hits
    homogeneity hota idf1 intersection io_u iou ious jaccard kappa kendall kge likelihood log_likelihood
    loglikelihood map mar matthews mcc meteor miou mota mrr mutual_info mutual_information nash_sutcliffe ncc ndcg
    nmi npv nse oa pck pearson plcc ppv pq precision predictive_value negative_predictive_value psnr purity qwk r2
    r2score r_2 r_squared recall reciprocal_rank reward roc rocauc rouge rougel rsq rsquared sdr sensitivity
    silhouette similarity sisdr snr spearman specificity spice srcc srocc ssim stoi success tau tnr top_1 top_3
    top_5 top_10 top_k topk tpr true_negative true_negatives true_positive true_positives v_measure vmeasure wins
    youden
    """
)
_LESS_AT_END = "loss", "losses", "error", "errors", "distance", "divergence", "perplexity"
_MORE_AT_END = "acc", "accuracy", "precision", "recall", "similarity", "auc", "auroc", "iou", "likelihood"
_NEGATIONS = "dis", "im", "in", "non", "un"  # in front of a word of `_MORE_AT_END`
_NO_LOSSES = "floss", "gloss"
_OPPOSITES = frozenset(
    {"free", "inv", "inverse", "inverted", "minus", "neg", "negated", "negative", "no", "non", "not", "without"}
    | {"decrease", "degradation", "drop", "reduction"}
)
_UNSURE = frozenset(
    {"change", "delta", "diff", "difference", "gain", "gap", "improvement", "ratio", "target", "weight"}
)
"""Words that say that a value is not the one that the other words name: only the user knows what is better."""
_MOST_WORDS = 3  # in one entry of the tables


def direction_of_metric(metric: Any) -> Direction | None:
    """Returns what a metric says by `higher_is_better`, its own or that of what it wraps. None if it says nothing."""
    for part in _list_layers(metric):
        says = getattr(part, "higher_is_better", None)
        if isinstance(says, bool):
            return "max" if says else "min"
    return None


def direction_of_name(name: str) -> Direction | None:
    """Returns what the words of a name say, or None if they say nothing.

    The last word that says something counts: "dice_loss" is a loss. What follows "at" is a condition: "recall_at_fpr"
    is a recall. A word such as "negative", "minus" or "free" turns the meaning around.

    Examples: "valid_loss", "val_RMSE" and "neg_log_likelihood" are "min"; "top_5_accuracy", "MulticlassF1Score" and
    "neg_mean_squared_error", scikit-learn's name, are "max"; "temperature" is None.
    """
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    joined, words = _split_words(name), _split_words(apart)
    known = [word for word in joined if word in _LESS or word in _MORE]  # such as "mIoU", which is one word
    for candidate in ([joined] if known else []) + [words, joined]:
        found = _read_words(candidate)
        if found is not None:
            return found
    return "max" if words == ["score"] else None


def _list_layers(metric: Any) -> Iterator[Any]:
    """Gives a metric, and what it wraps: the function of a mean or a partial, the metric in a torchmetrics wrapper."""
    seen: set[int] = set()
    while metric is not None and id(metric) not in seen:
        seen.add(id(metric))
        yield metric
        metric = next((found for one in _WRAPPED if (found := getattr(metric, one, None)) is not None), None)


_WRAPPED = "func", "__func__", "function", "__wrapped__", "base_metric", "_base_metric"


def _split_words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def _read_words(words: list[str]) -> Direction | None:
    """Returns what the last word says that says something, turned around by each opposite."""
    if not _UNSURE.isdisjoint(words):
        return None
    found: Direction | None = None
    is_turned = False
    start = 0
    while start < len(words):
        if words[start] == "at" and found is not None:
            break
        for length in range(min(_MOST_WORDS, len(words) - start), 0, -1):
            says = _look_up("_".join(words[start : start + length]), alone=length == 1)
            if says is not None:
                found = says
                break
        is_turned ^= length == 1 and words[start] in _OPPOSITES
        start += length
    if found is None or not is_turned:
        return found
    return "max" if found == "min" else "min"


def _look_up(word: str, *, alone: bool) -> Direction | None:
    """Returns what a word says, or several joined by underscores: then they must be in the tables as they are."""
    for one in (word, word.rstrip("0123456789")):  # "fpr95" is an "fpr", but "f1" is more than an "f"
        if one in _LESS or one in _MORE:
            return "min" if one in _LESS else "max"
    if not alone or word in _NO_LOSSES:
        return None
    if word.endswith(_LESS_AT_END):
        return "min"
    end = next((end for end in _MORE_AT_END if word.endswith(end)), None)
    if end is None:
        return None
    return "min" if word.removesuffix(end) in _NEGATIONS else "max"
