"""The backend for Ascend and GPU: MindSpore's compiler shards the network, in SEMI_AUTO_PARALLEL, by its strategies.

Every rank takes the whole batch (`dataset_strategy="full_batch"`), as on the CPU; compiling cuts each parameter to the
rank's slice, and leaves out what other pipeline stages compute. `set_auto_parallel_context` still works in MindSpore
2.10, which marks it for removal in favour of `mindspore.parallel.auto_parallel.AutoParallel`; both write the same
strategy file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mindspore
from mindspore import Tensor, ops
from mindspore.communication import GlobalComm, comm_func, init

from shardline.base import atomic
from shardline.networks.operators import Operator
from shardline.networks.train_spec import Network
from shardline.parallel.primitives import PrimitiveCell
from shardline.parallel.single_device import SingleDevice
from shardline.settings.run_config import RunConfig


class SemiAutoBackend(SingleDevice):
    """MindSpore on `world_size` cards, one for each rank."""

    def __init__(self, config: RunConfig, rank: int, network: Network) -> None:
        super().__init__(config, rank, network)
        self._compilers_file = Path(tempfile.mkdtemp(prefix="strategy-")) / config.strategy_save_file

    def start(self) -> None:
        super().start()
        init()
        self.shard_automatically()

    def shard_automatically(self) -> None:
        """Set the parallel context: from here on, compiling shards."""
        mindspore.set_auto_parallel_context(
            parallel_mode=mindspore.ParallelMode.SEMI_AUTO_PARALLEL,
            dataset_strategy="full_batch",
            pipeline_stages=self.config.pipeline_stages,
            enable_parallel_optimizer=self.config.enable_parallel_optimizer,
            parallel_optimizer_config={"parallel_optimizer_threshold": 0},
            strategy_ckpt_config={
                "save_file": str(self._compilers_file),
                "load_file": self.config.strategy_load_file or "",
                "only_trainable_params": self.config.strategy_only_trainable_params,
            },
        )

    def primitive(self, operator: Operator) -> Callable[..., Any]:
        def sharded(primitive: Any) -> Any:
            return primitive.shard(operator.splits) if operator.splits else primitive

        cell = PrimitiveCell(operator, operator.output.shape, self.config.precision, sharded)
        if self.config.pipeline_stages > 1:
            cell.pipeline_stage = operator.stage
        return cell

    def sum_over_ranks(self) -> Any:
        return ops.AllReduce()

    def write_strategy(self, network: Network, file: Path) -> None:
        atomic.write_bytes(file, self._compilers_file.read_bytes())

    def total(self, values: Sequence[float]) -> list[float]:
        group = GlobalComm.WORLD_COMM_GROUP  # another default is frozen in when MindSpore is imported
        sums, _ = comm_func.all_reduce(Tensor(list(values), mindspore.float32), group=group)
        totals: list[float] = sums.asnumpy().tolist()
        return totals
