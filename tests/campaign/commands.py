"""Commands that the campaign disturbs beside the tasks of a run: what each is given, and where its output lies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shardline.run.directory import Home, RunDirectory
from shardline.settings.run_config import RunConfig
from shardline.store.model_store import current
from tests.shardline.checkpoint.sharding import save_shards, save_strategy, tensors

_GPT = Path(__file__).parents[1] / "fixtures" / "gpt_home"


@dataclass(frozen=True)
class Command:
    """`{home}` is the home that it works in. Its `output` is whole when `marker` is there, and has the same bytes
    whenever it is made."""

    module: str
    arguments: tuple[str, ...]
    output: str
    marker: str
    make: Callable[[Path], None]
    environment: Mapping[str, str] = field(default_factory=dict)
    refuses: str = ""
    """What it says where its output is there already, if it does not make it again."""

    def spelt(self, home: Path) -> list[str]:
        """As a command line of Python's."""
        return [self.module, *(_in(home, argument) for argument in self.arguments)]

    def variables(self, home: Path) -> dict[str, str]:
        """Of its environment, beside `SHARDLINE_HOME`."""
        return {name: _in(home, value) for name, value in self.environment.items()}

    def is_there(self, home: Path) -> bool:
        """Whether its output counts."""
        return Path(_in(home, self.marker)).exists()

    def content(self, home: Path) -> dict[str, bytes]:
        """Its output's visible files; where they name the home, as if it lay elsewhere."""
        folder = Path(_in(home, self.output))
        files = (file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith("."))
        return {str(file.relative_to(folder)): file.read_bytes().replace(bytes(home), b"HOME") for file in files}


def _in(home: Path, text: str) -> str:
    return text.replace("{home}", str(home))


def _slices(home: Path) -> None:
    """Of eight ranks, as a program of anybody's saved them."""
    save_shards(home / "shards", tensors(), name="CKP-1_20.ckpt")
    save_strategy(home / "strategy.ckpt")


def _promoted(home: Path) -> None:
    """A language model that was promoted, and the run that is to export it, or upload it."""
    shutil.copytree(_GPT, home, symlinks=True)
    version = current(Home(home), "gpt")
    assert version
    run = RunDirectory(home / "runs" / "training" / "run")
    run.path.mkdir(parents=True)
    config = json.loads((version.path / "config.json").read_bytes()) | {"hugging_face_export": "built-in"}
    run.write_config(RunConfig.from_json(json.dumps(config)))
    run.promotion_file.write_text(json.dumps({"path": str(version.path), "digest": version.digest}))
    Path(f"{home}-uploads").mkdir()


def _promoted_twice(home: Path) -> None:
    """A model of two versions, the second of which is current: it has no report, which tells the two apart."""
    shutil.copytree(_GPT, home, symlinks=True)
    model = home / "models" / "gpt"
    second = shutil.copytree(model / "versions" / "1", model / "versions" / "2")
    description = json.loads((second / "version.json").read_bytes())
    del description["files"]["report.json"]
    (second / "report.json").unlink()
    (second / "version.json").write_text(json.dumps({**description, "version": 2, "run": "a later run"}))
    (model / "current").unlink()
    (model / "current").symlink_to("versions/2")


_RUN = ("--run-directory", "{home}/runs/training/run")
_FROM = ("--shards", "{home}/shards", "--strategy", "{home}/strategy.ckpt")

COMMANDS = {
    "adopt": Command(
        "shardline.cli.main",
        ("adopt", "{home}/shards", "--strategy", "{home}/strategy.ckpt"),
        output="{home}/shards",
        marker="{home}/shards/shard_set-20.json",
        make=_slices,
    ),
    "reshard": Command(
        "tasks.reshard",
        (*_FROM, "--unsharded", "--output", "{home}/resharded"),
        output="{home}/resharded",
        marker="{home}/resharded",
        refuses="resharded is there already",
        make=_slices,
    ),
    "export": Command(
        "tasks.export", _RUN, output="{home}/models/gpt/exports", marker="{home}/models/gpt/exports/1", make=_promoted
    ),
    "upload": Command(
        "tests.campaign.uploading",
        _RUN,
        output="{home}-uploads",
        marker="{home}-uploads/gpt/1/version.json",
        make=_promoted,
        environment={"SHARDLINE_ALLOWED_ROOTS": "{home}-uploads"},
    ),
    "rollback": Command(
        "shardline.cli.main",
        ("models", "rollback", "1", "--model", "gpt"),
        output="{home}/models/gpt/current",
        marker="{home}/models/gpt/current/report.json",
        make=_promoted_twice,
    ),
}
