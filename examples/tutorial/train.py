"""MindSpore's tutorial of operator-level parallelism with sliced saving, as one finds it, on one rank or on several.

    msrun --worker_num=8 … train.py       (run_saving.sh; on Ascend and GPU: SEMI_AUTO_PARALLEL over all cards)
    python train.py                       (on the CPU, where MindSpore refuses automatic parallelism: one rank)

    src_checkpoints/rank_N/checkpoint-EPOCH_STEP.ckpt    by ModelCheckpoint
    src_strategy.ckpt                                    by strategy_ckpt_config, where the network is sharded

DATA_PATH is a folder of MNIST's training files. Source: "Saving Distributed Parallel Model" of MindSpore's tutorials.
"""

import os

import mindspore as ms
import mindspore.dataset as ds
from mindspore import nn, train
from mindspore.communication import get_group_size, get_rank, init

ON_CARDS = os.getenv("DEVICE_TARGET", "CPU") != "CPU"
EPOCHS = int(os.getenv("EPOCHS", "10"))

ms.set_context(mode=ms.GRAPH_MODE)
ms.set_device(os.getenv("DEVICE_TARGET", "CPU"))
rank = 0
if ON_CARDS:
    init()
    ms.set_auto_parallel_context(parallel_mode=ms.ParallelMode.SEMI_AUTO_PARALLEL)
    ms.set_auto_parallel_context(
        strategy_ckpt_config={"save_file": "./src_strategy.ckpt", "only_trainable_params": False}
    )
    rank = get_rank()
ms.set_seed(1)


class Network(nn.Cell):
    """The tutorial's three dense layers, the first and the last of them sharded."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.layer1 = nn.Dense(28 * 28, 512)
        self.relu1 = nn.ReLU()
        self.layer2 = nn.Dense(512, 512)
        self.relu2 = nn.ReLU()
        self.layer3 = nn.Dense(512, 10)
        if ON_CARDS:
            width = get_group_size() // 2
            self.layer1.matmul.shard(((2, width), (1, width)))
            self.relu1.relu.shard(((2 * width, 1),))
            self.layer3.matmul.shard(((2, width), (1, width)))

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        x = self.flatten(x)
        x = self.relu1(self.layer1(x))
        x = self.relu2(self.layer2(x))
        return self.layer3(x)


def create_dataset(batch_size: int) -> ds.Dataset:
    """MNIST's training samples, scaled, in batches."""
    dataset = ds.MnistDataset(os.getenv("DATA_PATH"), shuffle=False)
    image_transforms = [
        ds.vision.Rescale(1.0 / 255.0, 0),
        ds.vision.Normalize(mean=(0.1307,), std=(0.3081,)),
        ds.vision.HWC2CHW(),
    ]
    dataset = dataset.map(image_transforms, "image")
    dataset = dataset.map(ds.transforms.TypeCast(ms.int32), "label")
    return dataset.batch(batch_size, drop_remainder=True)


net = Network()
dataset = create_dataset(32)
optimizer = nn.SGD(net.trainable_params(), float(os.getenv("LEARNING_RATE", "1e-2")))
loss_fn = nn.CrossEntropyLoss()

loss_cb = train.LossMonitor(1)
ckpt_config = train.CheckpointConfig(
    save_checkpoint_steps=dataset.get_dataset_size(), keep_checkpoint_max=2, integrated_save=False
)
ckpoint_cb = train.ModelCheckpoint(prefix="checkpoint", directory=f"./src_checkpoints/rank_{rank}", config=ckpt_config)
model = train.Model(net, loss_fn=loss_fn, optimizer=optimizer)
model.train(EPOCHS, dataset, callbacks=[loss_cb, ckpoint_cb], dataset_sink_mode=ON_CARDS)
