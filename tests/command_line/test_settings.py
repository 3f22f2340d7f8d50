"""Settings come from options and from files in TOML, and what is unknown or of the wrong kind is refused."""

import pytest

from minilearner.command_line.settings import Settings, read_toml
from minilearner.errors import FileFormatError


def test_a_file_holds_what_print_config_shows(call, tmp_path):
    words = ["--arch", "resnet34", "--epochs", 3, "--lr", 0.01, "--no-pretrained", "--label-regex", r"(.+)_\d+ü"]
    shown = call("train", "photos", *words, "--print-config")
    assert shown.code == 0
    file = tmp_path / "config.toml"
    file.write_text(shown.out, encoding="utf-8")
    read = Settings.read(file)
    assert (read.data, read.arch, read.epochs, read.lr) == ("photos", "resnet34", 3, 0.01)
    assert (read.pretrained, read.label_regex) == (False, r"(.+)_\d+ü")
    again = call("train", "photos", "--config", file, "--print-config")
    assert again.out == shown.out
    assert call("train", "--config", file, "--print-config").out == shown.out  # the data are among the settings


def test_an_option_comes_before_the_file(call, tmp_path):
    file = tmp_path / "my.toml"
    file.write_text("epochs = 7\nvalid-pct = 0.3\nlr = 'auto'\npretrained = true\n")
    data = call("train", "photos", "--epochs", 2, "--config", file, "--print-config", "--json").data
    assert (data["epochs"], data["valid_pct"], data["lr"], data["pretrained"]) == (2, 0.3, "auto", True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("epoch = 2", "there is no setting 'epoch'. Did you mean 'epochs'?"),
        ("epochs = 2.5", "`epochs` must be a whole number. Received: epochs=2.5."),
        ("epochs = '2'", "`epochs` must be a whole number. Received: epochs='2'."),
        ("epochs = true", "`epochs` must be a whole number"),
        ("lr = nan", "`lr` must be a number above 0"),
        ("arch = 18", "`arch` must be text. Received: arch=18."),
        ("pretrained = 'no'", "`pretrained` must be true or false"),
        ("label_regex = '('", "`label_regex` must be a regular expression"),
        ("valid_pct = 0.1\nvalid-pct = 0.2", "'valid-pct' and 'valid_pct' are one setting"),
        ("bs = [1]", "`bs` must be text, a number, true or false"),
        ("augment = 'much'", "`augment` must be one of 'none', 'standard', 'strong'"),
        ("epochs = ", "is not TOML"),
    ],
)
def test_a_wrong_file_ends_with_2_and_names_the_file_and_the_key(call, tmp_path, content, said):
    file = tmp_path / "my.toml"
    file.write_text(content)
    made = call("train", "photos", "--config", file, "--print-config")
    assert made.code == 2 and f"{file}: " in made.err.replace(f"{file} ", f"{file}: ") and said in made.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("epochs = 'x'", "`epochs` must be a whole number"),
        ("augment = 'heavy'", "`augment` must be one of"),
        ("pretrained = 'no'", "`pretrained` must be true or false"),
        ("arch = 3", "`arch` must be text"),
    ],
)
def test_a_wrong_value_in_the_file_of_a_run_is_refused(call, tmp_path, content, said):
    (tmp_path / "config.toml").write_text(f'data = "{tmp_path}"\n{content}\n')
    made = call("resume", tmp_path)
    assert made.code == 1 and made.err.startswith(f"Error: {tmp_path / 'config.toml'}: ") and said in made.err


def test_the_file_of_a_run_must_name_its_data(call, tmp_path):
    (tmp_path / "config.toml").write_text("epochs = 3\n")
    assert "config.toml: the setting 'data' is missing." in call("resume", tmp_path).err


def test_the_rate_is_found_unless_weights_are_trained():
    assert Settings("photos").settle(pretrained=False).lr == "auto"
    assert Settings("photos").settle(pretrained=True).lr == 0.002
    assert Settings("photos", lr=0.1).settle(pretrained=True).lr == 0.1


def test_a_missing_file_ends_with_2(call, tmp_path):
    made = call("train", "photos", "--config", tmp_path / "no.toml", "--print-config")
    assert made.code == 2 and "no.toml: No such file or directory." in made.err


def test_check_and_lr_find_take_the_file_of_a_run(call, tmp_path, photos):
    file = tmp_path / "config.toml"
    file.write_text(Settings(str(photos), epochs=3).settle(pretrained=False).to_toml())
    assert "--config" in call("check", "--help").out
    made = call("lr-find", "--config", file, "--valid-col", "x")
    assert made.code == 1 and "`--valid-col` does not go with" in made.err


def test_keys_may_have_dashes(tmp_path):
    file = tmp_path / "my.toml"
    file.write_text("valid-pct = 0.5")
    assert read_toml(file) == {"valid_pct": 0.5}


def test_a_file_that_is_no_text_raises(tmp_path):
    (tmp_path / "my.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileFormatError, match=r"my.toml is not TOML"):
        read_toml(tmp_path / "my.toml")
