"""The help, the exit codes, and what becomes of errors, warnings and unknown words."""

import os
import signal
import subprocess
import sys
import threading

import pytest

import minilearner
from minilearner.command_line.main import COMMANDS


def run(*words, **how):
    return subprocess.run([sys.executable, "-m", "minilearner", *words], capture_output=True, text=True, **how)


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["--version"]])
def test_help_loads_no_large_library(words):
    code = (
        "import sys; from minilearner.command_line.main import main; main(sys.argv[1:]);"
        "print(sorted({'torch', 'numpy', 'PIL', 'matplotlib', 'timm'} & {*sys.modules}), len(sys.modules) < 400)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] True"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_in_80_columns(call, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = call(name, "--help")
    assert shown.code == 0 and f"Usage: minilearner {name}" in shown.out and "--json" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80 and "x>=" not in shown.out


def test_the_help_of_all_lists_the_commands_and_the_exit_codes(call):
    shown = call("--help")
    assert shown.code == 0 and all(f"\n  {name} " in shown.out for name in COMMANDS)
    assert "0 done, 1 failed, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM" in shown.out


def test_python_dash_m_and_the_version():
    assert run("--version").stdout == f"minilearner {minilearner.__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian", "photos"], "There is no command 'trian'. Did you mean 'train'?"),
        (["train", "photos", "--epoch", "2"], "--epochs"),
        (["train"], "FOLDER|TABLE.csv"),
        (["train", "photos", "--epochs", "0"], "`--epochs` must be at least 1. Received: --epochs=0."),
        (["train", "photos", "--bs", "many"], "`--bs` must be a whole number. Received: --bs='many'."),
        (["train", "photos", "--lr", "fast"], "`--lr` must be a number above 0, or \"auto\". Received: --lr='fast'."),
        (["train", "photos", "--lr", "nan"], "`--lr` must be a number above 0"),
        (["train", "photos", "--seed", "-1"], "`--seed` must be at least 0"),
        (["train", "photos", "--seed", str(2**32)], "`--seed` must be below 2**32"),
        (["train", "photos", "--valid-pct", "20"], "`--valid-pct` must be in [0, 1)"),
        (["train", "photos", "--label-regex", "("], "`--label-regex` must be a regular expression"),
        (["train", "photos", "--label-regex", "x"], "`--label-regex` must have a group"),
        (["train", "photos", "--augment", "much"], "'much' is not one of"),
        (["predict", "--model", "m.safetensors"], "FILES"),
        (["predict", "x.png"], "--model"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_wrong(call, words, said):
    made = call(*words)
    assert (made.code, made.out) == (2, "") and said in made.err and "Traceback" not in made.err


def test_our_own_errors_are_one_line_and_debug_shows_the_traceback(call, tmp_path):
    words = ["train", tmp_path / "nothing", "--no-pretrained", "--output", tmp_path / "run"]
    made = call(*words)
    assert made.code == 1 and made.out == "" and len(made.err.splitlines()) == 1
    assert made.err == f"Error: there is no folder or table '{tmp_path / 'nothing'}'.\n"
    assert not (tmp_path / "run").exists()
    assert "Traceback (most recent call last)" in call(*words, "--debug").err


def test_errors_name_options_instead_of_arguments(call, photos, tmp_path):
    made = call("train", photos, "--valid-col", "is_valid", "--output", tmp_path / "run")
    assert made.code == 1 and "Error: `--valid-col` does not go with" in made.err
    loose = tmp_path / "loose" / "0.png"
    loose.parent.mkdir()
    loose.write_bytes((photos / "red" / "0.png").read_bytes())
    made = call("train", loose.parent, "--output", tmp_path / "run")
    assert made.code == 1 and "give `--label-regex`" in made.err


def test_a_fault_of_the_program_shows_its_traceback(call, monkeypatch, trained):
    monkeypatch.setattr("minilearner.environment.describe_environment", lambda device: 1 / 0)
    made = call("env")
    assert made.code == 1 and "ZeroDivisionError" in made.err and "Please report it" in made.err


def test_a_warning_is_one_line(call, monkeypatch):
    def warn(device):
        import warnings

        warnings.warn("the moon is full", stacklevel=1)
        return minilearner.describe_environment("cpu")

    monkeypatch.setattr("minilearner.environment.describe_environment", warn)
    assert "Warning: the moon is full\n" in call("env").err


def test_env_as_text_and_as_json(call):
    assert call("env", "--json").data["versions"]["minilearner"] == minilearner.__version__
    shown = call("env", "--device", "cpu")
    assert "  device: cpu, " in shown.out and "auto chooses" in shown.out


def test_it_runs_in_a_thread_too(call):
    codes = []
    thread = threading.Thread(target=lambda: codes.append(call("--version").code))
    thread.start()
    thread.join()
    assert codes == [0]


def test_completion_offers_commands_and_options():
    how = {"_MINILEARNER_COMPLETE": "bash_complete", "COMP_WORDS": "minilearner ex", "COMP_CWORD": "1"}
    code = "import sys; from minilearner.command_line.main import main; sys.argv[0] = 'minilearner'; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **how})
    assert done.stdout == "plain,export\n"


def test_sigterm_ends_any_command_with_143(tmp_path):
    os.mkfifo(tmp_path / "config.toml")  # reading it waits for a writer
    words = [sys.executable, "-m", "minilearner", "train", "x", "--config", str(tmp_path / "config.toml")]
    child = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    with open(tmp_path / "config.toml", "w"):  # returns as soon as the child reads
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=20) == 143
    child.stderr.close()
