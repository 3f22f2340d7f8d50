"""The loop that the site draws is the loop that runs."""

import torch
from sketches import SKETCHES, read_loop

from minilearner import MLP, Callback, DataLoaders, Learner
from minilearner.training.callback import EVENTS


def events_of(stretch):
    """Returns the events of a stretch of the drawing in their order, with one turn of each loop."""
    names = stretch.text.split(", ") if stretch.text not in EVENTS else [stretch.text]
    here = [name for name in names if name in EVENTS]
    return here + [event for part in stretch.parts for event in events_of(part)]


def test_the_events_of_the_drawing_come_in_its_order():
    seen = []
    record = {name: lambda self, run, name=name: seen.append(name) for name in EVENTS}
    recorder = type("Recorder", (Callback,), record)()
    x, y = torch.rand(8, 4), torch.arange(8) % 2
    dls = DataLoaders.from_arrays((x, y), (x, y), bs=8, device="cpu")
    with (learn := Learner(dls, MLP((4, 2)), device="cpu")).no_logging():
        learn.fit(1, cbs=recorder)
    assert seen == events_of(read_loop()) and len(seen) > 15


def test_drawings_are_svg_with_all_their_words():
    drawn = SKETCHES["loop"]()
    assert all(f">{event}<" in drawn for event in ("before_fit", "after_pred", "after_fit"))
    assert "run.process_batch()" in drawn and drawn.count("<rect") == 6
    assert "batch transforms" in SKETCHES["data"]()
