"""What every rehearsal needs."""

from pathlib import Path

import pytest

from tests.rehearsal.cuda_stubs import make_cuda


@pytest.fixture(scope="session")
def cuda(tmp_path_factory) -> Path:
    """CUDA, as far as MindSpore's GPU plugin needs it to be loaded."""
    return make_cuda(tmp_path_factory.mktemp("cuda") / "cuda")
