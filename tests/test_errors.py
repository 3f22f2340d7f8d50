"""Messages that count things agree with the number."""

from minilearner.errors import agree, plural, portion


def test_a_noun_agrees_with_its_number():
    assert [plural(n, "image") for n in (0, 1, 2, 10_000)] == ["0 images", "1 image", "2 images", "10,000 images"]
    assert [plural(2, noun) for noun in ("batch", "epoch", "class", "box")] == [
        *("2 batches", "2 epochs", "2 classes", "2 boxes")
    ]
    assert [plural(2, noun) for noun in ("entry", "array")] == ["2 entries", "2 arrays"]


def test_a_verb_agrees_with_its_number():
    assert [agree(n, "is", "are") for n in (0, 1, 2)] == ["are", "is", "are"]
    assert portion(1, 5, "label", "is", "are") == "1 of 5 labels is"
    assert portion(1, 1, "label", "is", "are") == "1 of 1 label is"
    assert portion(0, 1, "label", "is", "are") == "0 of 1 label is"
    assert portion(0, 5, "label", "is", "are") == "0 of 5 labels are"
    assert portion(2, 5, "label", "is", "are") == "2 of 5 labels are"
