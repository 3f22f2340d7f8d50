"""A learner's parts: their types, and what may be assigned to them."""

from functools import partial

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import assert_type

from minilearner import DataLoaders, Learner, accuracy, error_rate

data = TensorDataset(torch.rand(64, 3), torch.randint(2, (64,)))
train, valid = DataLoader(data, batch_size=8, shuffle=True), DataLoader(data, batch_size=8)
learn = Learner((train, valid), nn.Linear(3, 2), nn.CrossEntropyLoss(), torch.optim.AdamW)
alone = Learner(train, nn.Linear(3, 2), cbs=None, metrics=[accuracy])
bare = Learner(data, nn.Linear(3, 2), loss_func=nn.functional.cross_entropy)
batches = Learner([(torch.rand(4, 3), torch.tensor([0, 1, 1, 0]))], nn.Linear(3, 2))

learn.dls = DataLoaders(train, valid, vocab=["no", "yes"])
learn.metrics = [accuracy, error_rate]
learn.opt_func = partial(torch.optim.SGD, momentum=0.9)
learn.lr, learn.wd = 1e-2, 1e-4
learn.splitter = lambda model: [list(model.parameters())]
learn.path = "runs"
print(learn.path.ls(), learn.model_dir / "model", learn.dls.bs, learn.dls.c + 1, learn.opt.hypers)
assert_type(learn.model, nn.Module)
assert_type(learn.device, torch.device)
assert_type(learn.lr_find().recommended, float)
for name, metric in learn.metrics.items():
    print(name, metric.compute())

own = DataLoaders(train, valid, vocab=["no", "yes"])
for loader in own:
    print(len(loader), next(iter(loader))[0])
if own.vocab is not None:
    print(own.vocab[0], own.vocab.o2i["yes"], len(own.vocab))
print(own.valid.n_items, own.train_ds[0], own.test_dl([torch.rand(3)]))
halves = Learner(own, nn.Linear(3, own.c)).to_fp32().add_cb(None)
assert_type(halves, Learner[str])
assert_type(halves.load("model"), Learner[str])
with halves.added_cbs([]) as same:
    assert_type(same.predict(torch.rand(3)).label, str)

learn.wd = "much"  # error expected
learn.model = "resnet"  # error expected
learn.recoder  # error expected
own.valid_dl  # error expected
