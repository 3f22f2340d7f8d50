"""Transforms of one's own, and a data set that is declared by a DataBlock."""

from typing_extensions import assert_type

from minilearner.vision.all import *


class Noise(BatchTransform):
    def __init__(self, std: float = 0.1) -> None:
        self.std = std

    def __call__(self, x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        return x + self.std * torch.randn(x.shape, generator=rng, device=x.device)


class Half(Transform):
    def encodes(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2

    def decodes(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


def breed(path: Path) -> str:
    return path.name.rsplit("_", 1)[0]


path = untar_data(URLs.PETS)
pets = DataBlock(
    blocks=(ImageBlock, CategoryBlock),
    get_items=get_image_files,
    splitter=RandomSplitter(seed=42),
    get_y=using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name"),
    item_tfms=Resize(460),
    batch_tfms=[*aug_transforms(size=224, min_scale=0.75), Noise(), Half(), Normalize.from_stats(*imagenet_stats)],
)
dls = pets.dataloaders(path / "images", bs=32)
dls.show_batch(nrows=1, ncols=3)
print(dls.vocab, dls.train.n_items, dls.valid and dls.valid.n_items)
xb, yb = dls.one_batch()
print(xb.shape, yb.float().mean())
assert_type(dls.c, int)

learn = vision_learner(dls, resnet34, metrics=error_rate, cbs=[MixUp(), SaveBest("error_rate")])
learn.fine_tune(2, base_lr="auto", freeze_epochs=1)
learn.show_results(max_n=6)
print(learn.predict(path.ls()[0]).label)

files = get_image_files(path / "images")
print(files[0].name, len(files), files.map(breed)[:3])
own = ImageDataLoaders.from_path_func(path, files, breed, item_tfms=Resize(128), bs=16)
by_name = ImageDataLoaders.from_name_re(path, files, r"^(.*)_\d+.jpg$", item_tfms=Resize(128), valid_pct=0.1)
upper = ImageDataLoaders.from_name_func(path, files, lambda name: name[0].isupper(), item_tfms=Resize(128))
table = ImageDataLoaders.from_csv(path, label_delim=" ", item_tfms=Resize(128, method="squish"))
assert_type(vision_learner(own, resnet18).predict(files[0]).label, str)
assert_type(vision_learner(by_name, "convnext_tiny").predict(files[0]).label, str)
assert_type(vision_learner(upper, resnet18).predict(files[0]).label, bool)
print(table.vocab)

DataBlock(block=(ImageBlock, CategoryBlock))  # error expected
Resize("big", mode="x")  # error expected
Noise(std="much")  # error expected
pets.dataloader(path)  # error expected
