"""A machine's PATH with stand-ins for the cloud's programs, and the launch scripts on it."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
STUB = pathlib.Path(__file__).with_name("stub.py")
CLOUD = {
    "CONFIG": "configs/s4.py:resnet50,512",
    "WORKDIR": "/mnt/storage/runs/s4",
    "STORAGE": "gs://bucket",
    "PROJECT": "my-project",
    "ZONE": "us-west4-a",
    "TPU_TYPE": "v5litepod-8",
    "NAME": "avs",
    "CLUSTER": "my-cluster",
    "IMAGE": "registry/avs_jax",
    "ACCELERATOR": "tpu",
    "POLL_SECONDS": "0",
}
SCRIPTS = ("tpu_vm.sh", "queued_resource.sh", "xpk.sh", "slurm.sbatch", "setup_vm.sh")


@dataclasses.dataclass
class Launcher:
    """Runs a script of launch/ where gcloud and the others are stand-ins.

    Attributes:
      folder: of the stand-ins' calls and answers; see stub.py.
      root: the clone whose launch/ is run.
    """

    folder: pathlib.Path
    root: pathlib.Path = ROOT

    def __call__(self, script, *arguments, answers=None, without=(), **variables):
        (self.folder / "answers.json").write_text(json.dumps(answers or {}))
        kept = {name: os.environ[name] for name in ("HOME", "TMPDIR") if name in os.environ}
        settings = CLOUD | {name: str(value) for name, value in variables.items()}
        environment = kept | {"PATH": f"{self.folder}/bin:/usr/bin:/bin", "STUB": str(self.folder)} | settings
        for name in without:
            del environment[name]
        command = ["bash", str(self.root / "launch" / script), *arguments]
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=60)

    def calls(self):
        """What was called: [command, its flags and arguments]."""
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def program(self, name, text):
        """Puts a script on the machine's PATH."""
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)


@pytest.fixture
def launcher(tmp_path):
    (tmp_path / "bin").mkdir()
    found = Launcher(tmp_path)
    for name in ("gcloud", "xpk", "kubectl", "docker", "srun", "scontrol"):
        found.program(name, f"#!{sys.executable} -S\n" + STUB.read_text())
    return found
