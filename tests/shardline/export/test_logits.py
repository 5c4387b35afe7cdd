"""Whether an exported folder computes what the ranks computed: what is compared, what is not, and what is refused."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from shardline.base.errors import ConfigError, ExportError
from shardline.base.progress import Meter
from shardline.export.export import ExportRequest, export
from shardline.export.logits import NotCompared, Reference, compare_logits, interpreter, reference_of

PROJECT = Path(__file__).resolve().parents[3]


def other_python(folder: Path, code: str) -> str:
    """An interpreter that does `code` instead, with `folder`, `samples` and `logits` as it is given them."""
    program = folder / "python"
    program.write_text(f"#!{sys.executable}\nimport sys\n_, script, folder, samples, logits = sys.argv\n{code}\n")
    program.chmod(0o755)
    return str(program)


def computing(folder: Path, recorded: Path, change: str = "") -> str:
    """One that gives the recorded logits, changed by `change`."""
    return other_python(
        folder,
        f"import json, numpy as np\nrecorded = np.load({str(recorded)!r})\n"
        "assert np.array_equal(np.load(samples), recorded['samples'])\n"
        f"found = recorded['logits'].copy()\n{change}\n"
        "np.save(logits, found)\nprint('noise')\nprint(json.dumps({'transformers': '0', 'torch': '1'}))",
    )


@pytest.fixture
def recorded(home):
    return home.path / "run" / "reference_logits.npz"


def test_equal_logits_are_recorded_with_what_computed_them(home, version, recorded, tmp_path):
    python = computing(tmp_path, recorded, "found[0, 0, 0] += 1e-6")
    request = ExportRequest(model="gpt", version=version, output=tmp_path / "out", must_compare=True)
    record = export(request, home, {"SHARDLINE_HF_PYTHON": python}, Meter())
    compared = record["proof"]["logits"]
    tolerance = json.loads((version.path / "report.json").read_bytes())["sharded_logits"]["tolerance"]
    assert (compared["samples"], compared["tolerance"]) == (8, tolerance)
    assert 0 < compared["relative_difference"] < tolerance
    assert compared["computed_by"] == {"transformers": "0", "torch": "1"}
    assert "loads strictly (transformers 0, torch 1); the logits of 8 samples differ" in record["proof"]["said"]


def test_other_logits_are_refused_and_nothing_appears(home, version, recorded, tmp_path):
    python = computing(tmp_path, recorded, "found[3, 5] = found[3, 5, ::-1]")
    request = ExportRequest(model="gpt", version=version, output=tmp_path / "out")
    with pytest.raises(
        ExportError, match=r"expected logits that differ by at most 1e-05 .* found .* 1 of 128 decisions"
    ):
        export(request, home, {"SHARDLINE_HF_PYTHON": python}, Meter())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("print('no torch', file=sys.stderr); sys.exit(4)", ConfigError, "SHARDLINE_HF_PYTHON: no torch; install them"),
        ("print('found x', file=sys.stderr); sys.exit(3)", ExportError, "does not load strictly: found x"),
        (
            "import os; os.kill(os.getpid(), 9)",
            ExportError,
            "ended by signal 9: it printed nothing; it holds the whole",
        ),
        ("raise MemoryError", ExportError, "ended by exit code 1: MemoryError"),
        ("print('[1]')", ExportError, "ended well, and left no logits; is it a Python?"),
    ],
)
def test_what_goes_wrong_elsewhere_is_explained(home, version, tmp_path, code, kind, message):  # noqa: PLR0917
    reference = reference_of(version, home)
    with pytest.raises(kind, match=message):
        compare_logits(tmp_path, version, reference, other_python(tmp_path, code))


def test_a_python_that_is_not_there_is_refused_by_name(home, version, tmp_path):
    with pytest.raises(
        ConfigError, match="SHARDLINE_HF_PYTHON: there is no program /nowhere/python that may be started"
    ):
        compare_logits(tmp_path, version, reference_of(version, home), "/nowhere/python")


def test_this_python_without_the_packages_says_so(home, version, tmp_path):
    assert importlib.util.find_spec("transformers") is None
    with pytest.raises(NotCompared, match="SHARDLINE_HF_PYTHON names no Python that has them"):
        interpreter({})
    with pytest.raises(ConfigError, match=r"cannot import torch and transformers: No module named 'torch'"):
        compare_logits(tmp_path, version, reference_of(version, home), sys.executable)


def test_without_the_ranks_logits_nothing_is_compared(home, version, recorded):
    assert reference_of(version, home) == Reference(reference_of(version, home).run, 9.950941445688823e-06)
    recorded.unlink()
    with pytest.raises(
        NotCompared, match=r"the ranks' logits are not there any more: .*reference_logits.npz is missing"
    ):
        reference_of(version, home)


def test_the_logits_of_another_model_of_the_same_run_are_not_this_versions(home, version):
    report = home.path / "run" / "validation" / "report.json"
    document = json.loads(report.read_bytes())
    document["merged"]["digest"] = "0" * 64
    report.write_text(json.dumps(document))
    with pytest.raises(NotCompared, match="has trained or merged another model since"):
        reference_of(version, home)
    report.write_text("{")
    with pytest.raises(NotCompared, match=r"not there any more: .*its report is not JSON"):
        reference_of(version, home)
    report.unlink()
    with pytest.raises(NotCompared, match="not there any more"):
        reference_of(version, home)


def test_a_report_of_an_earlier_shardline_gives_nothing_to_compare_by(home, version):
    report = version.path / "report.json"
    report.chmod(0o644)
    document = json.loads(report.read_bytes())
    del document["sharded_logits"]["tolerance"]
    report.write_text(json.dumps(document))
    with pytest.raises(NotCompared, match="its report does not say how far logits may differ"):
        reference_of(version, home)


def test_a_validation_that_compared_nothing_gives_nothing_to_compare(home, version):
    report = version.path / "report.json"
    report.chmod(0o644)
    report.write_text(json.dumps(json.loads(report.read_bytes()) | {"sharded_logits": None}))
    with pytest.raises(NotCompared, match="its validation compared no logits"):
        reference_of(version, home)


@pytest.fixture(scope="module")
def real_python():
    """A Python that has transformers: of `.venv-transformers`, which `make transformers` makes."""
    program = PROJECT / ".venv-transformers" / "bin" / "python"
    if not program.exists():
        pytest.skip("transformers is not installed: make transformers")
    return str(program)


@pytest.mark.transformers
@pytest.mark.parametrize("max_file_size", [10**9, 20_000])
def test_transformers_loads_it_strictly_and_computes_what_the_ranks_computed(
    home, version, tmp_path, real_python, max_file_size
):
    request = ExportRequest(
        model="gpt", version=version, output=tmp_path / "out", must_compare=True, max_file_size=max_file_size
    )
    record = export(request, home, {"SHARDLINE_HF_PYTHON": real_python}, Meter())
    compared = record["proof"]["logits"]
    assert compared["samples"] == 8
    assert compared["relative_difference"] < 2e-6 < compared["tolerance"] < 2e-5


@pytest.mark.transformers
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("transformer.ln_f.bias"), "missing keys: transformer.ln_f.bias"),
        (lambda weights: weights.update({"extra.weight": np.ones(2, "f4")}), "unexpected keys: extra.weight"),
        (lambda weights: weights.update({"transformer.wpe.weight": np.ones((17, 16), "f4")}), "transformer.wpe.weight"),
    ],
)
def test_transformers_refuses_what_is_not_strict(home, version, tmp_path, real_python, change, message):  # noqa: PLR0917
    export(ExportRequest(model="gpt", version=version, output=tmp_path / "out"), home, {}, Meter())
    file = tmp_path / "out" / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ExportError, match=f"does not load strictly: .*{message}"):
        compare_logits(tmp_path / "out", version, reference_of(version, home), real_python)


@pytest.mark.transformers
@pytest.mark.parametrize(
    ("name", "value"), [("activation_function", "gelu"), ("layer_norm_epsilon", 1e-3), ("scale_attn_weights", False)]
)
def test_another_architecture_with_the_same_weights_is_refused(home, version, tmp_path, real_python, name, value):  # noqa: PLR0917
    export(ExportRequest(model="gpt", version=version, output=tmp_path / "out"), home, {}, Meter())
    config = tmp_path / "out" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_bytes()) | {name: value}))
    with pytest.raises(ExportError, match="does not compute from the exported model what the sharded ranks computed"):
        compare_logits(tmp_path / "out", version, reference_of(version, home), real_python)
