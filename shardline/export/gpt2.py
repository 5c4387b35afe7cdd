"""The built-in mapping: networks of the recipe `gpt` are GPT-2 with a head of its own.

What `transformers` computes in GPT2LMHeadModel is what `shardline.recipes.transformer` declares: LayerNorm before each
half of a block (epsilon 1e-5), one matrix for query, key and value (Conv1D, [inputs, outputs], which is how ours lie,
side by side), scores divided by √(size of a head), GELU by tanh (`gelu_new`; MindSpore's primitive GeLU), learned
positions. The head is a Linear, [outputs, inputs], not tied to the embedding of tokens. Tokens are bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shardline.export.mapping import NameMapping, Rule
from shardline.settings.run_config import RunConfig

VOCABULARY = 256
_STATES = (
    *("moment1.*", "moment2.*", "moments.*", "accum.*", "stat.*"),
    *("beta1_power", "beta2_power", "global_step", "learning_rate", "momentum"),
)
"""What MindSpore's optimizers save beside the weights."""


def gpt2_mapping(config: RunConfig, dtype: str) -> NameMapping:
    """The mapping for the network that `config` describes, whose weights are of the type `dtype`."""
    return NameMapping(
        name="the built-in mapping for gpt",
        rules=tuple(_rules(config)),
        leave_out=_STATES,
        config=_config(config, dtype),
    )


def _config(config: RunConfig, dtype: str) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": VOCABULARY,
        "n_positions": config.sequence_length,
        "n_embd": config.hidden_size,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": 4 * config.hidden_size,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "tie_word_embeddings": False,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "bos_token_id": None,
        "eos_token_id": None,
        "torch_dtype": dtype,
    }


def _rules(config: RunConfig) -> Iterator[Rule]:
    hidden = config.hidden_size
    yield _renamed("embedding.tokens", "transformer.wte.weight", (VOCABULARY, hidden))
    yield _renamed("embedding.positions", "transformer.wpe.weight", (config.sequence_length, hidden))
    for number in range(config.layers):  # no placeholder: so many blocks there are, no more and no fewer
        yield from _block(f"block{number + 1}", f"transformer.h.{number}", hidden)
    yield from _layer_norm("norm", "transformer.ln_f", hidden)
    yield Rule(
        sources=("head.weight",),
        transpose=True,
        targets=("lm_head.weight",),
        shape=(VOCABULARY, hidden),
        where="gpt2, lm_head.weight",
    )


def _block(ours: str, theirs: str, hidden: int) -> Iterator[Rule]:
    inner = 4 * hidden
    for number in (1, 2):
        yield from _layer_norm(f"{ours}.norm{number}", f"{theirs}.ln_{number}", hidden)
    for part, axis, shape in (("weight", 1, (hidden, 3 * hidden)), ("bias", 0, (3 * hidden,))):
        yield Rule(
            sources=tuple(f"{ours}.attention.{name}.{part}" for name in ("query", "key", "value")),
            join=axis,
            targets=(f"{theirs}.attn.c_attn.{part}",),
            shape=shape,
            where=f"gpt2, {theirs}.attn.c_attn.{part}",
        )
    yield from _dense(f"{ours}.attention.output", f"{theirs}.attn.c_proj", hidden, hidden)
    yield from _dense(f"{ours}.up", f"{theirs}.mlp.c_fc", hidden, inner)
    yield from _dense(f"{ours}.down", f"{theirs}.mlp.c_proj", inner, hidden)


def _dense(ours: str, theirs: str, inputs: int, outputs: int) -> Iterator[Rule]:
    yield _renamed(f"{ours}.weight", f"{theirs}.weight", (inputs, outputs))
    yield _renamed(f"{ours}.bias", f"{theirs}.bias", (outputs,))


def _layer_norm(ours: str, theirs: str, hidden: int) -> Iterator[Rule]:
    yield _renamed(f"{ours}.gamma", f"{theirs}.weight", (hidden,))
    yield _renamed(f"{ours}.beta", f"{theirs}.bias", (hidden,))


def _renamed(ours: str, theirs: str, shape: tuple[int, ...]) -> Rule:
    return Rule(sources=(ours,), targets=(theirs,), shape=shape, where=f"gpt2, {theirs}")
