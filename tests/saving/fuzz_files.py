"""Reads files that a fuzzer makes up, guided by the lines of our code that they reach. Run it by hand.

    pip install atheris
    python tests/saving/fuzz_files.py FOLDER -max_total_time=300

It stops at any error that is not ours, and at any unpickling, and writes the input to a file. FOLDER keeps the inputs
that reached new lines. The first byte of an input says what the rest is: a whole file, the header of one, or what a
file says about itself, with matching digests.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["minilearner.training", "minilearner.saving.export_data", "minilearner.registry"]
):
    sys.path.insert(0, str(Path(__file__).parent))
    import hostile

import torch

_JSON = ("checkpoint", "manifest")  # read as they are; all others are in the safetensors format


class Target:
    """The valid files that inputs are put into, and the readers for them."""

    def __init__(self, folder: Path) -> None:
        self.valid, self.readers = hostile.write_valid(folder), hostile.readers(folder)
        self.whole = {name: path.read_bytes() for name, path in self.valid.items()}
        self.names = list(self.valid)

    def seeds(self) -> list[bytes]:
        found = []
        for i, content in enumerate(self.whole.values()):
            found.append(bytes([i * 3]) + content)
            if self.names[i] not in _JSON:
                header, data = hostile.taken_apart(content)
                text = header.get("__metadata__", {}).get("content", "")
                found += [bytes([i * 3 + 1]) + content[8 : -len(data)], bytes([i * 3 + 2]) + text.encode()]
        return found

    def __call__(self, data: bytes) -> None:
        if not data:
            return
        name = self.names[data[0] // 3 % len(self.names)]
        made = data[1:] if name in _JSON else self.made(name, data[0] % 3, data[1:])
        self.valid[name].write_bytes(made)
        if failure := hostile.attempt(self.readers[name], self.valid[name]):
            raise RuntimeError(f"{name}: {failure}")

    def made(self, name: str, kind: int, given: bytes) -> bytes:
        header, data = hostile.taken_apart(self.whole[name])
        about = header.get("__metadata__")
        if kind == 1:
            return hostile.with_header(given, data)
        if kind == 2 and about is not None:
            content = {**about, "content": given.decode("utf-8", "replace")}
            return hostile.with_header({**header, "__metadata__": hostile.signed(content)}, data)
        return given


def main() -> None:
    folder = Path(sys.argv[1]).absolute()
    corpus, work = folder / "corpus", folder / "work"
    for made in (corpus, work):
        made.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    target = Target(work)
    for i, seed in enumerate(target.seeds()):
        (corpus / f"seed-{i}").write_bytes(seed)
    with hostile.guarded() as seen:

        def one(data: bytes) -> None:
            target(data)
            if any("find_class" in event or "os.system" in event for event in seen):
                raise RuntimeError(f"forbidden: {seen}")

        atheris.Setup(
            [sys.argv[0], *sys.argv[2:], "-timeout=30", "-rss_limit_mb=4096", "-max_len=8192", str(corpus)], one
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
