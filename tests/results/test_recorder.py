import csv
import json
import math

import pytest
import torch

from minilearner.batch_values import MOST_LOOSE
from minilearner.results.recorder import Recorder
from minilearner.smoothed_loss import SmoothedLoss


@pytest.fixture
def recorder():
    """A recorder of two runs: two epochs of three unequal batches, then one epoch of two batches."""
    recorder = Recorder()
    losses = iter([4.0, 3.0, 2.0, 2.0, 1.0, 1.5, 0.5, 0.75])
    for kind, n_epoch, sizes in [("fit_one_cycle", 2, [4, 4, 2]), ("fit", 1, [4, 4])]:
        run, step = recorder.start_run(kind, n_epoch=n_epoch, lr=0.1), 0
        for epoch in range(n_epoch):
            run.start_epoch(epoch)
            for n in sizes:
                step += 1
                run.add_step(step, 0.1 / step, 0.9, torch.tensor(next(losses)), n)
            run.add_epoch({"epoch": epoch, "valid_loss": 2.0 - epoch, "accuracy": 0.5, "time_seconds": 1.5})
    return recorder


def test_every_batch_is_a_row_of_its_run(recorder):
    steps = recorder.runs[0].steps
    assert steps.dtype.names == ("step", "epoch", "lr", "momentum", "loss", "n_items") and len(steps) == 6
    assert steps["step"].tolist() == [1, 2, 3, 4, 5, 6] and steps["epoch"].tolist() == [0, 0, 0, 1, 1, 1]
    assert steps["loss"].tolist() == [4, 3, 2, 2, 1, 1.5] and steps["n_items"].tolist() == [4, 4, 2] * 2
    assert recorder.losses.tolist() == [4, 3, 2, 2, 1, 1.5, 0.5, 0.75]
    assert recorder.lrs[:2].tolist() == [0.1, 0.05] and recorder.momenta.tolist() == [0.9] * 8


def test_train_loss_is_the_mean_over_items_and_smooth_loss_runs_on(recorder):
    smooth = SmoothedLoss()
    values = [smooth.update(x) for x in (4, 3, 2, 2, 1, 1.5)]
    rows = recorder.runs[0].epochs
    assert rows[0]["train_loss"] == pytest.approx((4 * 4 + 3 * 4 + 2 * 2) / 10)
    assert rows[1]["train_loss"] == recorder.runs[0].train_loss(1) == pytest.approx((2 * 4 + 1 * 4 + 1.5 * 2) / 10)
    assert [row["smooth_loss"] for row in rows] == pytest.approx([values[2], values[5]])
    assert recorder.runs[0].smoothed == pytest.approx(values)
    assert list(rows[0]) == ["epoch", "train_loss", "smooth_loss", "valid_loss", "accuracy", "time_seconds"]


def test_history_has_one_value_an_epoch_and_names_the_nearest(recorder):
    history = recorder.runs[0].history
    assert history["valid_loss"] == [2.0, 1.0] and len(history["train_loss"]) == 2
    with pytest.raises(KeyError, match=r"valid_los.*Did you mean 'valid_loss'"):
        history["valid_los"]


def test_a_validation_in_mid_epoch_carries_its_step_and_stays_out_of_the_history():
    run = Recorder().start_run("fit")
    run.add_step(1, 0.1, math.nan, torch.tensor(3.0), 2)
    run.add_epoch({"step": 1, "valid_loss": 9.0})
    run.add_step(2, 0.1, math.nan, torch.tensor(1.0), 2)
    run.add_epoch({"valid_loss": 1.0, "accuracy": 0.5})
    assert run.epochs[0] == {"step": 1, "valid_loss": 9.0, "epoch": 0}
    assert run.history["valid_loss"] == [1.0] and run.history["train_loss"] == [2.0]
    assert [at for at, _ in run.rows_at()] == [1, 2]


def test_values_are_fastais_rows_over_all_runs(recorder):
    assert recorder.values == [[3.2, 2.0, 0.5], [1.5, 1.0, 0.5], [pytest.approx(0.625), 2.0, 0.5]]
    assert [run.number for run in recorder.runs] == [1, 2] and recorder.runs[0].settings == {"n_epoch": 2, "lr": 0.1}


def test_many_pending_losses_are_stacked_and_all_come_back_in_order():
    run = Recorder().start_run("fit")
    n = 2 * MOST_LOOSE + 10
    for i in range(n):
        run.add_step(i, 0.1, 0.9, torch.tensor(float(i)), 1)
    assert len(run._losses) == 10 and run.n_batches == n
    assert run.steps["loss"].tolist() == list(range(n)) == run.steps["step"].tolist()
    run.add_step(n, 0.1, 0.9, torch.tensor(5.0), 1)
    assert run.steps["loss"][-1] == 5 and len(run.smoothed) == n + 1


def test_a_loss_keeps_no_graph_and_numbers_are_taken_too():
    run = Recorder().start_run("fit")
    run.add_step(1, 0.1, 0.9, torch.ones(1, requires_grad=True).sum(), 1)
    assert run._losses[0].grad_fn is None
    run.add_step(2, 0.1, 0.9, 2.5, 1)
    assert run.steps["loss"].tolist() == [1, 2.5]


def test_a_run_without_batches_has_no_losses():
    run = Recorder().start_run("fit")
    assert math.isnan(run.train_loss(0)) and math.isnan(run.smooth_loss)
    assert run.steps["loss"].tolist() == [] and Recorder().losses.tolist() == []


def test_csv_holds_all_runs_under_one_stable_header(recorder, tmp_path):
    recorder.runs[1].add_epoch({"epoch": 1, "step": 2, "valid_loss": 3.0, "f1": 0.25})
    rows = list(csv.DictReader(recorder.to_csv(tmp_path / "h.csv").read_text().splitlines()))
    assert list(rows[0]) == [
        "run", "kind", "epoch", "step", "train_loss", "smooth_loss", "valid_loss", "accuracy", "f1", "time_seconds",
    ]  # fmt: skip
    assert [row["run"] for row in rows] == ["1", "1", "2", "2"] and rows[3]["step"] == "2"
    assert float(rows[0]["train_loss"]) == 3.2 and rows[0]["f1"] == ""
    assert [path.name for path in tmp_path.iterdir()] == ["h.csv"]


def test_json_holds_runs_settings_and_steps(recorder, tmp_path):
    recorder.runs[1].add_step(3, 0.1, math.nan, torch.tensor(math.inf), 4)
    saved = json.loads(recorder.to_json(tmp_path / "h.json").read_text())["runs"]
    assert saved[0]["settings"] == {"n_epoch": 2, "lr": 0.1} and saved[0]["epochs"] == recorder.runs[0].epochs
    assert saved[1]["steps"]["loss"][-1] == "inf" and saved[1]["steps"]["momentum"][-1] == "nan"


def test_a_file_that_cannot_be_written_leaves_the_old_one_whole(recorder, tmp_path, monkeypatch):
    path = recorder.to_csv(tmp_path / "h.csv")
    before = path.read_text()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        recorder.to_json(path)
    assert path.read_text() == before and len(list(tmp_path.iterdir())) == 1


def test_the_repr_is_a_table(recorder):
    columns = ["epoch", "train_loss", "smooth_loss", "valid_loss", "accuracy", "time_seconds"]
    lines = repr(recorder.runs[0]).splitlines()
    assert lines[0] == "Run 1: fit_one_cycle, 6 batches" and lines[1].split() == columns
    lines = repr(recorder).splitlines()
    assert lines[0].startswith("Recorder: 2 runs, ") and lines[1].split() == ["run", "kind", *columns]
    assert lines[2].split()[:4] == ["1", "fit_one_cycle", "0", "3.200000"]
    html = recorder._repr_html_()
    assert html.count("<tr>") == len(lines) - 1 and "<td>fit_one_cycle</td>" in html
    assert repr(Recorder()) == "Recorder: no runs yet"


def test_plot_loss_draws_raw_smoothed_and_validation(recorder):
    ax = recorder.plot_loss(skip_start=2).axes[0]
    lines = {line.get_label(): line for line in ax.lines}
    raw = lines["training, each batch"]
    assert raw.get_xdata().tolist() == [3, 4, 5, 6, 7, 8] and raw.get_ydata().tolist() == [2, 2, 1, 1.5, 0.5, 0.75]
    average = SmoothedLoss()
    smoothed = [average.update(loss) for loss in recorder.losses.tolist()][2:]  # over both runs
    assert lines["training, smoothed"].get_ydata().tolist() == smoothed
    assert ax.get_xlabel() == "batch (without the first 2)"
    assert list(lines["validation"].get_xdata()) == [3, 6, 8] and list(lines["validation"].get_ydata()) == [2, 1, 2]


def test_boundaries_between_runs_are_named(recorder):
    recorder.runs[0].phase = "frozen"
    names = ["frozen", recorder.runs[1].kind]
    loss, (rate, momentum) = recorder.plot_loss(skip_start=2).axes[0], recorder.plot_sched().axes
    for ax in (loss, rate):
        assert [text.get_text() for text in ax.texts] == names
        assert [text.xy[0] for text in ax.texts] == [max(0, ax.get_xlim()[0]), 6] and not momentum.texts
    alone = Recorder()
    alone.start_run("fit").add_step(1, 0.1, 0.9, 1.0, 4)
    assert not alone.plot_loss(skip_start=0).axes[0].texts


def test_plot_loss_without_validation_on_given_log_axes(recorder):
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots()
    assert recorder.plot_loss(with_valid=False, log=True, ax=ax) is figure
    assert ax.get_yscale() == "log" and "validation" not in [line.get_label() for line in ax.lines]


def test_plot_metrics_draws_loss_and_metrics_over_the_epochs(recorder):
    loss, accuracy = recorder.plot_metrics().axes
    assert (loss.get_title(), accuracy.get_title()) == ("loss", "accuracy")
    assert [line.get_label() for line in loss.lines[:-1]] == ["training", "validation"]
    assert [line.get_label() for line in accuracy.lines[:-1]] == ["validation"]
    assert loss.lines[-1].get_xdata() == accuracy.lines[-1].get_xdata() == [2.5, 2.5]  # between the two runs
    assert [text.get_text() for text in loss.texts] == [text.get_text() for text in accuracy.texts] != []
    assert accuracy.lines[0].get_xdata().tolist() == [1, 2, 3]
    assert accuracy.lines[0].get_color() == loss.lines[1].get_color()
    assert accuracy.get_ylim()[0] >= 0 and accuracy.get_ylim()[1] <= 1
    with pytest.raises(ValueError, match="no epoch has been recorded"):
        Recorder().plot_metrics()


def test_plot_metrics_puts_training_beside_validation():
    recorder = Recorder()
    recorder.start_run("fit").add_epoch({"train_loss": 2.0, "valid_loss": 1.0, "train_f1": 0.5, "f1": 0.6})
    _, f1 = recorder.plot_metrics().axes
    assert [(line.get_label(), line.get_ydata()[0]) for line in f1.lines] == [("training", 0.5), ("validation", 0.6)]


def test_plot_metrics_of_a_single_epoch_shows_its_values_from_zero_on():
    recorder = Recorder()
    recorder.start_run("fit").add_epoch({"train_loss": 2.0, "valid_loss": 1.9, "accuracy": 0.6})
    loss, accuracy = recorder.plot_metrics().axes
    assert loss.get_ylim()[0] == accuracy.get_ylim()[0] == 0 and accuracy.get_ylim()[1] <= 1
    low, high = loss.get_xlim()
    assert not loss.texts and [tick for tick in loss.get_xticks() if low <= tick <= high] == [1]


def test_few_batches_have_ticks_at_whole_numbers_only():
    recorder = Recorder()
    run = recorder.start_run("fit")
    for i in range(9):
        run.add_step(i, lr=0.1, momentum=0.9, loss=2.0 - i, n_items=4)
    for figure in (recorder.plot_loss(), recorder.plot_loss(log=True, skip_start=0), recorder.plot_sched()):
        ticks = figure.axes[-1].get_xticks()
        assert len(ticks) > 1 and all(tick == int(tick) for tick in ticks)


def test_plot_sched_takes_a_size(recorder):
    assert list(recorder.plot_sched(figsize=(3, 2)).get_size_inches()) == [3, 2]


def test_plot_sched_counts_batches_from_1_as_plot_loss_does(recorder):
    n = len(recorder.lrs)
    assert recorder.plot_sched("lr").axes[0].lines[0].get_xdata().tolist() == list(range(1, n + 1))


def test_plot_sched_draws_the_keys_asked(recorder):
    assert [ax.get_ylabel() for ax in recorder.plot_sched().axes] == ["learning rate", "momentum"]
    ax = recorder.plot_sched("lr").axes[0]
    assert ax.lines[0].get_ydata().tolist() == recorder.lrs.tolist()
    with pytest.raises(ValueError, match="Did you mean 'momentum'"):
        recorder.plot_sched(["momentun"])
    with pytest.raises(ValueError, match="no schedule to plot"):
        Recorder().plot_sched()


def test_the_table_has_fastais_names(recorder):
    assert recorder.metric_names == ["epoch", "train_loss", "valid_loss", "accuracy", "time"]
    assert recorder.log == [0, pytest.approx(0.625), 2.0, 0.5, "00:02"] and recorder.iters == [3, 6, 8]
    assert len(recorder.metric_names) == len(recorder.log) == len(recorder.values[-1]) + 2
    empty = Recorder()
    assert (empty.log, empty.iters, empty.metric_names, empty.values) == ([], [], ["epoch", "time"], [])


def test_the_ends_of_epochs_are_marked_if_asked_for(recorder):
    plain, marked = (recorder.plot_loss(show_epochs=show).axes[0] for show in (False, True))
    assert len(marked.lines) == len(plain.lines) + 2


def test_without_a_sweep_there_is_none_to_draw(recorder):
    with pytest.raises(ValueError, match=r"There is no sweep to plot\. Write learn.lr_find\(\)"):
        recorder.plot_lr_find()


def test_all_runs_have_one_smoothed_loss_and_columns_at_their_batches(recorder):
    average = SmoothedLoss()
    assert recorder.smoothed.tolist() == [average.update(loss) for loss in recorder.losses.tolist()]
    assert recorder.starts() == {0: "fit_one_cycle", 6: "fit"}
    assert recorder.at_batches("valid_loss") == ([3, 6, 8], [2.0, 1.0, 2.0])
    assert recorder.epoch_panels()["loss"]["validation"] == [2.0, 1.0, 2.0] and Recorder().epoch_panels() == {}
