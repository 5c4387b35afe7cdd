"""The operator's key: what cannot sign is refused before anything is trained, and no run may lead to it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shardline.base.errors import ConfigError
from shardline.run.directory import Home
from shardline.run.environment import PROJECT
from shardline.store.key_files import public_key, thumbprint
from shardline.store.signing_key import signing_key
from tests.shardline.store.keys import encrypted, key, pair

PRIVATE, PUBLIC = "SHARDLINE_SIGNING_KEY", "SHARDLINE_SIGNING_PUBLIC_KEY"


def test_without_a_setting_nothing_is_signed(tmp_path: Path) -> None:
    assert signing_key(Home(tmp_path), {}) is None
    assert signing_key(Home(tmp_path), {PRIVATE: "", PUBLIC: "/nowhere"}) is None


def test_a_pair_is_a_pair(tmp_path: Path) -> None:
    private, public = pair(tmp_path)
    home = Home(tmp_path / "home")
    found = signing_key(home, {PRIVATE: str(private), PUBLIC: str(public)})
    assert found is not None
    assert (found.file, found.thumbprint) == (private, thumbprint(public_key(public)))
    _, other = pair(tmp_path, name="other")
    with pytest.raises(ConfigError, match=f"^{PUBLIC}: expected the public key of {PRIVATE}"):
        signing_key(home, {PRIVATE: str(private), PUBLIC: str(other)})
    with pytest.raises(ConfigError, match=f"^{PUBLIC}: .*found a private key"):
        signing_key(home, {PRIVATE: str(private), PUBLIC: str(private)})


def test_a_key_that_changes_between_the_check_and_the_signing_signs_nothing(tmp_path: Path) -> None:
    private, _ = pair(tmp_path / "keys")
    found = signing_key(Home(tmp_path / "home"), {PRIVATE: str(private)})
    assert found is not None
    (folder := tmp_path / "1").mkdir()
    (folder / "model.ckpt").write_bytes(b"weights")
    for content, message in (
        (private.read_bytes()[:80], rf"^{PRIVATE}: .*{re.escape(str(private))}"),
        (key("P-256", "other")[0], f"{re.escape(str(private))}: expected the key that was there when this task began"),
        (None, f"^{PRIVATE}: expected the path of a private key's file, found none that can be read"),
    ):
        private.unlink() if content is None else private.write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            found.sign(folder, "digits/1")
    assert [path.name for path in folder.iterdir()] == ["model.ckpt"]


@pytest.mark.parametrize("inside", ["home", "root"])
@pytest.mark.parametrize("by_link", [False, True])
def test_a_key_that_a_run_may_be_led_to_is_refused(tmp_path: Path, inside: str, by_link: bool) -> None:
    private, _ = pair(tmp_path / inside)
    if by_link:
        (tmp_path / "link.pem").symlink_to(private)
        private = tmp_path / "link.pem"
    environment = {PRIVATE: str(private), "SHARDLINE_ALLOWED_ROOTS": str(tmp_path / "root")}
    with pytest.raises(ConfigError, match=f"^{PRIVATE}: expected a file that no run may read"):
        signing_key(Home(tmp_path / "home"), environment)


def task(name: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    run = {"SHARDLINE_HOME": str(home), "SHARDLINE_DAG_ID": "sharded_training", "SHARDLINE_RUN_ID": "1"}
    command = [sys.executable, "-m", f"tasks.{name}"]
    return subprocess.run(
        command, cwd=PROJECT, env=os.environ | run | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", ["prepare_dataset", "promote"])
def test_a_key_that_cannot_sign_stops_a_run_before_it_trains_or_promotes(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "home" / "runs" / "sharded_training" / "1"
    folder.mkdir(parents=True)
    secret = encrypted(key("P-256")[0])
    (tmp_path / "key.pem").write_bytes(secret)
    failed = task(name, tmp_path / "home", **{PRIVATE: str(tmp_path / "key.pem")})
    assert failed.returncode == 2
    message = failed.stderr.splitlines()[-1]
    assert re.match(rf"ConfigError: {PRIVATE}: .*key\.pem: expected a private key without a passphrase", message)
    assert not any(line in failed.stdout + failed.stderr for line in secret.decode().splitlines()[1:-1])
    assert not (folder / "dataset.json").exists()
    recorded = json.loads((folder / "failures" / f"{name}.json").read_bytes()) if (folder / "failures").exists() else {}
    assert secret.decode().splitlines()[1] not in json.dumps(recorded)


def test_the_key_itself_in_place_of_its_path_does_not_reach_the_log(tmp_path: Path) -> None:
    secret = key("P-256")[0].decode()
    failed = task("prepare_dataset", tmp_path, **{PRIVATE: secret})
    assert failed.returncode == 2
    assert f"{PRIVATE}: expected the path of a private key's file" in failed.stderr
    assert not any(line in failed.stdout + failed.stderr for line in secret.splitlines()[1:-1])
