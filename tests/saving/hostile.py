"""Reads thousands of damaged and lying files in a process with little memory, a time limit and no unpickling.

    python tests/saving/hostile.py FOLDER

writes valid files into FOLDER, reads every damaged version of them with each of our readers, and prints as JSON how
many there were and what went wrong: an error that is not ours, an unpickling, an import or execution, or a timeout.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from minilearner import MLP, DataLoaders, Learner, MinilearnerError, Normalize, load_learner
from minilearner.packing import Growing
from minilearner.saving.checkpoint_folder import CheckpointFolder, fingerprint
from minilearner.tensor_file import FORMAT, _digest
from minilearner.vision.pretrained import read_state_dict

SECONDS = 10  # a case; all of them take milliseconds
SPARE_BYTES = 1 << 30  # beyond what the process has when it starts to read
WRONG = [
    None, True, 0, -1, 1 << 70, 1.5, float("nan"), "", "x", "../../etc/passwd", [], {}, [[]], [None] * 3,
    {"tensor": "000000"}, {"tensor": []}, {"tuple": [1, 2]}, {"tuple": "ab"}, {"dict": [["name", "os.system"]]},
    {"dict": [[{"tuple": [[1]]}, 1]]}, {"dict": [[{"float": "nan"}, 1]]}, {"float": "nan"},
    {"unsigned": ["uint8", [1, 2]]},
    {"dict": [["name", "MLP"], ["arguments", {"dict": [["sizes", {"tuple": [1 << 40, 1 << 40]}]]}]]},
]  # fmt: skip


def learner(folder: Path) -> Learner:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 2)).astype(np.float32), np.array(["a", "b"] * 6)
    dls = DataLoaders.from_arrays((x, y), bs=4, seed=0, batch_tfms=Normalize.from_stats([0.0, 0.0], [1.0, 2.0]))
    return Learner(dls, MLP((2, 2)), opt_func=partial(torch.optim.SGD, momentum=0.9), path=folder)


def write_valid(folder: Path) -> dict[str, Path]:
    """Writes valid files. Returns reader -> a file that it reads."""
    learn = learner(folder)
    with learn.no_logging():
        learn.fit(1)
    state = {"weights": torch.ones(3), "pair": (1, float("nan")), "names": {(1, "a"): [np.zeros(2, np.uint8)]}}
    state |= {"numbers": Growing(np.arange(5000.0)), "rows": Growing([{"epoch": i} for i in range(2)])}
    checkpoint = CheckpointFolder(folder / "run").save(1, state)
    plain = folder / "plain.safetensors"
    plain.write_bytes(safetensors({"w": torch.ones(2, 3), "b": torch.zeros(2)}))
    return {
        "load": learn.save("weights"),
        "load_learner": learn.export(),
        "weights": plain,
        "checkpoint": checkpoint / "state.json",
        "checkpoint tensors": checkpoint / "tensors.safetensors",
        "manifest": checkpoint / "manifest.json",
    }


def readers(folder: Path) -> dict[str, Callable[[Path], object]]:
    learn = learner(folder)
    learn.save("made")  # so that there is an optimizer

    def unsigned(path: Path) -> object:
        return CheckpointFolder(path.parent.parent).newest()

    def newest(path: Path) -> object:
        if path.is_file() and not path.is_symlink():
            resign(path.parent)
        return unsigned(path)

    return {
        "load": lambda path: learn.load(path),
        "load_learner": load_learner,
        "weights": read_state_dict,
        "checkpoint": newest,
        "checkpoint tensors": newest,
        "manifest": unsigned,
    }


def resign(folder: Path) -> None:
    """Writes matching digests into a changed checkpoint, because its writer may be the liar."""
    files = {path.name: fingerprint(path) for path in folder.iterdir() if path.name != "manifest.json"}
    (folder / "manifest.json").write_text(json.dumps({"format": 2, "number": 1, "files": files}))


def safetensors(tensors: dict[str, torch.Tensor], about: dict[str, str] | None = None) -> bytes:
    header: dict[str, object] = {} if about is None else {"__metadata__": about}
    data = b""
    for name, t in tensors.items():
        content = t.numpy().tobytes()
        header[name] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    return with_header(header, data)


def with_header(header: object, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def taken_apart(content: bytes) -> tuple[dict, bytes]:
    n = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + n]), content[8 + n :]


def all_cases(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields every damaged version of a file in the safetensors format, with a name."""
    yield from foreign()
    yield from (("truncated", content[:n]) for n in range(len(content)))
    yield from flipped(content)
    header, data = taken_apart(content)
    yield from lying_headers(header, data)
    if "content" in header.get("__metadata__", {}):
        yield from lying_contents(header, data)


def cases_of(reader: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    return lying_states(content) if reader in ("checkpoint", "manifest") else all_cases(content)


def foreign() -> Iterator[tuple[str, bytes]]:
    class Evil:
        def __reduce__(self):
            return os.system, ("touch /tmp/unpickled",)

    yield "empty", b""
    yield "pickle", pickle.dumps(Evil())
    yield "pickle after a length", (len(pickle.dumps(Evil()))).to_bytes(8, "little") + pickle.dumps(Evil())
    archive = Path("evil.zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", pickle.dumps(Evil()))
        file.writestr("archive/data/0", bytes(50_000_000))
        file.writestr("../../escaped", b"x")
    yield "zip bomb with a pickle", archive.read_bytes()
    for exponent in (24, 31, 32, 60, 63):
        yield "huge header", ((1 << exponent) + 1 if exponent < 63 else 2**64 - 1).to_bytes(8, "little") + bytes(100)
    yield "deep header", with_header(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"")
    yield "deep header, unclosed", with_header(b"[" * 1_000_000, b"")
    yield "no object", with_header(b"[]", b"")
    yield "no text", with_header(b"\xff\xfe{}", b"")
    yield "many keys", with_header(b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(20_000)) + b"}", b"")  # fmt: skip  # noqa: E501


def flipped(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields the file with one bit flipped: each bit of the header, and one in eleven of the data."""
    header = 8 + int.from_bytes(content[:8], "little")
    for bit in (*range(header * 8), *range(header * 8, len(content) * 8, 11)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit} flipped", bytes(changed)


def lying_headers(header: dict, data: bytes) -> Iterator[tuple[str, bytes]]:
    names = [name for name in header if name != "__metadata__"]
    first, last = names[0], names[-1]
    spans = {
        "overlapping": {last: {"data_offsets": header[first]["data_offsets"]}},
        "beyond the end": {last: {"data_offsets": [0, 1 << 40], "shape": [1 << 38]}},
        "backwards": {last: {"data_offsets": [8, 0]}},
        "negative": {last: {"data_offsets": [-8, 0]}},
        "overflowing": {last: {"shape": [1 << 62, 1 << 62]}},
        "huge and empty": {last: {"shape": [1 << 62, 0], "data_offsets": [0, 0]}},
        "another type": {last: {"dtype": "F64"}},
        "no type": {last: {"dtype": "object"}},
    }
    for what, changes in spans.items():
        yield what, with_header({**header, **{n: {**header[n], **c} for n, c in changes.items()}}, data)
    for name in ("../../escape", "/etc/passwd", "a\0b", "__class__", "", "\ud800", "x" * 100_000):
        renamed = {(name if n == first else n): value for n, value in header.items()}
        yield "renamed tensor", with_header(renamed, data)
    for path in paths(header):
        for wrong in WRONG:
            yield f"header {path}", with_header(replaced(header, path, wrong), data)


def lying_contents(header: dict, data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields files that lie about themselves with matching digests, because their writer may be the liar."""
    about = header["__metadata__"]
    content = json.loads(about["content"])
    texts = {
        "deep": "[" * 100_000,
        "deep, closed": "[" * 900 + "]" * 900,
        "deep dictionaries": '{"dict":[["a",' * 500 + "1" + "]]}" * 500,
        "long number": "9" * 100_000,
        "no JSON": "{'a': 1}",
        "NaN": "NaN",
        "NaN key": '{"dict": [[NaN, 1], [NaN, 2]]}',
        "many": "[" + ",".join(["[]"] * 200_000) + "]",
    }
    for what, text in texts.items():
        yield f"content {what}", with_header({**header, "__metadata__": signed({**about, "content": text})}, data)
    for path in paths(content):
        for wrong in WRONG:
            text = json.dumps(replaced(content, path, wrong))
            yield f"content {path}: {wrong}", with_header({**header, "__metadata__": signed({**about, "content": text})}, data)  # fmt: skip  # noqa: E501
    for version in ("", "-1", "0", "1.0", "٣", "9" * 5000, str(FORMAT + 1)):
        yield f"version {version[:5]}", with_header({**header, "__metadata__": {**about, "version": version}}, data)


def signed(about: dict[str, str]) -> dict[str, str]:
    return {**about, "content_sha256": _digest(about["content"])}


def lying_states(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields damaged versions of the JSON files of a checkpoint."""
    state = json.loads(content)
    yield from (("truncated", content[:n]) for n in range(len(content)))
    for text in (b"", b"[" * 100_000, b"9" * 100_000, b"NaN", b'{"dict": [[NaN, NaN]]}', b"\xff", b"{}", b"[]"):
        yield "state", text
    for path in paths(state):
        for wrong in WRONG:
            yield f"state {path}", json.dumps(replaced(state, path, wrong)).encode()


def paths(value: object, here: tuple = ()) -> Iterator[tuple]:
    yield here
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in pairs:
        yield from paths(part, (*here, key))


def replaced(value, path: tuple, by: object):
    if not path:
        return by
    key, *rest = path
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[key] = replaced(value[key], tuple(rest), by)
    return changed


class Forbidden(BaseException):
    """Raised if something was unpickled, imported or run."""


class TooSlow(BaseException):
    """Raised if a case takes too long."""


@contextmanager
def guarded() -> Iterator[list[str]]:
    """Records every sign of unpickling, and every import or execution of code, inside the block."""
    seen: list[str] = []
    is_open = [True]
    events = ("pickle.find_class", "import", "exec", "compile", "os.system", "subprocess.Popen", "socket.connect")

    def hook(event: str, args: tuple) -> None:
        if is_open[0] and event in events:
            seen.append(f"{event} {args[:2]!r:.200}")

    sys.addaudithook(hook)
    kept = pickle.Unpickler, pickle.load, pickle.loads, torch.load

    def forbidden(*args: object, **kwargs: object) -> None:
        raise Forbidden("something was unpickled")

    pickle.Unpickler = pickle.load = pickle.loads = torch.load = forbidden
    try:
        yield seen
    finally:
        is_open[0] = False
        pickle.Unpickler, pickle.load, pickle.loads, torch.load = kept


def attempt(read: Callable[[Path], object], path: Path) -> str:
    """Returns what went wrong while reading, or an empty text if nothing did."""

    def too_slow(*_: object) -> None:
        raise TooSlow

    signal.signal(signal.SIGALRM, too_slow)
    signal.alarm(SECONDS)
    try:
        read(path)
    except (MinilearnerError, FileNotFoundError):
        return ""
    except BaseException as error:  # a panic in the Rust code of safetensors is not an Exception
        return f"{type(error).__name__}: {error!s:.200}"
    finally:
        signal.alarm(0)
    return ""


def special(folder: Path) -> Iterator[Path]:
    """Yields paths that are not files, or files that never end."""
    (folder / "a-folder.safetensors").mkdir()
    os.mkfifo(folder / "a-pipe.safetensors")
    (folder / "endless.safetensors").symlink_to("/dev/zero")
    (folder / "dangling.safetensors").symlink_to("nowhere")
    (folder / "circle.safetensors").symlink_to("circle.safetensors")
    with open(folder / "sparse.safetensors", "wb") as file:
        header = {"w": {"dtype": "F32", "shape": [1 << 34], "data_offsets": [0, 1 << 36]}}
        file.write(with_header({"__metadata__": {"minilearner": "export", "version": "1"}, **header}, b""))
        file.truncate(file.tell() + (1 << 36))
    for name in ("a-folder", "a-pipe", "endless", "dangling", "circle", "sparse"):
        yield folder / f"{name}.safetensors"


def limit_memory() -> None:
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    valid, by_name = write_valid(folder), readers(folder)
    resign(valid["manifest"].parent)
    failures: list[str] = []
    for name, path in valid.items():  # let torch import and compile now what it needs late
        content, read = path.read_bytes(), by_name[name]
        if failure := attempt(read, path):
            failures.append(f"{name} of a valid file: {failure}")
        for _, damaged in islice(cases_of(name, content), 0, None, 50):
            path.write_bytes(damaged)
            attempt(read, path)
        path.write_bytes(content)
        if name.startswith("checkpoint"):
            resign(path.parent)
    counts: dict[str, int] = {}
    limit_memory()
    with guarded() as seen:
        for name, path in valid.items():
            content, read = path.read_bytes(), by_name[name]
            started = time.monotonic()
            for number, (case, damaged) in enumerate(cases_of(name, content), 1):
                path.write_bytes(damaged)
                if failure := attempt(read, path):
                    failures.append(f"{name}, {case}: {failure}")
                counts[name] = number
            path.write_bytes(content)
            if name.startswith("checkpoint"):
                resign(path.parent)
            counts[f"{name} seconds"] = round(time.monotonic() - started)
        for path in special(folder):
            for name in ("load", "load_learner", "weights"):
                if failure := attempt(by_name[name], path):
                    failures.append(f"{name} of {path.name}: {failure}")
    print(json.dumps({"counts": counts, "failures": failures, "seen": seen}))


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
