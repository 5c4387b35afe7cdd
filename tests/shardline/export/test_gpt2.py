"""What the built-in mapping makes of a trained language model is GPT-2: names, shapes, and what it computes."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from shardline.base.errors import ConfigError
from shardline.base.progress import Meter
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint
from shardline.checkpoint.formats.reading import index_checkpoint
from shardline.export.export import ExportRequest, export
from shardline.export.gpt2 import gpt2_mapping
from shardline.export.mapping_file import read_mapping
from shardline.export.targets import targets_of
from shardline.settings.run_config import RunConfig
from tests.shardline.export.numpy_gpt2 import gpt2_logits

PAGE = Path(__file__).parents[3] / "docs" / "hugging-face.md"
TRAINED = RunConfig(network="gpt", layers=2, hidden_size=16, heads=2, sequence_length=16)


@pytest.fixture
def exported(home, version, tmp_path):
    export(ExportRequest(model="gpt", version=version, output=tmp_path / "out"), home, {}, Meter())
    return tmp_path / "out"


def test_gpt2_in_numpy_computes_from_it_what_the_sharded_ranks_computed(exported, home):
    recorded = np.load(home.path / "run" / "reference_logits.npz")
    config = json.loads((exported / "config.json").read_bytes())
    found = gpt2_logits(load_file(exported / "model.safetensors"), config, recorded["samples"].astype(np.int64))
    assert recorded["logits"].shape == (8, 16, 256)
    np.testing.assert_allclose(found, recorded["logits"], rtol=0, atol=2e-6 * np.abs(recorded["logits"]).max())


def test_names_shapes_and_bytes_are_those_of_gpt2(exported, version):
    weights, ours = load_file(exported / "model.safetensors"), read_checkpoint(version.model_file)
    assert {name: array.shape for name, array in weights.items() if not name.startswith("transformer.h.1.")} == {
        "transformer.wte.weight": (256, 16),
        "transformer.wpe.weight": (16, 16),
        "transformer.h.0.ln_1.weight": (16,),
        "transformer.h.0.ln_1.bias": (16,),
        "transformer.h.0.attn.c_attn.weight": (16, 48),
        "transformer.h.0.attn.c_attn.bias": (48,),
        "transformer.h.0.attn.c_proj.weight": (16, 16),
        "transformer.h.0.attn.c_proj.bias": (16,),
        "transformer.h.0.ln_2.weight": (16,),
        "transformer.h.0.ln_2.bias": (16,),
        "transformer.h.0.mlp.c_fc.weight": (16, 64),
        "transformer.h.0.mlp.c_fc.bias": (64,),
        "transformer.h.0.mlp.c_proj.weight": (64, 16),
        "transformer.h.0.mlp.c_proj.bias": (16,),
        "transformer.ln_f.weight": (16,),
        "transformer.ln_f.bias": (16,),
        "lm_head.weight": (256, 16),
    }
    parts = [ours[f"block2.attention.{part}.weight"] for part in ("query", "key", "value")]
    assert np.array_equal(weights["transformer.h.1.attn.c_attn.weight"], np.concatenate(parts, 1))
    assert np.array_equal(weights["lm_head.weight"], ours["head.weight"].T)
    assert np.array_equal(weights["transformer.h.1.mlp.c_proj.weight"], ours["block2.down.weight"])


def test_config_json_says_what_the_network_is(exported):
    config = json.loads((exported / "config.json").read_bytes())
    assert (config["architectures"], config["model_type"]) == (["GPT2LMHeadModel"], "gpt2")
    assert (config["n_layer"], config["n_embd"], config["n_head"], config["n_positions"]) == (2, 16, 2, 16)
    assert (config["n_inner"], config["vocab_size"], config["layer_norm_epsilon"]) == (64, 256, 1e-5)
    assert (config["activation_function"], config["tie_word_embeddings"]) == ("gelu_new", False)


def test_a_network_of_other_sizes_than_its_parameters_say_is_refused(version):
    headers = index_checkpoint(version.model_file).schema.headers
    mapping = gpt2_mapping(TRAINED.model_copy(update={"hidden_size": 32}), "float32")
    expected = r"gpt2, transformer.wte.weight: expected 'transformer.wte.weight' to have the shape \[256, 32\], found "
    with pytest.raises(ConfigError, match=expected + r"\[256, 16\] made of embedding.tokens \[256, 16\]"):
        targets_of(mapping, headers)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (1, "found none for block2.norm1.gamma, block2"),
        (3, "a parameter block3.norm1.gamma"),
    ],
)
def test_another_number_of_blocks_than_its_parameters_say_is_refused(version, layers, message):
    headers = index_checkpoint(version.model_file).schema.headers
    with pytest.raises(ConfigError, match=message):
        targets_of(gpt2_mapping(TRAINED.model_copy(update={"layers": layers}), "float32"), headers)


def test_the_documents_example_is_this_mapping(tmp_path, version):
    file = tmp_path / "gpt2.toml"
    file.write_text(PAGE.read_text().split("```toml\n")[1].partition("```")[0])
    headers = index_checkpoint(version.model_file).schema.headers
    documented, built_in = read_mapping(file), gpt2_mapping(TRAINED, "float32")
    by_name = [
        {target.header.name: target for target in targets_of(mapping, headers).tensors}
        for mapping in (documented, built_in)
    ]
    assert by_name[0] == by_name[1]
    assert documented.config.items() <= built_in.config.items()
