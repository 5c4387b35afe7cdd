"""What the tests of this folder train on four ranks: all in one launch, since a rank's start costs more than its steps.

A name means one training, whichever module looks at it.
"""

from pathlib import Path
from typing import Any

RATES = {"SGD": 0.05, "Momentum": 0.01, "Adam": 0.001}
TUTORIAL = {
    optimizer: {
        "name": optimizer,
        "network": "mlp",
        "steps": 20,  # into the second epoch, whose order is another
        "parameters": {"optimizer": optimizer, "learning_rate": rate, "batch_size": 256},
    }
    for optimizer, rate in RATES.items()
}
SHARDED = "Adam"
"""Optimizers treat each element for itself: each trains this network on one rank, that with most states on four too,
where the other networks are trained by the others."""
OTHERS = {
    name: {
        "name": name,
        "network": name,
        "steps": 20,
        "parameters": {"optimizer": optimizer, "learning_rate": RATES[optimizer], "seed": seed},
    }
    for name, optimizer, seed in (("tensor_parallel_on_four", "SGD", 1), ("mixed", "Momentum", 2))
}
"""On four and on eight ranks. With seed 1 a unit of `mixed` stands so near the kink of its ReLU at step 3 that an order
of summation tips it."""

CELL_STEPS = 20
CELLS = {
    "tutorial_as_mlp": {"batch_size": 64, "learning_rate": 0.01},
    "residual": {"batch_size": 64, "learning_rate": 0.01},
    "convolutional": {"batch_size": 32, "learning_rate": 0.01},
    "gpt": {"batch_size": 8, "learning_rate": 0.05},
}
"""Cells of a user's own, of `tests.cells`."""

GPT = {
    "network": "gpt",
    "layers": 1,
    "hidden_size": 32,
    "heads": 4,
    "sequence_length": 16,
    "batch_size": 8,
    "optimizer": "AdamW",
    "learning_rate": 0.003,
    "weight_decay": 0.1,
    "warmup_steps": 5,
    "schedule": "cosine",
    "clip_norm": 0.5,
    "tensor_parallel": 2,
    "enable_parallel_optimizer": True,
}
"""The built-in one, with all at once; that of `CELLS` keeps its optimizer's states whole."""
GPT_NAME, GPT_STEPS = "built-in gpt", 12


def cell_runs(folder: Path) -> list[dict[str, Any]]:
    """The trainings of `CELLS`, each with the file in `folder` that its cell is exported to."""
    return [
        {
            "name": name,
            "network": f"tests.cells:{name}",
            "steps": CELL_STEPS,
            "graph": str(folder / f"{name}.mindir"),
            "parameters": given | {"network": f"tests.cells:{name}", "optimizer": "Momentum", "world_size": 4},
        }
        for name, given in CELLS.items()
    ]


def runs_on_four(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Everything that is trained on four ranks; `cells` have been exported. One is compared to the built-in network."""
    (tutorial,) = (run for run in cells if run["name"] == "tutorial_as_mlp")
    built_in = {
        "name": "mlp",
        "network": "mlp",
        "steps": CELL_STEPS,
        "parameters": tutorial["parameters"] | {"network": "mlp"},
    }
    gpt = {"name": GPT_NAME, "network": "gpt", "steps": GPT_STEPS, "parameters": GPT, "logits": True}
    return [TUTORIAL[SHARDED], OTHERS["tensor_parallel_on_four"], *cells, built_in, gpt]
