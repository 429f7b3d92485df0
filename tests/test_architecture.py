"""The import arrow of the project: data flows right, imports point left."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
ORDER = ["layers", "backbones", "models", "losses", "predict", "train", "benchmark", "main"]
FORBIDDEN_IN_MODELS = {"grain", "tensorflow_datasets", "librosa", "ml_collections", "orbax", "data_pipeline"}


def sources(folder):
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path):
    """Names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", sources("data_pipeline"), ids=lambda p: p.name)
def test_the_data_pipeline_knows_nothing_of_the_models(path):
    assert not [name for name in imports(path) if name.split(".")[0] in ("avs_jax", "jax", "flax")]


@pytest.mark.parametrize("part", ORDER[:-1])
def test_imports_point_left(part):
    later = {f"avs_jax.{name}" for name in ORDER[ORDER.index(part) + 1 :]}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(f"avs_jax/{part}")
        for name in imports(path)
        if ".".join(name.split(".")[:2]) in later
    ]
    assert not wrong


@pytest.mark.parametrize("part", ["layers", "backbones", "models", "losses", "metrics"])
def test_the_numerics_need_only_jax_and_flax(part):
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(f"avs_jax/{part}")
        for name in imports(path)
        if name.split(".")[0] in FORBIDDEN_IN_MODELS
    ]
    assert not wrong


def test_only_one_file_knows_orbax_and_nothing_needs_tensorflow_or_torch():
    for path in sources("avs_jax") + sources("data_pipeline") + sources("configs"):
        names = {name.split(".")[0] for name in imports(path)}
        assert "tensorflow" not in names, path
        assert "torch" not in names or path.parent.name == "benchmark", path  # whose peers run where it is installed
        assert "orbax" not in names or path.name == "checkpoint.py", path


def test_the_training_loop_is_wiring():
    assert len((ROOT / "avs_jax/train/loop.py").read_text().splitlines()) <= 120
