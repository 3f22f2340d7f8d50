"""`DataPath` lists its folder, and leaves `pathlib` unchanged."""

import copy
import pathlib
import pickle

import pytest

from minilearner.sources.paths import DataPath


@pytest.fixture
def folder(tmp_path):
    for name in ("b.JPG", "notes.txt", "a.png", "c.webp"):
        (tmp_path / name).touch()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.png").touch()
    return DataPath(tmp_path)


def test_paths_made_from_a_data_path_are_data_paths(folder):
    made = [
        folder / "images",
        "x" / DataPath("y"),
        folder.parent,
        folder.parents[1],
        folder.with_name("other"),
        folder.resolve(),
        (folder / "images").relative_to(folder),
        *folder.iterdir(),
        *folder.glob("*"),
        *folder.rglob("*.png"),
        *folder.ls(),
    ]
    assert {type(path) for path in made} == {DataPath}


def test_a_data_path_behaves_like_any_path(folder):
    plain = pathlib.Path(str(folder))
    assert isinstance(folder, pathlib.Path)
    assert (folder, hash(folder), str(folder)) == (plain, hash(plain), str(plain))
    for twin in (pickle.loads(pickle.dumps(folder)), copy.deepcopy(folder)):
        assert (type(twin), twin) == (DataPath, folder)


def test_pathlib_itself_is_not_changed():
    assert not hasattr(pathlib.Path, "ls")
    assert repr(pathlib.PurePosixPath("a")) == "PurePosixPath('a')"
    assert repr(pathlib.Path("a")) == f"{type(pathlib.Path()).__name__}('a')"


def names(listing):
    return [path.name for path in listing]


def test_ls_is_sorted(folder):
    assert names(folder.ls()) == ["a.png", "b.JPG", "c.webp", "images", "notes.txt"]
    assert folder.ls() == sorted(folder.iterdir())


def test_ls_selects_by_kind_and_by_suffix_and_then_limits_the_number(folder):
    assert names(folder.ls(2)) == ["a.png", "b.JPG"]
    assert names(folder.ls(0)) == []
    assert names(folder.ls(file_type="image")) == ["a.png", "b.JPG", "c.webp"]
    assert names(folder.ls(file_exts=".jpg")) == ["b.JPG"]
    assert names(folder.ls(file_exts=[".TXT", ".png"])) == ["a.png", "notes.txt"]
    assert names(folder.ls(3, file_type="image", file_exts=[".txt"])) == ["a.png", "b.JPG", "c.webp"]
    assert names(folder.ls(file_exts=[])) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_max": -1}, "`n_max` must be at least 0. Received: n_max=-1."),
        (
            {"file_type": "images"},
            r"`file_type` must be one of .*Did you mean 'image'\? Received: file_type='images'.",
        ),
        ({"file_exts": "jpg"}, r"with their dot, such as '.jpg'. Received: \['jpg'\]."),
    ],
)
def test_wrong_arguments_of_ls(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        folder.ls(**arguments)


def test_ls_of_a_file_raises(folder):
    with pytest.raises(NotADirectoryError):
        (folder / "a.png").ls()
