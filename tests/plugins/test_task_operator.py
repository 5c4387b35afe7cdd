"""What a DAG passes to a task arrives, however large it is, and leaves nothing behind."""

import json
from pathlib import Path

import pytest

from plugins.task_operator import TaskOperator


@pytest.fixture
def echo(tmp_path, monkeypatch):
    """An operator whose task prints, as its result, the size of a document and where that was."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "echo.py").write_text(
        "import json, os\n"
        "from pathlib import Path\n"
        "file = Path(os.environ['SHARDLINE_PARAMETERS_FILE'])\n"
        "mode = oct(file.parent.stat().st_mode & 0o777)\n"
        "print(json.dumps({'file': str(file), 'size': len(file.read_text()), 'mode': mode}))\n"
    )

    def execute(document: str) -> dict:
        operator = TaskOperator(task_id="echo", module="echo", reads_parameters=True)
        operator.documents = {"SHARDLINE_PARAMETERS": document}  # as Airflow has rendered it
        operator.env = {}
        return operator.execute({"ti": None})

    return execute


@pytest.mark.parametrize("size", [0, 1, 1_000_000])
def test_a_document_of_any_size_is_a_file_for_as_long_as_the_task_runs(echo, size):
    """Linux allows 128 KiB for a variable of the environment."""
    result = echo("é" * size)
    assert (result["size"], result["mode"]) == (size, "0o700")
    assert not Path(result["file"]).exists()


def test_documents_are_templates():
    operator = TaskOperator(task_id="merge", module="echo", documents={"NAME": "{{ run_id }}"}, reads_parameters=True)
    operator.env = {}
    operator.render_template_fields({"run_id": "manual__1", "params": {"epochs": 3, "text": "é'\"<"}})
    assert operator.documents["NAME"] == "manual__1"
    assert json.loads(operator.documents["SHARDLINE_PARAMETERS"]) == {"epochs": 3, "text": "é'\"<"}
