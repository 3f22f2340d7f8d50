"""Tables are read row by row, from any mapping of columns or a CSV file."""

import pickle

import numpy as np
import pytest

from minilearner.data.table import as_table, read_csv
from minilearner.errors import DataError


def test_rows_are_read_by_name_attribute_and_position():
    table = as_table({"fname": ["a", "b"], "n": np.array([1, 2])})
    row = table[1]
    assert (row["fname"], row.fname, row[0], row[-1]) == ("b", "b", "b", 2)
    assert len(table) == 2 and type(row.n) is int and dict(row) == {"fname": "b", "n": 2}
    assert [r.fname for r in table] == ["a", "b"] and pickle.loads(pickle.dumps(row)).fname == "b"


def test_columns_that_do_not_fit_or_are_absent():
    with pytest.raises(DataError, match=r"must have one length. Received: \{'a': 1, 'b': 2\}"):
        as_table({"a": [1], "b": [1, 2]})
    with pytest.raises(DataError, match="there is no column 'fnam'. Did you mean 'fname'"):
        as_table({"fname": [1]})[0]["fnam"]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_file_is_text_but_for_the_columns_asked_for(tmp_path):
    path = write(tmp_path / "l.csv", "fname,label,y,valid,id\n1.jpg,3,0.5,True,007\n2.jpg,12,,False,008\n")
    table = read_csv(path, typed=["label", 2, "valid", "id"])
    assert dict(table[0]) == {"fname": "1.jpg", "label": 3, "y": 0.5, "valid": True, "id": "007"}
    assert table[1].y is None and table[1].label == 12 and table[1].valid is False


def test_delimiter_and_no_header(tmp_path):
    table = read_csv(write(tmp_path / "l.csv", '1.jpg;"a;b"\n2.jpg;c\n'), header=None, delimiter=";")
    assert [row[1] for row in table] == ["a;b", "c"]


def test_a_broken_csv_file_is_reported(tmp_path):
    with pytest.raises(DataError, match="1 of 2 rows .* have not 2 cells.*first line 3, "):
        read_csv(write(tmp_path / "l.csv", "a,b\n1,2\n1,2,3\n"))
    with pytest.raises(DataError, match="has no rows"):
        read_csv(write(tmp_path / "l.csv", "a,b\n"))
    with pytest.raises(DataError, match="there is no file"):
        read_csv(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="name each column once"):
        read_csv(write(tmp_path / "l.csv", "a,a\n1,2\n"))
