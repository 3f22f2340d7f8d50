"""What objects show of themselves: lines in a terminal, an escaped table in a notebook."""

import torch

from minilearner import (
    MLP,
    ClassificationInterpretation,
    DataLoaders,
    EarlyStopping,
    Learner,
    LRFinder,
    LRSweep,
    Predictions,
    minimum,
    valley,
)
from minilearner.glance import AtAGlance, Glance, enumerate_names


class Shown(AtAGlance):
    def glance(self):
        return Glance("A <title>", {"name": "a & b"}, ("epoch", "loss"), [("0", "1.25"), ("10", "0.5")], ["after <it>"])


def test_a_terminal_shows_aligned_lines():
    table = ["epoch  loss", "    0  1.25", "   10   0.5"]
    assert repr(Shown()).splitlines() == ["A <title>", "  name: a & b", *table, "after <it>"]


def test_long_facts_are_wrapped_to_the_terminal_and_tables_are_not(monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    facts = {"labels": "7 of 9 items " * 8, "path": "/" + "x" * 70}
    shown = Glance("Title", facts, ("a",), [("b" * 80,)], ["  fine: " + "one, " * 20])
    lines = shown.as_text().split("\n")
    assert [line for line in lines if len(line) > 50] == ["    /" + "x" * 70, " " * 79 + "a", "b" * 80]
    assert all(line.startswith("    ") for line in lines[2:4])
    assert " ".join(" ".join(lines).split()).count("7 of 9 items") == 8
    monkeypatch.setenv("COLUMNS", "30")
    assert shown.as_text().count("\n") == 5
    monkeypatch.delenv("COLUMNS")
    assert max(map(len, Glance("Title", {"labels": "7 of 9 items " * 30}).as_text().split("\n"))) <= 100


def test_a_notebook_shows_escaped_tables():
    html = Shown()._repr_html_()
    assert "A &lt;title&gt;" in html and "a &amp; b" in html and "after &lt;it&gt;" in html
    assert html.count("<table>") == html.count("</table>") == 2 and html.count("<tr>") == html.count("</tr>") == 4


def test_a_long_table_is_cut_in_the_middle_of_a_notebook_and_whole_in_text():
    rows = [(str(i),) for i in range(1000)]
    glance = Glance("Long", columns=("epoch",), rows=rows)
    html = glance.as_html()
    assert "<td>59</td></tr><tr><td colspan" in html and ">880 more rows<" in html and "<td>60</td>" not in html
    assert "<td>940</td>" in html and "<td>999</td>" in html
    assert len(glance.as_text().splitlines()) == 1002


def test_a_title_alone_is_enough():
    assert Glance("Nothing yet").as_text() == "Nothing yet" and "<table>" not in Glance("Nothing yet").as_html()


def test_many_names_are_counted():
    assert enumerate_names(["cat", "dog"]) == "cat, dog"
    assert enumerate_names(range(9), most=2) == "0, 1, ... (9)"


def private(thing):
    return [name for name in dir(thing) if name.startswith("_") and not name.endswith("__")]


def test_completion_offers_public_names_only():
    dls = DataLoaders.from_arrays((torch.rand(8, 3), torch.arange(8) % 2), bs=4)
    learn = Learner(dls, MLP([3, 2]), cbs=EarlyStopping())
    predictions = Predictions(torch.eye(2), torch.arange(2))
    interp = ClassificationInterpretation.from_predictions(predictions)
    finder = LRFinder(learn.model, torch.optim.SGD(learn.model.parameters(), 0.1), torch.nn.CrossEntropyLoss())
    assert [private(thing) for thing in (learn, dls, predictions, interp, finder, learn.recorder)] == [[]] * 6
    assert {"fit", "dls", "early_stopping", "__class__"} <= set(dir(learn))
    assert {"train", "valid", "vocab"} <= set(dir(dls)) and {"most_confused", "losses"} <= set(dir(interp))


def test_completion_offers_the_suggestions_of_a_sweep():
    sweep = LRSweep.from_curve(torch.logspace(-4, 0, 50), torch.linspace(2, 1, 50), suggest_funcs=(minimum, valley))
    assert private(sweep) == [] and {"minimum", "valley", "recommended", "plot"} <= set(dir(sweep))
