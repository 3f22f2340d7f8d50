"""How far a long stretch is, in real terminals, logs and in this process."""

import re
import signal
from contextlib import redirect_stderr
from itertools import pairwise

import nbformat
import pytest
from nbclient import NotebookClient
from terminals import run_in_log, run_in_terminal

from minilearner.display import Bar, iterate_with_bar, write_line

SCRIPT = """
import sys, time, torch
from torch import nn
from minilearner import Callback, DataLoaders, Learner, SaveBest, set_seed

class Slow(Callback):
    part_of_step = True

    def after_batch(self, run):
        time.sleep(0.03)

def split(model):
    return [list(model[0].parameters()), list(model[2].parameters())]

def forward_slowly(module, args):
    if not module.training:
        time.sleep(slowness)

slowness = 0.0
set_seed(0)
batches = [(torch.randn(4, 2), torch.randint(2, (4,))) for _ in range(40)]
net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
net.register_forward_pre_hook(forward_slowly)
learn = Learner(DataLoaders(batches, batches[:30]), net, device="cpu", loss_func=nn.CrossEntropyLoss(), splitter=split)
learn.add_cbs([Slow(), SaveBest()])
"""
ALL = """
learn.lr_find(num_it=50, show_plot=False)
learn.fine_tune(2)
slowness = 0.03
learn.get_preds(0)
"""


@pytest.fixture
def script(tmp_path):
    """Returns a function that writes a script of `SCRIPT` and further lines."""

    def write(lines):
        path = tmp_path / "script.py"
        path.write_text(SCRIPT + lines)
        return path

    return write


@pytest.mark.slow
def test_a_log_shows_all_that_takes_long_line_by_line_as_it_happens(script, tmp_path):
    seen = run_in_log(script(ALL), folder=tmp_path, MINILEARNER_LOG_SECONDS="0.5")
    text = (tmp_path / "log.txt").read_text()
    assert all(character.isprintable() for line in text.split("\n") for character in line)
    counts = r": \d+/\d+, \d+ %(, loss \d\.\d{4})?, (at most )?\d\d:\d\d left"  # a sweep may stop early
    for what in ("learning-rate sweep", "epoch 1/3", "epoch 2/3", "epoch 3/3", "validation", "predicting"):
        assert re.search(f"^{what}{counts}$", text, re.M), what
    times = [moment for moment, line in seen if re.fullmatch(f".*{counts}", line)]
    assert min(after - before for before, after in pairwise(times)) > 0.4
    assert times[-1] - times[0] > 4  # not all at the end


@pytest.mark.slow
def test_a_log_of_a_short_run_has_one_line_an_epoch_and_names_the_phases(script, tmp_path):
    lines = [line.split() for _, line in run_in_log(script("learn.fine_tune(2)"), folder=tmp_path)]
    head = ["epoch", "train_loss", "valid_loss", "time"]
    assert [line[0] for line in lines] == [
        *("fine_tune,", "epoch", "1/3", "SaveBest"),
        *("fine_tune,", "epoch", "2/3", "3/3", "SaveBest"),
    ]
    assert " ".join(lines[0]) == "fine_tune, frozen: epoch 1/3, peak learning rate 2.00e-03"
    assert " ".join(lines[4]) == "fine_tune, unfrozen: epochs 2/3 to 3/3, peak learning rate 1.00e-05 to 1.00e-03"
    assert lines[1] == lines[5] == head
    assert re.fullmatch(r"SaveBest put back the weights of epoch 1/3: valid_loss \d\.\d{4}\.", " ".join(lines[3]))


@pytest.mark.slow
def test_a_terminal_shows_one_bar_at_a_time_and_none_at_the_end(script):
    session = run_in_terminal(script(ALL))
    bars = [re.findall(r"^.*\|.*\|.*$", screen, re.M) for screen in session.screens]
    assert session.code == 0 and max(map(len, bars)) == 1 and not bars[-1]
    shown = "\n".join(bar for several in bars for bar in several)
    for what in ("learning-rate sweep", "epoch 3/3", "validation", "predicting"):
        assert re.search(rf"{what}: +\d+ % \|.*\| \d+/\d+(, loss \d\.\d+)?, (at most )?\d\d:\d\d left", shown), what
    assert re.search(r"learning-rate sweep: .*, at most \d\d:\d\d left", shown)
    assert "3/3 " in session.screens[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "at", "line"),
    [
        ("learn.fit(3)", "epoch 2/3: ", r"Interrupted in epoch 2/3, batch \d+/40\."),
        ("learn.fit(3)", "validation: ", r"Interrupted in epoch 1/3, batch \d+/\d0\."),
        ("learn.lr_find()", "learning-rate sweep: ", r"Interrupted in a learning-rate sweep, update \d+\."),
        ("slowness = 0.1; learn.get_preds()", "predicting: ", r"Interrupted while predicting\."),
        ("slowness = 0.1; list(learn.predict_batches())", "predicting: ", r"Interrupted while predicting\."),
        (
            "learn.fit(3, checkpoint='run')",
            "epoch 2/3: ",
            r"Interrupted in epoch 2/3, batch \d+/40, saved in run\. Run the same script again to resume\.",
        ),
    ],
)
def test_ctrl_c_leaves_one_line_and_no_bar(script, tmp_path, monkeypatch, call, at, line):
    monkeypatch.chdir(tmp_path)
    session = run_in_terminal(script(call), press_ctrl_c_at=at)
    *before, last = session.screens[-1].rstrip().split("\n")
    assert re.fullmatch(line, last), session.screens[-1]
    assert session.code == -signal.SIGINT
    assert not any("|" in one or "Traceback" in one or "^C" in one for one in before), before


@pytest.mark.slow
def test_a_notebook_shows_one_output_for_a_run_which_changes_in_place(monkeypatch):
    monkeypatch.delenv("MPLBACKEND", raising=False)
    updates = []

    class Client(NotebookClient):
        def process_message(self, message, cell, number):
            if message["msg_type"] == "update_display_data":
                updates.append(message["content"]["data"]["text/plain"])
            return super().process_message(message, cell, number)

    sources = (
        SCRIPT,
        "learn.fit(2);",
        "learn.lr_find(num_it=50, show_plot=False);",
        "slowness = 0.1; learn.get_preds();",
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    Client(notebook, timeout=300, kernel_name="python3").execute()
    fit, *others = [[o["data"] for o in cell.outputs if "data" in o] for cell in notebook.cells[1:]]
    assert len(fit) == 1 and fit[0]["text/html"].count("<tr>") == 3 and fit[0]["text/html"].count("<img") == 1
    assert "1/2" in fit[0]["text/plain"] and "2/2" in fit[0]["text/plain"]
    assert [list(one[0].values()) for one in others] == [["", ""], ["", ""]]  # a bar goes when all is done
    for what in ("epoch 2/2", "validation", "learning-rate sweep", "predicting"):
        assert any(re.search(rf"{what}: \d+/\d+, \d+ %.*, (at most )?\d\d:\d\d left", text) for text in updates), what


@pytest.fixture
def terminal(monkeypatch):
    """Makes standard error a terminal of unknown width that keeps what is written."""

    class Terminal:
        encoding = "utf-8"

        def __init__(self):
            self.text = ""

        def isatty(self):
            return True

        def fileno(self):
            raise OSError

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def test_a_line_takes_the_place_of_a_bar_and_the_bar_comes_back_below(terminal):
    with redirect_stderr(terminal), Bar("epoch 1/1", 4):
        write_line("found", terminal)
        assert re.search(r"\r +\rfound\n\repoch 1/1: ", terminal.text)
    assert terminal.text.endswith(" \r")


def test_a_bar_inside_another_hides_it_until_it_is_closed(terminal):
    with redirect_stderr(terminal), Bar("outer", 4) as outer:
        with Bar("inner", 4):
            length = len(terminal.text)
            outer.show(2)
            assert terminal.text[length:] == ""
        assert "outer:  50 %" in terminal.text[length:]


def test_a_dumb_terminal_gets_lines(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("MINILEARNER_LOG_SECONDS", "0.000001")
    with redirect_stderr(terminal):
        assert list(iterate_with_bar([1, 2], "counting")) == [1, 2]
    assert terminal.text.splitlines()[0].startswith("counting: 1/2, 50 %")


def test_a_log_counts_bytes_and_names_no_end_that_nobody_knows(monkeypatch, capsys):
    monkeypatch.setenv("MINILEARNER_LOG_SECONDS", "0.000001")
    with Bar("downloading a.gz", 26_400_000, unit="B") as bar:
        bar.show(13_200_000)
    with Bar("unpacking a.tar", None, unit=" files") as bar:
        bar.show(7)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["downloading a.gz: 13.2M/26.4MB, 50 %, 00:00 left", "unpacking a.tar: 7 files, 00:00"]


@pytest.mark.parametrize("given", ["0", "-1", "often", "nan"])
def test_the_interval_of_a_log_must_be_a_number_above_0(monkeypatch, given):
    monkeypatch.setenv("MINILEARNER_LOG_SECONDS", given)
    with pytest.raises(ValueError, match=f"MINILEARNER_LOG_SECONDS must be a number above 0. Received: .*{given}"):
        Bar("epoch 1/1", 4)
