"""The latest tasks of `lr_bank.py`, which nobody looked at while the rule was made.

They are of the kinds of `lr_varied_tasks.py`, with other data or other nets, and small: 100 to 3,900 items.
"""

from functools import lru_cache, partial

import numpy as np
from lr_tasks import (
    ADAM,
    CANCER,
    DIGIT_IMAGES,
    DIGITS,
    RMSPROP,
    SGD,
    SMALL,
    WINE,
    Rows,
    Task,
    Transformer,
    _split,
    cnn,
    fashion,
    mlp,
    mnist,
    resnet,
)
from lr_varied_tasks import (
    NESTEROV,
    SEVERAL,
    WEIGHTED,
    Lion,
    _scale,
    first,
    plain_cnn,
    stamps,
    survey,
    unbalanced,
    wide_resnet,
)
from torch.nn import functional as F

from minilearner import MixUp


@lru_cache
def approval():
    """The numbers of five polls, and the day -> the approval of a president, as a regression."""
    from river.datasets import TrumpApproval

    rows = list(TrumpApproval())
    x, y = np.array([list(map(float, row.values())) for row, _ in rows]), np.array([value for _, value in rows])
    return _split(_scale(x).astype(np.float32), _scale(y).astype(np.float32)[:, None], 300)


@lru_cache
def schools():
    """Facts about school districts of California -> the share of pupils above the median in mathematics."""
    import statsmodels.api as sm

    table = sm.datasets.star98.load_pandas().data
    above, below = (table.pop(name).to_numpy(dtype=float) for name in ("NABOVE", "NBELOW"))
    y = _scale(above / (above + below)).astype(np.float32)[:, None]
    return _split(_scale(table.to_numpy(dtype=float)).astype(np.float32), y, 100)


@lru_cache
def components(n=12):
    """The principal components of scikit-learn's digits, without their scale -> the digit."""
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA

    x, y = load_digits(return_X_y=True)
    return _split(PCA(n, whiten=True, random_state=0).fit_transform(x).astype(np.float32), y.astype(np.int64), 600)


def with_properties(data):
    """Returns a set of digits with several labels for each: odd, above 4, with a closed loop."""
    table = np.array([[d % 2, d > 4, d in (0, 6, 8, 9)] for d in range(10)], dtype=np.float32)
    return tuple((x, table[y]) for x, y in data())


VOTES, MARRIAGES = partial(survey, "anes96", "vote", 300), partial(survey, "fair", "rate_marriage", 2500, True)

FRESH = [
    Task(
        "fashion 1000 CNN-BN 28 px Adam bs50",
        partial(fashion, 1000, start=54_000),
        partial(cnn, 8, 16, 32),
        ADAM,
        50,
        8,
    ),
    Task("digits 400 ResNet Adam bs16", partial(first, 400, DIGIT_IMAGES), resnet, ADAM, 16, 6),
    Task("stamps ResNet Adam bs32", partial(stamps, 16), partial(wide_resnet, 3, 6), ADAM, 32, 10),
    Task(
        "stamps CNN plain SGD bs32", partial(stamps, 24), partial(plain_cnn, 16, 32, channels=3, classes=6), SGD, 32, 12
    ),
    Task(
        "digits CNN plain Nesterov bs64",
        DIGIT_IMAGES,
        partial(plain_cnn, 8, 16, 16),
        NESTEROV,
        64,
        10,
        first=-3.5,
    ),
    Task("wine MLP AdamW bs16", WINE, partial(mlp, 13, 64, 64, 3), None, 16, 15),
    Task("votes MLP AdamW bs32", VOTES, partial(mlp, 10, 64, 64, 2), None, 32, 10),
    Task("marriages MLP AdamW bs64", MARRIAGES, partial(mlp, 8, 48, 48, 5), None, 64, 8),
    Task("digit components MLP AdamW bs32", components, partial(mlp, 12, 64, 10), None, 32, 10),
    Task("cancer MLP RMSprop bs32", CANCER, partial(mlp, 30, 32, 32, 2), RMSPROP, 32, 10),
    Task(
        "MNIST 1000 transformer AdamW bs32",
        partial(first, 1000, mnist),
        partial(Transformer, 7, 16, depth=1),
        None,
        32,
        5,
    ),
    Task("digits LSTM rows Adam bs32", DIGIT_IMAGES, partial(Rows, 8, 32), ADAM, 32, 8),
    Task("digits MLP-BN Lion bs32", DIGITS, partial(mlp, 64, 64, 10, norm=True), Lion, 32, 8, first=-6.0),
    Task(
        "unbalanced CNN-BN Adam weights",
        partial(unbalanced, partial(SMALL, 2500, start=49_000)),
        partial(cnn, 8, 16, 32),
        ADAM,
        64,
        5,
        WEIGHTED,
    ),
    Task("digits CNN-BN SGD MixUp", DIGIT_IMAGES, partial(cnn, 8, 16, 32), SGD, 64, 8, cbs=MixUp),
    Task("approval MLP SGD bs32", approval, partial(mlp, 6, 48, 48, 1), SGD, 32, 12, F.mse_loss),
    Task("schools MLP AdamW bs16", schools, partial(mlp, 20, 32, 1), None, 16, 15, F.mse_loss),
    Task(
        "digit properties CNN-BN Adam bs64",
        partial(with_properties, DIGIT_IMAGES),
        partial(cnn, 16, 32, classes=3),
        ADAM,
        64,
        6,
        SEVERAL,
    ),
]
