"""Scripts that run in a real terminal, and what stands on its screen afterwards."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass

COLUMNS = 90


@dataclass
class Session:
    """What a script did in a terminal.

    Attributes:
        screens: what stood on the screen after each piece of output.
        code: the exit code; negative for the signal that ended the script.
    """

    screens: list
    code: int


def run_in_terminal(script, *arguments, press_ctrl_c_at=None):
    """Runs a script in a terminal. Presses Ctrl-C a moment after the screen first holds `press_ctrl_c_at`."""
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell that runs the tests in the background ignores it
        os.execv(sys.executable, [sys.executable, str(script), *map(str, arguments)])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    output, screens, end = "", [], time.monotonic() + 120
    while piece := _read(terminal, end):
        output += piece
        screens.append(draw_screen(output))
        if press_ctrl_c_at is not None and press_ctrl_c_at in screens[-1]:
            time.sleep(0.3)
            os.write(terminal, b"\x03")  # the terminal makes a SIGINT of it, for the whole group
            press_ctrl_c_at = None
    os.close(terminal)
    return Session(screens, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _read(terminal, end):
    ready, _, _ = select.select([terminal], [], [], max(end - time.monotonic(), 0))
    assert ready, "the script did not end"
    try:
        return os.read(terminal, 4096).decode()
    except OSError:  # on Linux: the script has ended
        return ""


def draw_screen(output, columns=COLUMNS):
    """Returns what a terminal shows after this output, whose only control characters are line ends and returns."""
    lines, row, column = [[]], 0, 0
    for character in output:
        assert character in "\r\n" or character.isprintable(), repr(character)
        if character == "\r":
            column = 0
            continue
        if character == "\n" or column == columns:
            row, column = row + 1, 0 if character != "\n" else column
            lines += [[]] * (row == len(lines))
            lines[row] = list(lines[row])
        if character != "\n":
            lines[row] += " " * (column + 1 - len(lines[row]))
            lines[row][column] = character
            column += 1
    return "\n".join("".join(line).rstrip() for line in lines)


def run_in_log(script, *arguments, folder, **environment):
    """Runs a script with both outputs in one file. Returns the file's new lines, each with the time when it came."""
    log, seen = folder / "log.txt", []
    with open(log, "wb") as file:
        command = [sys.executable, str(script), *map(str, arguments)]
        child = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **environment})
    while True:
        is_over = child.poll() is not None
        lines = log.read_text().splitlines()
        seen += [(time.monotonic(), line) for line in lines[len(seen) :]]
        if is_over:
            assert child.returncode == 0, lines
            return seen
        time.sleep(0.02)
