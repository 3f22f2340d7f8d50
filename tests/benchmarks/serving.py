"""Measures `minilearner serve` on the loopback address: requests a second, how long one takes, and the server's memory.

    python tests/benchmarks/serving.py [--requests 10000] [--clients 8] [--arch resnet18] [--size 64]

The model is untrained, and the image a JPEG of 800 x 600 pixels. Each client sends its next request when it has the
answer to the last one, over one connection. Needs the extra `serve`. Clients and server share the processors.
"""

import argparse
import http.client
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from live_server import LiveServer, make_form

from minilearner.vision.all import ImageDataLoaders, Normalize, Resize, imagenet_stats, vision_learner
from minilearner.vision.architectures import find_architecture


def make_model(folder, arch, size):
    """Writes a model file and an image, and returns their paths."""
    rng = np.random.default_rng(0)
    for i, label in enumerate(["cat", "dog"] * 32):
        (folder / "photos" / label).mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        small.resize((800, 600), Image.Resampling.BICUBIC).save(folder / "photos" / label / f"{i}.jpg", quality=90)
    dls = ImageDataLoaders.from_folder(
        folder / "photos",
        valid_pct=0.5,
        item_tfms=Resize(size),
        batch_tfms=Normalize.from_stats(*imagenet_stats),
        bs=32,
    )
    learn = vision_learner(dls, find_architecture(arch), pretrained=False, path=folder)
    return learn.export("m.safetensors"), folder / "photos" / "cat" / "0.jpg"


class Client:
    """One connection, on which requests follow each other."""

    def __init__(self, server, image):
        self.server, (self.body, self.headers) = server, make_form([(image.name, image.read_bytes())])

    def send(self, n):
        """Sends `n` requests, and returns how many seconds each took."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        times = []
        for _ in range(n):
            start = time.perf_counter()
            connection.request("POST", "/predict", self.body, self.headers)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{answer.status}: {content.decode()}")
            times.append(time.perf_counter() - start)
        connection.close()
        return times


def measure(server, image, n_requests, n_clients):
    """Returns the seconds of each request, and of all together."""
    start = time.perf_counter()
    with ThreadPoolExecutor(n_clients) as pool:
        parts = pool.map(lambda _: Client(server, image).send(n_requests // n_clients), range(n_clients))
        times = [one for part in parts for one in part]
    return np.array(times), time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--size", type=int, default=64)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, image = make_model(Path(folder), args.arch, args.size)
        with LiveServer(model) as server:
            measure(server, image, max(args.clients, args.requests // 20), args.clients)  # until memory has settled
            print(f"{os.cpu_count()} processors, {args.arch} at {args.size} px, {args.clients} clients")
            print(f"{'requests':>8} {'a second':>9} {'median':>9} {'p99':>9} {'longest':>9} {'memory':>9}")
            print(f"{'before':>8} {'':>39} {server.megabytes():6.0f} MB")
            n = args.requests // 5
            for i in range(5):
                times, seconds = measure(server, image, n, args.clients)
                median, p99, longest = 1e3 * np.percentile(times, [50, 99, 100])
                shown = f"{median:6.1f} ms {p99:6.1f} ms {longest:6.1f} ms {server.megabytes():6.0f} MB"
                print(f"{(i + 1) * n:8,} {len(times) / seconds:9.1f} {shown}", flush=True)


if __name__ == "__main__":
    main()
