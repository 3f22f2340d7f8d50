"""Arrays, a plain network of the right size, an optimizer with its own arguments, and every form of results."""

from functools import partial

import numpy as np
import torch
from typing_extensions import assert_type

import minilearner as ml
from minilearner import CyclicLR, DataLoaders, EarlyStopping, Learner, error_rate

x, y = np.random.rand(600, 20).astype("float32"), np.random.randint(3, size=600)
dls = DataLoaders.from_arrays((x[:500], y[:500]), (x[500:], y[500:]), bs=50, vocab=["a", "b", "c"])
assert_type(dls.c, int)
model = torch.nn.Sequential(torch.nn.Linear(20, 32), torch.nn.ReLU(), torch.nn.Linear(32, dls.c))

learn = Learner(dls, model, opt_func=partial(torch.optim.SGD, momentum=0.9), metrics=error_rate)
learn.fit(4, cbs=[CyclicLR(max_lr=0.1, step_size=20), EarlyStopping("error_rate", patience=2)])
label, index, probabilities = learn.predict(x[0])
assert_type(label, str)

preds, targets = learn.get_preds()
assert_type(preds, torch.Tensor)
assert_type(targets, torch.Tensor)
print((preds.argmax(1) == targets).float().mean())
inputs, preds, targets, decoded, losses = learn.get_preds(with_input=True, with_decoded=True, with_loss=True)
print(inputs.shape, decoded.unique(), losses.topk(5))
predictions = learn.get_preds(dl=dls.test_dl(x[:10]), act=torch.nn.Softmax(dim=1))
predictions.save("predictions.safetensors")
print(ml.Predictions.load("predictions.safetensors").preds)
averaged, _ = learn.tta(n=2)
print(averaged.std(0))

loss, error = learn.validate()
assert_type(loss, float)
for batch in learn.predict_batches():
    print(batch.n_items, batch.preds)

numbers: ml.DataLoaders[float] = ml.DataLoaders.from_arrays((x, x[:, 0]), target=ml.Regression())
regression = ml.Learner(numbers, ml.MLP([20, 10, 1]))
regression.fit_one_cycle(1, lr_max=[1e-3])
regression.recorder.to_csv("runs.csv")
with regression.no_bar(), regression.no_logging():
    regression.fit_flat_cos(1, lr=slice(1e-5, 1e-3))
print(ml.__version__, regression.recorder.losses[-1], regression.summary(), regression.check().worst)


def train_briefly(learner: ml.Learner, epochs: int = 1) -> float:
    learner.add_cb(ml.SaveBest()).fit_sgdr(epochs, 1)
    return learner.recorder.history["valid_loss"][-1]


train_briefly(learn)
train_briefly(regression)

ml.Lerner  # error expected
learn.fit_one_cycel(1)  # error expected
learn.fit(1, learning_rate=0.1)  # error expected
dls.c.upper()  # error expected
preds.upper()  # error expected
