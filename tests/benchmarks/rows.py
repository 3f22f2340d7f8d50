"""Prints rows and tables for README, and finds them again in the output of a benchmark."""

MARK = "README "
HEAD = "| | minilearner | others |\n|---|---|---|"


def readme_row(what, ours, others=""):
    """Prints a row of the common table."""
    print(f"{MARK}| {what} | {ours} | {others} |", flush=True)


def readme_table(head, rows):
    """Prints a table of its own, which follows the common one. `head` and each row hold the text of each cell."""
    lines = [" | ".join(cells).join(("| ", " |")) for cells in (head, *rows)]
    for line in ("", lines[0], "|---" * len(head) + "|", *lines[1:]):
        print(f"{MARK}{line}", flush=True)


def split_rows(text):
    """Returns the lines of `text` that are for README, and the other lines."""
    lines = text.splitlines()
    rows = [line.removeprefix(MARK) for line in lines if line.startswith(MARK)]
    return rows, "\n".join(line for line in lines if not line.startswith(MARK)).strip()
