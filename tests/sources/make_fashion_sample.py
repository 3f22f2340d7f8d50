"""Makes the sample that minilearner ships from the full set:
``python tests/sources/make_fashion_sample.py [folder]``.

It takes 500 training and 100 test images of each class, evenly spaced over that class in the order of the published
files. So every stretch of the data is represented, without a random generator. Images are written in the order of
classes (0, 1, ..., 9, 0, 1, ...), so the first 10 n images are balanced for every n. The format is the original one:
four IDX files, gzipped without name and time, so a second run on the same machine gives the same bytes.
"""

import gzip
import hashlib
import struct
import sys
from pathlib import Path

import numpy as np

import minilearner.sources
from minilearner.sources.fashion import load_fashion_mnist

PER_CLASS = {"train": 500, "t10k": 100}


def select(labels, per_class):
    """Returns the indices of the chosen images, `per_class` of each class, interleaved."""
    classes = [np.flatnonzero(labels == label) for label in range(10)]
    chosen = [indices[np.arange(per_class) * len(indices) // per_class] for indices in classes]
    return np.stack(chosen, axis=1).reshape(-1)


def idx_bytes(array):
    """Returns an array of unsigned bytes in IDX format."""
    return struct.pack(f">HBB{array.ndim}I", 0, 0x08, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def sample_files(data):
    """Yields the name and the uncompressed bytes of each of the four sample files."""
    for split, images, labels in (
        ("train", data.train_images, data.train_labels),
        ("t10k", data.valid_images, data.valid_labels),
    ):
        chosen = select(labels, PER_CLASS[split])
        yield f"fashion_sample.{split}-images-idx3-ubyte", idx_bytes(images[chosen, 0])
        yield f"fashion_sample.{split}-labels-idx1-ubyte", idx_bytes(labels[chosen])


def main():
    data = load_fashion_mnist(*sys.argv[1:], download=False)
    if data.is_sample:
        sys.exit("the full Fashion-MNIST is needed: give its folder")
    folder = Path(minilearner.sources.__file__).parent
    for name, content in sample_files(data):
        packed = gzip.compress(content, compresslevel=9, mtime=0)
        (folder / f"{name}.gz").write_bytes(packed)
        print(f"{name}.gz  {len(packed):,} bytes, SHA-256 unpacked {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
