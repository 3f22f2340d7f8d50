"""Train a batch in your own way: a GAN with two optimizers, and a student that learns from a teacher.

    python examples/custom_step.py             both, on 5,000 images of Fashion-MNIST: a few minutes on two cores
    python examples/custom_step.py --small     a few hundred images, to check that everything runs

Both are callbacks that replace `run.process_batch`, the forward and backward pass of one training batch. Everything
else still works: the loop, schedules, the recorder, the progress bar, checkpoints.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.utils import save_image

from minilearner import MLP, Callback, CancelBackward, DataLoaders, Learner, accuracy, fashion_mnist, set_seed

N_NOISE = 64


class GAN(Callback):
    """Trains a generator against a critic, the learner's model (Goodfellow et al., "Generative Adversarial Nets")."""

    part_of_step = True

    def __init__(self, generator, critic):
        self.generator, self.critic = generator, critic
        self.of_generator, self.of_critic = (
            torch.optim.Adam(network.parameters(), 2e-4, betas=(0.5, 0.999)) for network in (generator, critic)
        )

    def before_fit(self, run):
        self.generator.to(run.dls.device)
        run.process_batch = partial(self.train, run)

    def train(self, run):
        made = self.generator(torch.randn(len(run.x), N_NOISE, device=run.x.device))
        loss = F.softplus(-self.critic(run.x)).mean() + F.softplus(self.critic(made.detach())).mean()
        self.update(self.of_critic, loss)
        run.pred, run.loss = made, F.softplus(-self.critic(made)).mean()
        self.update(self.of_generator, run.loss)
        run.count_update()
        raise CancelBackward  # both updates are done, so the learner's own optimizer must not step

    def update(self, optimizer, loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class Distill(Callback):
    """Trains on a teacher's soft outputs as well as the labels (Hinton et al., "Distilling the Knowledge", 2015).

    Args:
        teacher: a trained model, on the learner's device.
        weight: the teacher's share of the loss, in [0, 1].
        temperature: divides the logits, so that the small probabilities of the teacher matter too.
    """

    part_of_step = True  # the rate finder must train in the same way

    def __init__(self, teacher, weight=0.9, temperature=2.0):
        self.teacher, self.weight, self.temperature = teacher.eval(), weight, temperature

    def before_fit(self, run):
        run.process_batch = partial(self.train, run)

    def train(self, run):
        with torch.no_grad():
            wanted = (self.teacher(run.x) / self.temperature).softmax(1)
        run.pred = run.step.predict(run.x)
        soft = F.cross_entropy(run.pred / self.temperature, wanted) * self.temperature**2
        hard = run.step.compute_loss(run.pred, run.y)
        run.loss = self.weight * soft + (1 - self.weight) * hard
        run.step.backward(run.loss, len(run.x))  # the loop updates the weights


def main() -> None:
    args = parse_arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    dls = load(args)
    train_gan(dls, args)
    train_student(dls, args)


def train_gan(dls: DataLoaders, args: argparse.Namespace) -> None:
    set_seed(0)
    generator = nn.Sequential(
        *block(N_NOISE, 256, nn.BatchNorm1d(256)),
        *block(256, 512, nn.BatchNorm1d(512)),
        *(nn.Linear(512, 28 * 28), nn.Sigmoid(), nn.Unflatten(1, (1, 28, 28))),
    )
    critic = nn.Sequential(
        nn.Flatten(),
        *block(28 * 28, 512, nn.Dropout(0.3)),
        *block(512, 256, nn.Dropout(0.3)),
        nn.Linear(256, 1),
    )
    images, _ = dls.train.items(range(args.images))
    real = DataLoaders.from_arrays((images, torch.ones(len(images), 1)), bs=64, seed=0)
    learn = Learner(real, critic, F.binary_cross_entropy_with_logits, cbs=GAN(generator, critic))
    learn.fit(args.gan_epochs)
    file = args.output / "generated.png"
    noise = torch.randn(64, N_NOISE, device=learn.device)
    save_image(generator(noise).detach(), file)
    print(f"the generator's loss was {learn.recorder.losses[-1]:.2f} in the last batch; its images are in {file}\n")


def block(n_in: int, n_out: int, regularizer: nn.Module) -> list[nn.Module]:
    return [nn.Linear(n_in, n_out), regularizer, nn.LeakyReLU(0.2)]


def train_student(dls: DataLoaders, args: argparse.Namespace) -> None:
    def train(widths, epochs, cbs=None):
        set_seed(0)
        learn = Learner(dls, MLP((28 * 28, *widths, 10)), metrics=accuracy, lr=3e-3, cbs=cbs)
        learn.fit_one_cycle(epochs)
        return learn.model, learn.validate()[1]

    teacher, best = train((512, 256), args.epochs)
    _, alone = train((24,), args.epochs)
    _, taught = train((24,), args.epochs, Distill(teacher))
    print(f"accuracy: teacher {best:.1%}, student alone {alone:.1%}, student with the teacher {taught:.1%}")


def load(args: argparse.Namespace) -> DataLoaders:
    """Returns loaders of the first images of Fashion-MNIST, in [0, 1]."""
    full = fashion_mnist(args.data, size=28, augment=False, seed=0)
    n_valid = max(args.images // 6, 1)
    train, valid = full.train.items(range(args.images)), full.valid.items(range(n_valid))
    return DataLoaders.from_arrays(train, valid, bs=64, vocab=full.vocab, seed=0)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a few hundred images and one epoch")
    parser.add_argument("--images", type=int, default=5000, help="how many training images")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of the teacher and of each student")
    parser.add_argument("--gan-epochs", type=int, default=50, help="epochs of the GAN")
    parser.add_argument("--data", type=Path, default=None, help="the folder of Fashion-MNIST's four files")
    parser.add_argument("--output", type=Path, default=Path("runs/custom_step"), help="where the images go")
    args = parser.parse_args()
    if args.small:
        args.images, args.epochs, args.gan_epochs = 512, 1, 1
    return args


if __name__ == "__main__":
    main()
