import numpy as np
import pytest
import torch

from minilearner import ImageCleaner
from minilearner.data.corrections import read_review
from minilearner.results.label_errors import find_label_errors
from minilearner.results.origins import Origins

PROBS = np.array([[0.9, 0.1, 0], [0.1, 0.2, 0.7], [0.8, 0.1, 0.1], [0.2, 0.3, 0.5]])
GIVEN = np.array([0, 0, 1, 2])
LABELS = ["cat", "dog", "cow"]


@pytest.fixture
def cleaner():
    images = [torch.full((3, 4, 4), i / 4) for i in range(4)]
    origins = Origins([f"pets/{i}.png" for i in range(4)])
    found = find_label_errors(PROBS, GIVEN, LABELS, origins=origins, images=lambda chosen: [images[i] for i in chosen])
    return ImageCleaner(found)  # in the order 1, 2, 3, 0


def test_items_come_in_the_order_of_suspicion(cleaner):
    assert [suspect.item for suspect in cleaner.suspects] == [1, 2, 3, 0]
    assert len(cleaner) == 4 and cleaner.classes == ("cat", "dog", "cow")
    assert float(cleaner.image(1).mean()) == 0.5
    assert cleaner.counts == {"keep": 0, "delete": 0, "relabel": 0, "open": 4}


def test_decisions_reach_the_csv(cleaner, tmp_path):
    cleaner.relabel(0)  # what the model suggests
    cleaner.delete(1)
    cleaner.keep(2)
    assert cleaner.counts == {"keep": 1, "delete": 1, "relabel": 1, "open": 1}
    read = read_review(cleaner.to_csv(tmp_path / "review.csv"))
    decided = [(row.path, row.action, row.given_label, row.new_label) for row in read.rows]
    assert decided == [("pets/1.png", "relabel", "cat", "cow"), ("pets/2.png", "delete", "dog", "")]


def test_undo_takes_back_one_decision_at_a_time(cleaner):
    cleaner.delete(0)
    cleaner.relabel(0, "dog")
    cleaner.relabel(0, "dog")  # nothing new, so nothing to undo
    cleaner.reset(0)
    assert cleaner[0].action == ""
    assert cleaner.undo() == 0 and (cleaner[0].action, cleaner[0].new_label) == ("relabel", "dog")
    assert cleaner.undo() == 0 and cleaner[0].action == "delete"
    assert cleaner.undo() == 0 and cleaner[0].action == ""
    assert cleaner.undo() is None


@pytest.mark.parametrize(
    ("decide", "message"),
    [
        (lambda c: c.relabel(0, "cw"), r"`label` must be one of the classes, cat, dog, cow. Did you mean 'cow'\?"),
        (lambda c: c.relabel(0, "cat"), "`label` must differ from the label that the item has. Received: 'cat'"),
        (lambda c: c.delete(4), "`place` must be below the number of items, 4. Received: place=4."),
        (lambda c: c.decide(0, "drop"), "`action` must be one of 'keep', 'delete', 'relabel'"),
        (lambda c: ImageCleaner(c._found, 0), "`most` must be at least 1"),
    ],
)
def test_wrong_decisions_change_nothing(cleaner, decide, message):
    with pytest.raises(ValueError, match=message):
        decide(cleaner)
    assert cleaner.counts["open"] == 4 and cleaner.undo() is None


def test_it_takes_what_was_found_and_nothing_else():
    with pytest.raises(TypeError, match=r"`found` must be interp.label_errors\(\) or find_image_problems"):
        ImageCleaner([1, 2])


def test_it_shows_how_far_it_is(cleaner):
    cleaner.relabel(0)
    assert str(cleaner).startswith("4 images to review: 0 keep, 0 delete, 1 relabel, 3 open\n")
    assert "relabel: cow" in str(cleaner)


def test_only_the_most_suspicious_items_are_reviewed(cleaner):
    assert [one.item for one in ImageCleaner(cleaner._found, 2).suspects] == [1, 2]
