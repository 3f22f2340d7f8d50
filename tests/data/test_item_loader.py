import os
import threading
import tracemalloc
from functools import partial
from itertools import islice

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from minilearner import Learner
from minilearner.data.blocks import TransformBlock
from minilearner.data.data_plan import Read
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.image_cache import fingerprint
from minilearner.data.item_dataset import ItemDataset, as_tensor
from minilearner.data.item_loader import ItemLoader
from minilearner.data.item_transforms import ItemPipeline, ItemTransform
from minilearner.data.share import Share
from minilearner.data.workers import default_num_workers
from minilearner.errors import DataError, FileFormatError
from minilearner.vision.augment import Flip
from minilearner.vision.image_block import ImageBlock
from minilearner.vision.images import open_image
from minilearner.vision.normalize import Normalize
from minilearner.vision.resize import RandomCrop, RandomResizedCrop, Resize


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(10):
        Image.fromarray(rng.integers(0, 255, (20, 30 + i, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    return sorted(tmp_path.iterdir())


SCALED = Resize(16)


def loader(images, item_tfms=SCALED, read=open_image, cache=False, **options):
    dataset = ItemDataset(images, read, ItemPipeline(item_tfms), seed=1, cache=cache)
    options = {"num_workers": 0, "batch_tfms": Flip(), **options}
    return ItemLoader(dataset, torch.arange(len(images)) % 2, bs=4, seed=1, **options)


def passes(loader, n=2):
    return [[x for x, _ in loader] for _ in range(n)]


def same(a, b):
    return all(torch.equal(x, y) for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=True))


class Invert(ItemTransform):
    """Inverts half of the training images."""

    def __call__(self, item, rng):
        return item if rng is None or rng.random() < 0.5 else Image.eval(item, lambda v: 255 - v)


def test_a_path_in_an_error_keeps_its_capital_letters(tmp_path):
    (tmp_path / "IMG_Left.JPG").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"^Item 0 .*IMG_Left.JPG"):
        ItemDataset([str(tmp_path / "IMG_Left.JPG")], lambda path: 1 / 0)[0, None]


def test_a_damaged_file_is_reported_with_the_way_out(images):
    images[2].write_bytes(images[2].read_bytes()[:300])
    with pytest.raises(FileFormatError, match=r"2.png: .*damaged.*verify=\"decode\", on_unreadable=\"skip\""):
        loader(images).dataset[2, None]


RECIPES = {
    "crop": [Resize(16)],
    "pad, then more": [Resize(16, "pad"), Invert()],
    "parts": [RandomResizedCrop(16)],
    "squish": [Resize(16, "squish")],
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("recipe", RECIPES)
def test_passes_from_the_cache_are_the_same_bits_as_passes_from_files(images, recipe, training):
    options = {"training": training, "shuffle": training, "item_tfms": RECIPES[recipe]}
    cached = loader(images, cache=True, **options)
    assert same(passes(loader(images, **options), 3), passes(cached, 3))
    assert cached.dataset.store.is_complete


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")  # with few processors
@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_batches_do_not_depend_on_the_number_of_workers(images, num_workers, cache):
    options = {"shuffle": True, "training": True, "item_tfms": RECIPES["parts"]}
    alone, helped = loader(images, **options), loader(images, cache=cache, num_workers=num_workers, **options)
    assert same(passes(alone), passes(helped))
    assert not cache or helped.dataset.store.is_complete


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_batches_do_not_depend_on_how_workers_are_started(images, start_method):
    options = {"shuffle": True, "training": True, "item_tfms": RandomResizedCrop(16)}
    helped = loader(images, cache=True, num_workers=1, start_method=start_method, **options)
    assert same(passes(loader(images, **options)), passes(helped))
    assert helped.dataset.store.is_complete


def test_once_decoded_no_file_is_read_again_and_the_workers_are_let_go(images):
    files = loader(images, cache=True, num_workers=2)
    (first,) = passes(files, 1)
    for path in images:
        path.unlink()
    (second,) = passes(files, 1)
    assert same([first], [second]) and files._workers is None
    assert "cache=0.0 MB" in repr(files)


def test_processes_of_one_training_decode_each_image_once_between_them(images, tmp_path):
    n_read = []

    def read(path):
        n_read.append(path)
        return open_image(path)

    def shared(rank):
        options = {
            "read": read,
            "cache": tmp_path / "cache",
            "shuffle": True,
            "training": True,
            "item_tfms": Resize(16),
        }
        return loader(images, **options).take_share(Share(rank, 2, is_even=True))

    parts = shared(0), shared(1)
    for one in parts:
        one.dataset.open_store()  # it decodes a few images to estimate how large the cache will be
    n_read.clear()
    for one in parts:
        passes(one, 1)
    assert sorted(n_read) == images and all(one.dataset.store.is_complete for one in parts)
    for one in parts:
        passes(one, 2)
    assert len(n_read) == len(images)


def test_a_full_cache_may_lack_what_the_first_pass_dropped(images):
    files = loader(images, cache=True, shuffle=True, drop_last=True, num_workers=1)
    passes(files, 1)
    assert 0 < files.dataset.store.n_stored < len(images) and files._workers is not None
    second = passes(files, 1)
    assert files._workers is None and files.dataset.is_cached(len(images) % 4)
    alone = loader(images, cache=False, shuffle=True, drop_last=True)
    assert same(second, passes(alone, 2)[1:])


def test_workers_read_from_the_cache_if_more_than_a_crop_is_left(images):
    files = loader(images, item_tfms=RandomResizedCrop(16), cache=True, num_workers=2)
    (first,) = passes(files, 1)
    for path in images:
        path.unlink()
    assert same([first], passes(files, 1)) and files._workers is not None


def test_a_kept_cache_serves_a_later_run_until_a_file_changes(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    first = passes(loader(images, cache=folder), 1)
    later = loader(images, cache=folder)
    later.dataset.open_store()
    assert later.dataset.is_cached() and same(first, passes(later, 1))
    Image.new("RGB", (30, 20)).save(images[0])
    assert passes(loader(images, cache=folder), 1)[0][0][0].max() == 0
    assert len(list(folder.iterdir())) == 2
    passes(loader(images, Resize(8), cache=folder), 1)
    assert len(list(folder.iterdir())) == 3


def test_a_kept_cache_has_the_name_that_it_had_when_caches_were_new(images, tmp_path):
    block = "ImageBlock(cls=<class 'minilearner.vision.blocks.PILImage'>)"
    passes(loader(images, RandomCrop(16), Read((ImageBlock(),)), cache=tmp_path / "kept"), 1)
    name = fingerprint(images, f"Read(blocks=({block},)) | RandomCrop(size=(16, 16)) | Pillow {PIL.__version__}")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [f"{name}.pictures"]


def test_a_kept_cache_is_made_anew_when_the_reader_changes_and_refused_when_it_cannot_tell(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    for read in (lambda path: open_image(path, "RGB"), lambda path: open_image(path, "L")):
        passes(loader(images, read=read, batch_tfms=None, cache=folder), 1)
    assert len(list(folder.iterdir())) == 2

    class Reader:
        def __call__(self, path):
            return open_image(path)

    with pytest.raises(ValueError, match="`cache` can only be a folder if .* have a `__repr__`"):
        passes(loader(images, read=Reader(), cache=folder), 1)


def test_the_cache_is_automatic_unless_there_is_no_room_or_nothing_to_keep(images, monkeypatch):
    automatic = loader(images, cache=None)
    assert "cache=not started" in repr(automatic)
    passes(automatic, 1)
    assert automatic.dataset.is_cached()
    tensors = loader([torch.zeros(3, 4, 4)] * 10, read=lambda t: t, item_tfms=[], cache=None)
    passes(tensors, 1)
    assert "cache=off: not images of 8 bits" in repr(tensors)
    monkeypatch.setattr("minilearner.data.item_dataset.room_for_cache", lambda: 1000)
    crowded = loader(images, cache=None)
    passes(crowded, 1)
    assert "cache=off: it would take" in repr(crowded)


def test_the_size_of_a_cache_is_known_before_it_is_written(images):
    files = loader(images, cache=True)
    expected = files.dataset.estimate_cache()
    files.dataset.open_store()
    assert f"cache=0 of {len(images)}, 0.0 MB of about {expected / 1e6:.1f} MB" in repr(files)
    passes(files, 1)
    assert files.dataset.store.n_bytes == pytest.approx(expected, rel=0.1, abs=32 + 40 * len(images))
    assert loader([torch.zeros(3, 4, 4)], read=lambda t: t, item_tfms=[]).dataset.estimate_cache() is None


def test_a_kept_cache_that_its_disk_has_no_room_for_is_not_begun(images, tmp_path, monkeypatch):
    monkeypatch.setattr("minilearner.data.item_dataset.make_room", lambda *_: 1000)
    files = loader(images, cache=tmp_path / "kept")
    with pytest.warns(RuntimeWarning, match="Images are not kept in .*kept.*it would take 0.0 GB, and it may take"):
        got = passes(files)
    assert same(got, passes(loader(images)))
    assert not (tmp_path / "kept").exists()


def test_a_full_disk_ends_the_cache_with_a_warning_not_the_training(images, monkeypatch):
    files = loader(images, cache=True)
    files.dataset.open_store()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minilearner.data.image_cache._write", full)
    with pytest.warns(RuntimeWarning, match="Images are not cached any more: .*No space left"):
        got = passes(files)
    assert same(got, passes(loader(images))) and "off: No space left" in repr(files)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve room on a disk")
@pytest.mark.parametrize("is_kept", [False, True])
def test_a_disk_without_room_for_the_index_ends_the_cache_with_a_warning(images, tmp_path, monkeypatch, is_kept):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    files = loader(images, cache=tmp_path / "cache" if is_kept else True)
    with pytest.warns(RuntimeWarning, match="Images are not cached any more: .*No space left"):
        got = passes(files)
    assert same(got, passes(loader(images))) and "off: No space left" in repr(files)


def test_epochs_differ_and_a_pass_can_start_in_the_middle(images):
    first, second = (list(one) for one in [loader(images, shuffle=True, training=True)] * 2)
    assert not torch.equal(first[0][0], second[0][0])
    tail = list(loader(images, shuffle=True, training=True).iterate(1))
    assert len(tail) == 2 and all(torch.equal(a[0], b[0]) for a, b in zip(first[1:], tail, strict=True))


def test_two_passes_at_a_time_do_not_disturb_each_other(images):
    helped = loader(images, num_workers=1, training=True, shuffle=True)
    expected = passes(loader(images, training=True, shuffle=True))
    got = list(zip(*zip(helped, helped, strict=True), strict=True))
    assert same(expected, [[x for x, _ in one] for one in got])


def test_a_pass_that_was_left_early_does_not_spoil_the_next(images):
    helped = loader(images, num_workers=2, training=True, shuffle=True)
    list(islice(helped, 1))
    assert same(passes(loader(images, training=True, shuffle=True))[1:], passes(helped, 1))


def test_one_batch_is_the_next_pass_first_and_starts_no_worker(images):
    helped = loader(images, num_workers=2, training=True, shuffle=True)
    dls = DataLoaders(helped, vocab=["a", "b"])
    x, y = dls.one_batch()
    assert dls.train._workers is None and dls.train.epoch == 0
    first_x, first_y = next(iter(helped))
    assert torch.equal(x, first_x) and torch.equal(y, first_y)


def test_workers_stay_from_pass_to_pass(images):
    helped = loader(images, num_workers=1, read=read_and_tell_process, item_tfms=[])
    first, second = passes(helped)
    assert first[0].unique().tolist() == second[0].unique().tolist() != [os.getpid()]


def read_and_tell_process(_):
    return torch.tensor([os.getpid()])


def test_validation_takes_the_middle_and_moves_no_global_generator(images):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    (x, _), *_ = loader(images, num_workers=1)
    assert torch.equal(before, torch.get_rng_state())
    middle = np.asarray(Resize(16)(open_image(images[0]), None)).transpose(2, 0, 1)
    assert torch.equal(x[0], torch.tensor(middle) / 255)


def test_a_learner_trains_and_predicts_from_files(images):
    normalize = Normalize.from_stats([0.5] * 3, [0.25] * 3)
    plain = DataLoaders(loader(images, training=True, shuffle=True), loader(images), vocab=["a", "b"])
    dls = plain.with_batch_tfms(normalize)
    rng = torch.Generator()
    assert torch.equal(dls.one_batch(1)[0], normalize(plain.one_batch(1)[0], rng))
    learn = Learner(dls, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 2)), seed=0)
    learn.fit(1)
    preds, targets = learn.get_preds()
    assert targets.tolist() == [0, 1] * 5
    again, _ = learn.get_preds(dl=dls.test_dl(images))
    assert torch.equal(preds, again)


def test_picked_items_come_as_one_batch_read_as_in_validation(images):
    trained = loader(images, training=True, shuffle=True, num_workers=2)
    ((x, y),) = trained.pick([5, 0, 5])
    assert torch.equal(x, trained.items([5, 0, 5])[0]) and y.tolist() == [1, 0, 1]


def test_one_item_picked_twice_is_augmented_twice(images):
    ((x, _),) = loader(images).pick([0, 0]).augment()
    assert not torch.equal(x[0], x[1])


def test_augmented_items_are_in_order_complete_and_drawn_by_number(images):
    trained = loader(images, training=True, shuffle=True, drop_last=True)
    first, again, other = (torch.cat([x for x, _ in trained.augment(n)]) for n in (0, 0, 1))
    assert len(first) == 10 and torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.cat([y for _, y in trained.augment()]), trained.y)


def test_other_item_transforms_augment_and_the_loader_keeps_its_own(images):
    plain = loader(images)
    ((x, _),) = plain.pick([0, 1]).augment(item_tfms=Resize(8))
    assert x.shape == (2, 3, 8, 8)
    assert next(iter(plain))[0].shape == (4, 3, 16, 16)


def test_other_items_are_not_served_from_the_cache(images):
    files = loader(images, cache=True)
    (first,) = passes(files, 1)
    (other,) = passes(files.over(images[::-1]), 1)
    assert torch.equal(torch.cat(other), torch.cat(first).flip(0))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_failing_transform_is_reported_with_the_item_and_the_place(images, num_workers):
    with pytest.raises(
        DataError, match=r"Item 0 \(.*0.png.*\) cannot be transformed: KeyError: 'x' \(fail at .*py:\d+\)"
    ):
        passes(loader(images, item_tfms=[Resize(16), fail], num_workers=num_workers))


def fail(item):
    raise KeyError("x")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_shapes_that_differ_are_reported_with_both_items(images, num_workers):
    with pytest.raises(
        DataError,
        match=r"item 0 \(.*0.png.*\) of 30 x 20 pixels with 3 channels, item 1 .* of 31 x 20 .* such as Resize\(224\)",
    ):
        passes(loader(images, item_tfms=[partial(Image.Image.convert, mode="RGB")], num_workers=num_workers))


def test_several_inputs_an_item_are_a_tuple(images):
    both = loader([(a, b) for a, b in zip(images, images[::-1])], read=read_two, cache=None)
    (x, z), _ = next(iter(both))
    assert torch.equal(x[0], open_and_scale(images[0])) and torch.equal(z[0], open_and_scale(images[-1]))


def read_two(paths):
    return tuple(map(open_image, paths))


def open_and_scale(path):
    return torch.tensor(np.asarray(Resize(16)(open_image(path), None))).permute(2, 0, 1) / 255


def test_grey_images_have_one_channel_and_a_reader_receives_the_size_that_is_enough(images):
    sizes = []

    def read(path, reduce_to=None):
        sizes.append(reduce_to)
        return open_image(path, "L")

    (x, *_), *_ = passes(loader(images, read=read, batch_tfms=None), 1)
    assert x.shape == (4, 1, 16, 16) and set(sizes) == {(16, 16)}
    sizes.clear()
    list(loader(images, read=read).augment(item_tfms=Resize(32)))
    assert set(sizes) == {(32, 32)}


def test_arguments_are_checked(images):
    with pytest.raises(ValueError, match="`num_workers` must be at least 0. Received: num_workers=-1"):
        loader(images, num_workers=-1)


def test_a_hundred_thousand_items_are_not_touched_before_their_batch():
    items = [f"/nowhere/{i}.jpg" for i in range(100_000)]
    dls = DataLoaders(ItemLoader(ItemDataset(items, open_image), torch.zeros(100_000), shuffle=True, training=True))
    assert len(dls.train) == 1563
    with pytest.raises(DataError, match="/nowhere/.*cannot be opened"):
        dls.one_batch()


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("item_tfms", [SCALED, RandomResizedCrop(16), [Resize(24), RandomCrop(16)], Resize(16, "pad")])
def test_images_read_in_threads_are_the_same_bits(images, item_tfms, two_threads):
    one_by_one, threaded = (
        loader(images, item_tfms, read, cache=True, training=True) for read in (open_image, Read((ImageBlock(),)))
    )
    assert threaded.dataset.in_threads and not one_by_one.dataset.in_threads
    assert same(passes(threaded), passes(one_by_one))


class Met(ImageBlock):
    """Reads an image only when two threads have asked for one."""

    in_threads = True
    together = threading.Barrier(2)

    def read_reduced(self, source, reduce_to):
        self.together.wait(timeout=20)
        return super().read_reduced(source, reduce_to)


def test_the_images_of_a_batch_are_read_by_several_threads_at_once(images, two_threads):
    assert len(list(loader(images[:8], read=Read((Met(),))))) == 2


def test_what_does_not_say_so_is_read_one_by_one(images, two_threads):
    files = Read((ImageBlock(),))
    for read, item_tfms in ((files, [SCALED, Invert()]), (files, lambda image: image), (open_image, SCALED)):
        assert not loader(images, item_tfms, read).dataset.in_threads
    assert not Read((ImageBlock(), TransformBlock())).in_threads


class CountingBlock(ImageBlock):
    pass


class CountingResize(Resize):
    pass


def test_what_subclasses_keep_between_images_is_met_by_one_thread_only(images, two_threads):
    for read, item_tfms in (((CountingBlock(),), SCALED), ((ImageBlock(),), CountingResize(16))):
        assert not loader(images, item_tfms, Read(read)).dataset.in_threads


def test_the_cpu_needs_no_workers_if_threads_read(images, two_threads):
    options = {"num_workers": None, "device": "cpu"}
    in_threads, one_by_one = loader(images, read=Read((ImageBlock(),)), **options), loader(images, **options)
    assert in_threads.num_workers == 0
    assert one_by_one.num_workers == default_num_workers(torch.device("cpu"))
    torch.set_num_threads(1)  # training leaves the other processors idle
    assert in_threads.num_workers == default_num_workers(torch.device("cpu"))


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_an_open_image_that_stands_twice_in_a_batch_is_read_by_one_thread_at_a_time(tmp_path, two_threads, name):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (400, 400, 3), dtype=np.uint8)).save(tmp_path / name)
    pixels = as_tensor(open_image(tmp_path / name))
    for _ in range(5):
        with Image.open(tmp_path / name) as shared:  # not decoded yet
            read = loader([shared] * 8, None, Read((ImageBlock(),)), batch_tfms=None)
            assert all(torch.equal(x * 255, pixels.expand_as(x)) for x, _ in read)


def test_a_crop_of_a_large_photo_does_not_keep_the_photo(tmp_path):
    Image.new("RGB", (4000, 3000)).save(tmp_path / "a.jpg")  # 36 MB decoded
    dataset = ItemDataset([tmp_path / "a.jpg"] * 4, open_image, ItemPipeline(RandomCrop(64)), cache=False)
    tracemalloc.start()
    dataset.fetch([(i, 0) for i in range(4)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * 36e6  # Pillow's bytes and numpy's, of one photo at a time


def test_in_threads_too_a_damaged_file_is_reported_by_its_path(images, two_threads):
    for i in (6, 7):
        images[i].write_bytes(b"")
    with pytest.raises(FileFormatError, match="6.png: the file is empty"):
        list(loader(images, read=Read((ImageBlock(),))))
