"""Files are found in the same order everywhere, without hidden ones, and errors say what was searched for."""

import os

import pytest

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
    with pytest.raises(DataError, match="notes.txt', which is a file"):
        get_image_files(tree / "notes.txt")
    with pytest.raises(DataError, match=r"has no folder 'bb'. Did you mean 'b'\? It has: .git, a, a.b, b"):
        get_image_files(tree, folders=["a", "bb"])
    (tree / "empty").mkdir()
    with pytest.raises(DataError, match="no file that ends in .*.png.* in .*empty"):
        get_image_files(tree / "empty")
    with pytest.raises(TypeError, match="`path` must be a folder. Received: a list"):
        get_image_files([tree / "top.gif"])


def test_found_files_are_listed_in_short(pets):
    text = repr(get_image_files(pets))
    assert text.startswith("(#30) [") and text.endswith(", ...]") and text.count(".jpg") == 10
