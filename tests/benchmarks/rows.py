"""Prints rows for the table in README, and finds them again in the output of a benchmark."""

MARK = "README "
HEAD = "| | minilearner | others |\n|---|---|---|"


def readme_row(what, ours, others=""):
    print(f"{MARK}| {what} | {ours} | {others} |", flush=True)


def split_rows(text):
    """Returns the rows among the lines of `text`, and the other lines."""
    lines = text.splitlines()
    rows = [line.removeprefix(MARK) for line in lines if line.startswith(f"{MARK}|")]
    return rows, "\n".join(line for line in lines if not line.startswith(f"{MARK}|")).strip()
