"""Files are found in the same order everywhere, without hidden ones, and errors say what was searched for."""

import os

import pytest
from PIL import Image

from minilearner.data.items import FileGetter, ImageGetter, get_files, get_image_files
from minilearner.errors import DataError


@pytest.fixture
def tree(tmp_path):
    for name in ["b/2.jpg", "b/10.JPG", "a/x.png", "a/.hidden.png", ".git/y.png", "top.gif", "notes.txt", "a.b/z.jpeg"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(files, root):
    return [file.relative_to(root).as_posix() for file in files]


def test_images_come_sorted_by_their_path_and_nothing_hidden_is_among_them(tree):
    assert names(get_image_files(tree), tree) == ["a.b/z.jpeg", "a/x.png", "b/10.JPG", "b/2.jpg", "top.gif"]


def test_the_order_does_not_depend_on_that_of_the_file_system(tmp_path):
    orders = [["c", "a", "b"], ["b", "c", "a"]]
    for k, order in enumerate(orders):
        (tmp_path / str(k)).mkdir()
        for name in order:
            (tmp_path / str(k) / f"{name}.png").touch()
    assert [names(get_image_files(tmp_path / str(k)), tmp_path / str(k)) for k in (0, 1)] == [
        ["a.png", "b.png", "c.png"]
    ] * 2


def test_endings_are_chosen_in_any_case_and_all_files_without(tree):
    assert names(get_files(tree, ".jpg"), tree) == ["b/10.JPG", "b/2.jpg"]
    assert names(get_files(tree, [".TXT", ".gif"]), tree) == ["notes.txt", "top.gif"]
    assert len(get_files(tree)) == 6


def test_only_the_folders_asked_for_and_the_top_by_a_dot(tree):
    assert names(get_image_files(tree, folders=["b"]), tree) == ["b/10.JPG", "b/2.jpg"]
    assert names(get_image_files(tree, folders=["a", "."]), tree) == ["a/x.png", "top.gif"]
    assert names(get_image_files(tree, recurse=False), tree) == ["top.gif"]


def test_links_are_followed_once_and_not_in_circles(tree):
    (tree / "a" / "up").symlink_to(tree)
    (tree / "b" / "to_a").symlink_to(tree / "a")
    assert names(get_image_files(tree), tree) == [
        "a.b/z.jpeg",
        "a/x.png",
        "b/10.JPG",
        "b/2.jpg",
        "b/to_a/x.png",
        "top.gif",
    ]
    assert "b/to_a/x.png" not in names(get_files(tree, followlinks=False), tree)


def test_a_relative_path_stays_relative(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert [os.fspath(file) for file in get_image_files("b")] == ["b/10.JPG", "b/2.jpg"]
    assert os.fspath(get_image_files(".")[0]) == "a.b/z.jpeg"


def test_getters_look_below_the_source(tree):
    assert FileGetter("a", extensions=".png")(tree) == ImageGetter("a")(tree) == [tree / "a" / "x.png"]


def test_what_is_not_there_is_said(tree):
    with pytest.raises(DataError, match="`path` must be a folder.*absent', which does not exist"):
        get_image_files(tree / "absent")
    with pytest.raises(DataError, match="'photos', which does not exist in the working directory, '"):
        get_image_files("photos")
    with pytest.raises(DataError, match="no file that ends in .tar in .*b'"):
        get_files(tree / "b", ".tar")
    with pytest.raises(DataError, match="notes.txt', which is a file"):
        get_image_files(tree / "notes.txt")
    with pytest.raises(DataError, match=r"has no folder 'bb'. Did you mean 'b'\? It has: .git, a, a.b, b"):
        get_image_files(tree, folders=["a", "bb"])
    (tree / "empty").mkdir()
    with pytest.raises(DataError, match="no image in .*empty', nor any other file"):
        get_image_files(tree / "empty")
    with pytest.raises(TypeError, match="`path` must be a folder. Received: a list"):
        get_image_files([tree / "top.gif"])


def test_found_files_are_listed_in_short(pets):
    text = repr(get_image_files(pets))
    assert text.startswith("(#30) [") and text.endswith(", ...]") and text.count(".jpg") == 10


HEIC = b"\0\0\0\x18ftypheic" + bytes(20)


def test_a_class_of_files_that_are_not_listed_is_named_with_the_way_to_read_them(tmp_path):
    for name in ("cat/1.jpg", "cat/2.jpg", "dog/1.HEIC", "dog/2.heic", "cow/1.jxl", "notes/readme.txt", "emu/1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\xff\xd8\xff\xe0" if name == "emu/1" else b"text")
    message = (
        r"4 images below .* are left out.*1 in 'cow', its only image, ends in .jxl.*"
        r"2 in 'dog', all its images, end in .heic"
        r".*1 in 'emu', its only image, ends in no suffix.*pillow-jxl-plugin.*minilearner\[heif\]"
    )
    with pytest.warns(UserWarning, match=message) as seen:
        assert len(get_image_files(tmp_path)) == 2
    assert "notes" not in str(seen[0].message)


def test_some_files_of_a_class_that_are_not_listed_are_named_too(tmp_path):
    for name in ("1.jpg", "2.heic", "3.txt"):
        (tmp_path / name).touch()
    with pytest.warns(UserWarning, match=r"1 image below .*: 1 in '.' ends in .heic\. To read .heic"):
        get_image_files(tmp_path)
    with pytest.warns(UserWarning, match=r"ends in .heic"):
        ImageGetter()(tmp_path)


def test_files_of_a_registered_format_are_listed(tmp_path, monkeypatch):
    monkeypatch.setitem(Image.EXTENSION, ".heic", "HEIF")
    for name in ("1.jpg", "2.heic"):
        (tmp_path / name).touch()
    assert [file.name for file in get_image_files(tmp_path)] == ["1.jpg", "2.heic"]
    assert [file.name for file in ImageGetter()(tmp_path)] == ["1.jpg", "2.heic"]


def test_a_listing_does_not_wait_for_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    os.mkfifo(tmp_path / "b.heic")
    (tmp_path / "sub").mkdir()
    os.mkfifo(tmp_path / "sub" / "c")
    with pytest.warns(UserWarning, match="1 in '.' ends in .heic"):
        assert [file.name for file in get_image_files(tmp_path)] == ["a.jpg"]


def test_a_warning_precedes_the_error_that_there_is_no_image(tmp_path):
    (tmp_path / "a.heic").write_bytes(HEIC)
    with (
        pytest.warns(UserWarning, match=r"pip install 'minilearner\[heif\]'"),
        pytest.raises(DataError, match=r"no image in .*, only 1 other file, such as 'a.heic'. Images .* end in .*.png"),
    ):
        get_image_files(tmp_path)
