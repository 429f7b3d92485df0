"""Flags of the commands: a mistake is one line and exit code 2."""

import logging

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from avs_jax import command_line


@pytest.fixture
def defined(monkeypatch):
    """Flags of every kind that the commands have, in the place of the program's own."""
    values = flags.FlagValues()
    flags.DEFINE_enum("mode", "train", ["train", "eval"], "", flag_values=values)
    flags.DEFINE_integer("number", 1, "", flag_values=values)
    config_flags.DEFINE_config_dict("config", ConfigDict({"steps": 3}), flag_values=values)
    monkeypatch.setattr(command_line.flags, "FLAGS", values)
    return values


def test_what_is_no_flag_is_left(defined):
    assert command_line.parse(["program", "file.pth", "--mode=eval", "--number", "5"]) == ["program", "file.pth"]
    assert (defined.mode, defined.number) == ("eval", 5)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--numer=3", "Unknown command line flag 'numer'"),
        ("--mode=evil", "--mode=evil: value should be one of"),
        ("--number=three", "--number=three: invalid literal for int"),
        ("--number", "Missing value for flag --number"),
        ("--config.steps=many", "steps"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(defined, monkeypatch, capsys, argument, message):
    monkeypatch.setattr("sys.argv", ["program", argument])  # config_flags looks there
    with pytest.raises(SystemExit) as ended:
        command_line.parse(["program", argument])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


def test_our_messages_are_shown_as_they_are_and_of_libraries_only_warnings(monkeypatch, capsys):
    monkeypatch.setattr(logging.root, "handlers", [])
    levels = {name: logging.getLogger(name).level for name in (None, "absl", "orbax", "jax", "grain")}
    try:
        command_line.set_up_logging()
        logging.getLogger("avs_jax.train").info("step 3, %s", "all is well")
        logging.getLogger("orbax.checkpoint").info("a detail")
        logging.getLogger("orbax.checkpoint").warning("a warning")
        failure = logging.LogRecord("absl", logging.ERROR, "/x/orbax/checkpoint/async.py", 1, "failed", (), None)
        logging.getLogger("absl").handle(failure)
        failure.exc_info = (ValueError, ValueError("no room"), None)
        logging.getLogger("absl").handle(failure)
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
    assert capsys.readouterr().err == "step 3, all is well\na warning\nfailed\n"
