"""The task that uploads, on a real S3 server (moto) with a connection of Airflow's."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from blake3 import blake3
from moto.server import ThreadedMotoServer

import shardline.store.upload
from plugins.upload import UploadIfAsked, place_of
from scripts.local_airflow import PROJECT
from shardline.base.errors import ConfigError, UploadError
from shardline.run.directory import Home, RunDirectory
from shardline.run.failures import failure_file
from shardline.settings.run_config import RunConfig
from shardline.store.version import Version
from tests.shardline.store.test_upload import FILES, version_of

RUN_ID = "manual__2026-01-31T09:00:00+00:00"
BUCKET = "models"
ADDRESS = "s3://store@models/some/folder"
FOLDER = "some/folder/digits/1/"
MODEL = os.urandom(40 << 20)  # three parts of an upload
KILLED_AT_THE_SECOND_PART = """
import json, os, signal, sys
from s3fs.core import S3File
from plugins.upload import upload_promoted

send_part = S3File._upload_chunk

def killed(file, final=False):
    if file.parts:
        os.kill(os.getpid(), signal.SIGKILL)
    return send_part(file, final)

S3File._upload_chunk = killed
upload_promoted(json.loads(sys.argv[1]), "digits", sys.argv[2])
"""


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint, monkeypatch):
    """A client of an S3 with one empty bucket; Airflow knows it by the connection `store`."""
    connection = {
        "conn_type": "aws",
        "login": "somebody",
        "password": "secret-key",
        "extra": {"endpoint_url": endpoint, "region_name": "us-east-1"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_STORE", json.dumps(connection))
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="somebody",
        aws_secret_access_key="secret-key",
    )
    client.create_bucket(Bucket=BUCKET)
    yield client
    client.delete_bucket_policy(Bucket=BUCKET)
    for key in objects(client):
        client.delete_object(Bucket=BUCKET, Key=key)
    client.delete_bucket(Bucket=BUCKET)


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunDirectory:
    monkeypatch.setenv("SHARDLINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SHARDLINE_UPLOAD_CONNECTIONS", "store, closed,nobody")
    run = RunDirectory(Home(tmp_path / "home").run("sharded_training", RUN_ID))
    run.write_config(RunConfig(model_name="digits", upload_to=ADDRESS))
    return run


@pytest.fixture(scope="module")
def version(tmp_path_factory) -> Version:
    return version_of(tmp_path_factory.mktemp("store") / "1", MODEL)


def objects(s3: Any) -> list[str]:
    return [entry["Key"] for entry in s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])]


def promoted(version: Version) -> dict[str, Any]:
    """What promote returns, as far as upload looks."""
    return {"version": version.version, "digest": version.digest, "path": str(version.path)}


def execute(version: Version) -> dict[str, Any]:
    instance = SimpleNamespace(xcom_pull=lambda task_ids: promoted(version))
    context = {"dag": SimpleNamespace(dag_id="sharded_training"), "run_id": RUN_ID, "ti": instance}
    return UploadIfAsked(task_id="upload").execute(context)


@pytest.mark.parametrize("upload_to", [None, ""])
def test_nothing_is_uploaded_where_nobody_asked(run, version, upload_to):
    run.write_config(RunConfig(upload_to=upload_to))
    with pytest.raises(AirflowSkipException, match="the parameter upload_to is empty"):
        execute(version)


def test_every_file_arrives_and_a_second_upload_sends_none(s3, run, version):
    result = execute(version)
    assert (result["uri"], result["files"], result["files_sent"]) == (f"{ADDRESS}/digits/1/", 4, 4)
    assert objects(s3) == [FOLDER + name for name in FILES]
    for name in FILES:
        stored = s3.get_object(Bucket=BUCKET, Key=FOLDER + name)["Body"].read()
        assert stored == (version.path / name).read_bytes()
    changed = [s3.head_object(Bucket=BUCKET, Key=key)["LastModified"] for key in objects(s3)]
    assert execute(version) == {"uri": f"{ADDRESS}/digits/1/", "files": 4, "files_sent": 0, "bytes_sent": 0}
    assert [s3.head_object(Bucket=BUCKET, Key=key)["LastModified"] for key in objects(s3)] == changed


def test_an_object_of_other_content_is_never_overwritten(s3, run, version):
    s3.put_object(Bucket=BUCKET, Key=f"{FOLDER}model.ckpt", Body=b"another model")
    with pytest.raises(UploadError) as refused:
        execute(version)
    assert str(refused.value).startswith(
        f"{ADDRESS}/digits/1/model.ckpt: expected the digest {version.digest} or no such file, found one of digest "
        f"{blake3(b'another model').hexdigest()}: it stays as it is; "
    )
    assert objects(s3) == [f"{FOLDER}model.ckpt"]
    assert s3.get_object(Bucket=BUCKET, Key=f"{FOLDER}model.ckpt")["Body"].read() == b"another model"


def test_an_object_that_changes_before_it_is_read_back_fails_the_upload(s3, run, version, monkeypatch):
    send = shardline.store.upload._send

    def send_and_damage(source, digest, storage, path):
        send(source, digest, storage, path)
        if source.name == "model.ckpt":
            s3.put_object(Bucket=BUCKET, Key=f"{FOLDER}model.ckpt", Body=MODEL[:-1] + b"?")

    monkeypatch.setattr(shardline.store.upload, "_send", send_and_damage)
    with pytest.raises(UploadError, match=rf"model.ckpt: expected the digest {version.digest} that was sent, found"):
        execute(version)
    assert f"{FOLDER}version.json" not in objects(s3)


def test_killed_half_way_it_leaves_no_part_of_a_file_and_a_retry_completes(s3, run, version):
    command = [sys.executable, "-c", KILLED_AT_THE_SECOND_PART, json.dumps(promoted(version)), ADDRESS]
    killed = subprocess.run(command, cwd=PROJECT, env=dict(os.environ), capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert len(s3.list_multipart_uploads(Bucket=BUCKET)["Uploads"]) == 1
    assert objects(s3) == [f"{FOLDER}config.json"]
    assert execute(version)["files_sent"] == 3
    assert objects(s3) == [FOLDER + name for name in FILES]


def test_a_version_changed_since_its_promotion_leaves_no_part_of_it(s3, run, tmp_path):
    version = version_of(tmp_path / "store" / "1", MODEL)
    file = version.path / "model.ckpt"
    file.chmod(0o644)
    file.write_bytes(MODEL[:-1] + b"?")
    with pytest.raises(UploadError, match="it was changed since; restore it"):
        execute(version)
    assert objects(s3) == [f"{FOLDER}config.json"]
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=BUCKET)


def test_a_failure_is_recorded_for_the_runs_page_and_gone_after_success(s3, run, version):
    run.write_config(RunConfig(model_name="digits", upload_to="s3://store@elsewhere/folder"))
    with pytest.raises(UploadError, match=r"s3://store@elsewhere/folder/digits/1/.*there is no such bucket"):
        execute(version)
    record = json.loads(failure_file(run, "upload").read_bytes())
    assert (record["task"], record["error"]) == ("upload", "UploadError")
    run.write_config(RunConfig(model_name="digits", upload_to=ADDRESS))
    execute(version)
    assert not failure_file(run, "upload").exists()


@pytest.mark.parametrize("action", ["s3:PutObject", "s3:GetObject"])
def test_a_missing_permission_is_said(s3, run, version, action):
    statement = {"Effect": "Deny", "Principal": "*", "Action": action, "Resource": f"arn:aws:s3:::{BUCKET}/*"}
    s3.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    with pytest.raises(UploadError, match=rf"{ADDRESS}/digits/1/.*: permission denied .* has to list, read and write"):
        execute(version)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://nobody@models/folder", "expected a connection nobody in Airflow, found none; add it"),
        ("gs://closed@models/folder", "Airflow has no such storage .* install the provider of its scheme"),
        (
            "s3://airflow_db@models/folder",
            r"expected one of the connections .* \(store, closed, nobody\), found airflow_",
        ),
        ("s3://models/folder", "expected one of the connections .*, found none; choose one of these"),
    ],
)
def test_an_unknown_connection_or_scheme_is_not_tried_again(run, version, address, message, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_CLOSED", json.dumps({"conn_type": "aws"}))
    run.write_config(RunConfig(upload_to=address))
    with pytest.raises(AirflowFailException, match=f"upload_to {address}: {message}"):
        execute(version)


def test_a_storage_that_does_not_answer_is_named(run, version, monkeypatch):
    extra = {
        "endpoint_url": "http://127.0.0.1:1",
        "region_name": "us-east-1",
        "config_kwargs": {"retries": {"total_max_attempts": 1}},
    }
    connection = {"conn_type": "aws", "login": "somebody", "password": "secret-key", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_CLOSED", json.dumps(connection))
    run.write_config(RunConfig(upload_to="s3://closed@models/folder"))
    with pytest.raises(UploadError, match=r"s3://closed@models/folder/.*: the storage failed: EndpointConnectionError"):
        execute(version)


def test_a_folder_is_uploaded_to_without_a_connection(run, version, tmp_path):
    (tmp_path / "far").mkdir()
    run.write_config(RunConfig(model_name="digits", upload_to=f"file://{tmp_path}/far"))
    assert execute(version)["files_sent"] == 4
    assert sorted(file.name for file in Path(tmp_path, "far", "digits", "1").iterdir()) == FILES


@pytest.mark.parametrize("folder", ["/etc", "HOME", "HOME/models", "TMP/link", "/proc/self", "TMP/../../etc"])
def test_a_folder_that_no_setting_allows_is_not_written_to(run, version, tmp_path, monkeypatch, folder):
    monkeypatch.setenv("SHARDLINE_ALLOWED_ROOTS", str(tmp_path))
    (tmp_path / "link").symlink_to("/etc")
    folder = folder.replace("HOME", str(tmp_path / "home")).replace("TMP", str(tmp_path))
    if ".." not in folder:
        run.write_config(RunConfig(upload_to=f"file://{folder}"))
        with pytest.raises(AirflowFailException, match="upload_to: expected an absolute folder below one of"):
            execute(version)
    with pytest.raises(ConfigError, match="upload_to: expected an absolute folder below one of"):
        place_of("digits", f"local://{folder}")
