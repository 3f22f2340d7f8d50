"""Tables are read row by row, from any mapping of columns or a CSV file."""

import csv
import os
import pickle

import numpy as np
import pytest

from minilearner.data.splits import FileSplitter
from minilearner.data.table import as_table, read_csv
from minilearner.errors import DataError, FileFormatError


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
    with pytest.raises(DataError, match="1 of 2 rows .* does not have 2 cells.*first line 3, "):
        read_csv(write(tmp_path / "l.csv", "a,b\n1,2\n1,2,3\n"))
    with pytest.raises(DataError, match="has no rows"):
        read_csv(write(tmp_path / "l.csv", "a,b\n"))
    with pytest.raises(DataError, match="there is no file"):
        read_csv(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="name each column once"):
        read_csv(write(tmp_path / "l.csv", "a,a\n1,2\n"))


def test_cells_of_any_length_and_utf_16_are_read(tmp_path):
    (tmp_path / "l.csv").write_bytes(f"a,b\ncafé,{'x' * 200_000}\n".encode("utf-16"))
    limit = csv.field_size_limit()
    assert dict(read_csv(tmp_path / "l.csv")[0]) == {"a": "café", "b": "x" * 200_000}
    assert csv.field_size_limit() == limit


def test_another_encoding_is_named_with_its_line_and_can_be_given(tmp_path):
    (tmp_path / "l.csv").write_bytes("name,label\n1.png,bar\n2.png,café\n".encode("latin-1"))
    with pytest.raises(FileFormatError, match=r"line 3 of '.*l.csv' is not text in utf-8: .*give its `encoding`"):
        read_csv(tmp_path / "l.csv")
    assert read_csv(tmp_path / "l.csv", encoding="latin-1")[1].label == "café"
    with pytest.raises(ValueError, match="`encoding` must be one that Python knows. Received: encoding='latin1x'"):
        read_csv(tmp_path / "l.csv", encoding="latin1x")
    (tmp_path / "l.csv").write_bytes("a,b\n1,2\n".encode("utf-16-le"))
    with pytest.raises(FileFormatError, match=r"line 1 of '.*l.csv' has a character number 0"):
        read_csv(tmp_path / "l.csv")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_a_byte_order_mark_says_the_encoding(encoding, tmp_path):
    (tmp_path / "l.csv").write_bytes("name,label\n1.png,café\n".encode(encoding))
    assert read_csv(tmp_path / "l.csv")[0].label == "café"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("label", ["cafe", "café"])
def test_text_of_two_bytes_a_letter_is_recognised(label, encoding, tmp_path):
    (tmp_path / "l.csv").write_bytes(f"name,label\n1.png,{label}\n".encode(encoding))
    with pytest.raises(FileFormatError, match=f"give its `encoding`, such as '{encoding}'"):
        read_csv(tmp_path / "l.csv")
    assert read_csv(tmp_path / "l.csv", encoding=encoding)[0].label == label


def test_a_pipe_a_device_and_a_folder_are_refused_by_what_they_are(tmp_path):
    os.mkfifo(tmp_path / "l.csv")
    with pytest.raises(FileFormatError, match=r"l\.csv: it is a named pipe, not a file"):
        read_csv(tmp_path / "l.csv")
    with pytest.raises(FileFormatError, match="/dev/zero: it is a device, not a file"):
        FileSplitter("/dev/zero")(["a.png"])
    with pytest.raises(DataError, match=r"cannot be read: Is a directory"):
        read_csv(tmp_path)


def test_a_quote_that_is_never_closed_does_not_swallow_the_rest(tmp_path):
    with pytest.raises(DataError, match=r"a quote on line 3 of '.*' is not closed"):
        read_csv(write(tmp_path / "l.csv", 'a,b\n1,"x"\n2,"y\n3,z\n'))
    assert len(read_csv(write(tmp_path / "l.csv", 'a,b\n1,"x\ny"\n2,y'))) == 2
    assert read_csv(tmp_path / "l.csv", quoting=csv.QUOTE_MINIMAL)[0].b == "x\ny"


def test_rows_are_named_by_their_lines(tmp_path):
    table = read_csv(write(tmp_path / "l.csv", 'a,b\n1,"x\ny"\n\n2,y\n'))
    assert table.name_row(1) == f"line 5 of '{tmp_path / 'l.csv'}'"
    assert as_table({"a": [1, 2]}).name_row(1) == "row 1"
    with pytest.raises(DataError, match=r"line 2 of '.*l.csv' cannot be read: could not convert string to float"):
        read_csv(write(tmp_path / "l.csv", '"a","b"\n1,x\n'), quoting=csv.QUOTE_NONNUMERIC)


def test_a_column_of_numbers_may_have_empty_cells_in_any_spelling(tmp_path):
    table = read_csv(write(tmp_path / "l.csv", "a,b,c\n 1,0.5,NA\nNaN,NA,x\n , ,y\n"), typed=["a", "b", "c"])
    assert table.columns == {"a": [1, None, None], "b": [0.5, None, None], "c": ["NA", "x", "y"]}


def test_what_is_no_delimiter_or_quoting_is_refused(tmp_path):
    path = write(tmp_path / "l.csv", "a,b\n1,2\n")
    with pytest.raises(ValueError, match="`delimiter` must be one character. Received: delimiter=', '"):
        read_csv(path, delimiter=", ")
    with pytest.raises(ValueError, match="`quoting` must be a constant of the module csv. Received: 9"):
        read_csv(path, quoting=9)


def test_several_columns_of_a_row_are_a_list():
    assert as_table({"name": ["a"], "x": [1], "y": [2]})[0][["x", "y"]] == [1, 2]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", "file;label\n1.jpg;a,b\n"),
        ("l.csv", "file\tlabel\n1.jpg\ta,b\n"),
        ("l.tsv", "file\tlabel, or kind\n1.jpg\ta,b\n"),
        ("l.csv", 'file,"label; or\tkind"\n1.jpg,"a,b"\n'),
        ("l.csv", '"file";"label, or kind"\n1.jpg;a,b\n'),
    ],
)
def test_the_first_line_shows_what_separates_cells(tmp_path, name, text):
    table = read_csv(write(tmp_path / name, text))
    assert [table.column(0), table.column(1)] == [["1.jpg"], ["a,b"]]
