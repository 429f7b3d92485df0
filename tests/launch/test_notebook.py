"""The notebook: its cells run from top to bottom, and give commands that the trainer knows."""

import importlib
import io
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from avs_jax import main
from tests.launch.conftest import ROOT

RESULTS = {"step": 4, "true": {"clip": {"J": 0.9, "F": 0.95}}, "silence": {"clip": {"J": 0.1, "F": 0.2}}}


@pytest.fixture(scope="module")
def notebook():
    return json.loads((ROOT / "launch/colab_demo.ipynb").read_text())


class Trainer:
    """In the place of subprocess.Popen: keeps the commands, and leaves what a run leaves."""

    def __init__(self):
        self.commands, self.code = [], 0

    def __call__(self, command, **_):
        self.commands.append(command)
        self.stdout, self.returncode = io.StringIO("a line\n"), self.code
        if "--workdir" in command:
            workdir = pathlib.Path(command[command.index("--workdir") + 1])
            (workdir / "pictures").mkdir(parents=True)
            (workdir / "results.json").write_text(json.dumps(RESULTS))
            Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(workdir / "pictures/best_1.png")
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def execute(notebook, monkeypatch, folder, **parameters):
    """Runs every cell in `folder`, with other parameters; returns the commands and the pictures shown."""
    trainer, shown = Trainer(), []
    monkeypatch.setattr(subprocess, "Popen", trainer)
    monkeypatch.chdir(folder)
    names = {"display": shown.append}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "cell", "exec"), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            assert parameters.keys() <= names.keys()
            names |= parameters
    return trainer.commands, shown


def check_command(command):
    """Every flag is one of the trainer's, every key one of the configuration's."""
    assert list(command[:3]) == [sys.executable, "-m", "avs_jax.main"]
    file, _, argument = command[command.index("--config") + 1].partition(":")
    get_config = importlib.import_module(file.removesuffix(".py").replace("/", ".")).get_config
    config = get_config(argument) if argument else get_config()
    for word in command[3:]:
        if word.startswith("--config."):
            node = config
            for key in word.removeprefix("--config.").partition("=")[0].split("."):
                node = node[key]
        elif word.startswith("--"):
            assert word.removeprefix("--") in main.flags.FLAGS


def test_it_is_a_notebook_without_results(notebook):
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 4)
    for cell in notebook["cells"]:
        assert cell.keys() == {"cell_type", "metadata", "source"} | (
            {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        )
        assert all(isinstance(line, str) for line in cell["source"])
        assert cell["cell_type"] == "markdown" or (cell["outputs"] == [] and cell["execution_count"] is None)


def test_it_trains_shows_and_measures(notebook, monkeypatch, tmp_path, capsys):
    (tmp_path / "avs_jax").mkdir()
    (tmp_path / "avs_jax/main.py").touch()
    commands, shown = execute(notebook, monkeypatch, tmp_path, ACCELERATOR="tpu", CHECKPOINT="my weights.pth")
    assert commands[0][1:] == ("-m", "pip", "install", "-q", "-e", ".[tpu]")
    for command in commands[1:]:
        check_command(command)
    assert commands[2][-4:-2] == ("--mode", "eval") and commands[2][-2] == "--config.init_from=my weights.pth"
    assert len(commands) == 3 and len(shown) == 1
    assert "true {'J': 0.9, 'F': 0.95}\nsilence {'J': 0.1" in capsys.readouterr().out


def test_it_gets_the_code_where_it_is_not_there(notebook, monkeypatch, tmp_path):
    (tmp_path / "avs_jax_clone").mkdir()
    commands, _ = execute(notebook, monkeypatch, tmp_path, REPOSITORY="https://host/avs_jax.git", INSTALL=False)
    assert commands[0] == ("git", "clone", "https://host/avs_jax.git", "avs_jax_clone") and len(commands) == 2


def test_a_command_that_fails_stops_the_notebook(notebook, monkeypatch, tmp_path):
    monkeypatch.setattr(Trainer, "__enter__", lambda self: setattr(self, "returncode", 2) or self)
    with pytest.raises(RuntimeError, match="exit code 2: see the lines above"):
        execute(notebook, monkeypatch, tmp_path)
