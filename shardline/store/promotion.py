"""A run's validated model becomes a version of the model store, and the current one.

Done again for the same run and the same model, it returns the version that it made before. A model that is, byte for
byte, the version of another run is not promoted again: the store stays as it is, and so does what is current.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from shardline.base import atomic
from shardline.base.errors import AlreadyAVersion, ChampionStays, PromotionError, SignatureError
from shardline.base.json_object import encode_object
from shardline.checkpoint.merging.record_file import UNNAMED, read_record
from shardline.run.directory import Home, RunDirectory
from shardline.run.lineage import LINEAGE, lineage_of
from shardline.run.merged_model import MergedModel, read_merged
from shardline.store.model_store import ModelStore
from shardline.store.signature import key_named_in
from shardline.store.signing_key import SigningKey
from shardline.store.version import Candidate, Version


def promote(run: RunDirectory, home: Home, key: SigningKey | None = None) -> dict[str, Any]:
    """The version that the run's merged model is from now on; `PromotionError` unless it was validated and passed.

    It is signed with `key`. `AlreadyAVersion` where another run's version has the same bytes: which one stands in the
    run's promotion file.
    """
    config = run.read_any_config()
    merged = read_merged(run)
    report = _validated(run, merged)
    metric = report["metric"]
    store = ModelStore(home, config.model_name)
    candidate = Candidate(
        run=_name(run, home),
        model=merged.file,
        digest=merged.digest,
        metric=metric,
        value=None if metric is None else float(report[metric]),
        step=merged.step,
        documents={
            run.report_file.name: run.report_file.read_bytes(),
            UNNAMED: encode_object(read_record(run.merge_file)),
            run.config_file.name: run.config_file.read_bytes(),
            LINEAGE: encode_object(lineage_of(run, home)),
        },
    )

    def admit() -> None:
        if known := _of_another_run(store, candidate):
            unchanged = _result(known, config.model_name, new=False)
            atomic.write_text(run.promotion_file, json.dumps(unchanged, indent=2) + "\n")
            raise AlreadyAVersion(_nothing_new(known, store.current_number(), config.model_name))
        if config.champion_margin is not None:
            check_champion(report, store.current(), merged.digest, config.champion_margin)

    version = store.add(candidate, admit, key)
    for problem in store.damaged():
        print(f"note: {problem}", file=sys.stderr, flush=True)
    result = _result(version, config.model_name, new=True)
    atomic.write_text(run.promotion_file, json.dumps(result, indent=2) + "\n")
    print(f"{version.path}: version {version.version} of {config.model_name}{_signed(version, key)}", flush=True)
    return result


def _signed(version: Version, key: SigningKey | None) -> str:
    if key is None:
        return ""
    try:
        found = key_named_in(version.path)
    except SignatureError as error:
        return f"; it was promoted before, and is not signed with this key: {error}"
    if found != key.thumbprint:
        return f"; it was promoted before, and signed with another key ({found})"
    return f"; it is signed (public key: SHA-256 {found})"


def _result(version: Version, model: str, *, new: bool) -> dict[str, Any]:
    """What the run's model is in the store; `new` unless another run's version has its bytes."""
    return {
        "model": model,
        "version": version.version,
        "new": new,
        "digest": version.digest,
        "metric": version.metric,
        **({} if version.metric is None else {version.metric: version.value}),
        "path": str(version.path),
    }


def _of_another_run(store: ModelStore, candidate: Candidate) -> Version | None:
    """The newest version with the candidate's bytes, unless the candidate's own run made one."""
    same = [version for version in store.versions() if version.digest == candidate.digest]
    return None if any(version.is_of(candidate) for version in same) else next(reversed(same), None)


def _nothing_new(version: Version, current: int | None, model: str) -> str:
    rest = "it is current, and stays so"
    if version.version != current:
        command = f"shardline models rollback {version.version} --model {model}"
        rest = f"version {current} is current, and stays so; `{command}` makes the other one current"
    return (
        f"nothing is new: the merged file is, byte for byte, version {version.version} of {model} (BLAKE3 "
        f"{version.digest}), of {version.run}; {rest}"
    )


def _validated(run: RunDirectory, merged: MergedModel) -> dict[str, Any]:
    """The report of validation; `PromotionError` unless it is of this model, and the model is good enough."""
    file = run.report_file
    try:
        report: dict[str, Any] = json.loads(run.read(file, "validate"))
        passed, failures, validated = report["passed"], report["failures"], report["merged"]["digest"]
        if (metric := report["metric"]) is not None:  # a described training may have none
            float(report[metric])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise PromotionError(f"{file}: expected the report of a validation ({error!r}); clear validate") from error
    if validated != merged.digest:
        raise PromotionError(
            f"{file}: expected the report on the merged file of digest {merged.digest}, found that on {validated}: "
            "merge ran again since; clear validate"
        )
    if passed is not True:
        raise PromotionError(f"{file}: validation failed: {'; '.join(map(str, failures))}")
    return report


def check_champion(report: Mapping[str, Any], champion: Version | None, digest: str, margin: float) -> None:
    """Raise `ChampionStays` where the model is worse than the current version by more than `margin`.

    `PromotionError` where validation judged another version than the one that is current now.
    """
    if champion is None or champion.digest == digest:
        return
    judged = report.get("champion") or {}
    if judged.get("digest") != champion.digest:
        raise PromotionError(
            f"expected a report that compares with version {champion.version}, the current one, found one that "
            f"compares with {judged.get('version', 'none')}: another was promoted since; clear validate"
        )
    metric = report["metric"]
    worse = (judged["value"] - report[metric]) * (1 if report["higher_is_better"] else -1)
    if worse > margin:
        raise ChampionStays(
            f"expected a {metric} at most {margin:g} worse than the {judged['value']:.4f} of version "
            f"{champion.version}, the current one, on the same data; found {report[metric]:.4f}: that one stays. Train "
            "longer or on more data, or raise champion_margin"
        )


def _name(run: RunDirectory, home: Home) -> str:
    """The run as versions name it: its folder below `home`, which may be mounted elsewhere tomorrow."""
    return str(run.path.relative_to(home.path) if run.path.is_relative_to(home.path) else run.path)
