import nbformat
import pytest
from nbclient import NotebookClient

SETUP = """
import matplotlib.pyplot as plt, torch
from minilearner import DataLoaders, Learner, MLP, cosine, plot_schedule
x, y = torch.rand(32, 1, 8, 8), torch.arange(32) % 3
dls = DataLoaders.from_arrays((x, y), (x[:8], y[:8]), bs=8)
learn = Learner(dls, MLP((64, 3)))
"""


@pytest.fixture
def outputs(monkeypatch):
    """Returns a function that runs cells in a real kernel, and returns the outputs of each."""
    monkeypatch.delenv("MPLBACKEND", raising=False)

    def run(*sources):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in (SETUP, *sources)])
        NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
        return [cell.outputs for cell in notebook.cells[1:]]

    return run


def n_images(cell):
    return sum("image/png" in output.get("data", {}) for output in cell)


@pytest.mark.slow
def test_every_figure_is_shown_once(outputs):
    cells = outputs(
        "dls.show_batch(max_n=2)",
        "dls.show_batch(max_n=2);",
        "plot_schedule(cosine(1, 0), 9)",
        "sweep = learn.lr_find()",
        "figure = sweep.plot()",
        "figure",
        "plt.plot([1, 2])",
        "len(plt.get_fignums())",
    )
    assert [n_images(cell) for cell in cells] == [1, 1, 1, 1, 1, 1, 1, 0]
    assert cells[-1][0]["data"]["text/plain"] == "0"


@pytest.mark.slow
def test_training_shows_its_table_and_no_warning(outputs):
    as_statement, as_value, later = outputs("learn.fit(2);", "learn.fit(2)", "learn.recorder.runs[-1]")
    for cell in (as_statement, as_value, later):
        assert [output.output_type for output in cell] == ["display_data"]
        assert "valid_loss" in cell[0]["data"]["text/html"]
    assert "image/png" in as_value[0]["data"]["text/html"] and "Run 2: fit" in later[0]["data"]["text/html"]


@pytest.mark.slow
def test_objects_show_a_table(outputs):
    for cell in outputs("learn", "dls", "learn.summary()", "learn.lr_find(show_plot=False)"):
        (shown,) = [output for output in cell if output.output_type == "execute_result"]
        assert "<table>" in shown["data"]["text/html"] and len(shown["data"]["text/plain"]) < 1500
