"""How many cards a host shows, from device files and variables."""

import pytest

from shardline.base.errors import ConfigError, LaunchError
from shardline.launch import visible_cards


@pytest.fixture
def devices(tmp_path):
    """`/dev` of a host with 8 Ascend cards and 2 GPUs, and the drivers' other files."""
    others = ["davinci_manager", "devmm_svm", "hisi_hdc", "nvidiactl", "nvidia-uvm", "nvidia-modeset", "null"]
    for name in [*(f"davinci{card}" for card in range(8)), "nvidia0", "nvidia1", *others]:
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("target", "world_size", "environment"),
    [
        ("CPU", 4096, {}),
        ("Ascend", 8, {}),
        ("Ascend", 4, {"ASCEND_RT_VISIBLE_DEVICES": "4-7"}),
        ("Ascend", 5, {"ASCEND_RT_VISIBLE_DEVICES": "0, 2,5-7"}),
        ("Ascend", 8, {"CUDA_VISIBLE_DEVICES": "0"}),
        ("GPU", 2, {}),
        ("GPU", 1, {"CUDA_VISIBLE_DEVICES": "GPU-8f3a2c11-aaaa-bbbb-cccc-121212121212"}),
    ],
)
def test_enough_cards(devices, target, world_size, environment):
    visible_cards.check(target, world_size, environment, devices)


@pytest.mark.parametrize(
    ("target", "world_size", "environment", "message"),
    [
        ("Ascend", 9, {}, "this host has 8 cards, 8 of them visible; ask for at most 8"),
        ("Ascend", 4, {"ASCEND_RT_VISIBLE_DEVICES": "0-2"}, r"3 of them visible \(ASCEND_RT_VISIBLE_DEVICES=0-2\)"),
        ("GPU", 2, {"CUDA_VISIBLE_DEVICES": "0,-1,1"}, r"1 of them visible \(CUDA_VISIBLE_DEVICES=0,-1,1\)"),
        ("GPU", 1, {"CUDA_VISIBLE_DEVICES": ""}, r"0 of them visible \(CUDA_VISIBLE_DEVICES=\)"),
    ],
)
def test_more_ranks_than_visible_cards(devices, target, world_size, environment, message):
    with pytest.raises(ConfigError, match=f"^world_size {world_size} with device_target {target}: .*{message}"):
        visible_cards.check(target, world_size, environment, devices)


def test_a_rank_table_is_refused_beside_mpirun(devices):
    with pytest.raises(LaunchError, match=r"RANK_TABLE_FILE=/etc/ranks\.json is set, .* unset it"):
        visible_cards.check("Ascend", 8, {"RANK_TABLE_FILE": "/etc/ranks.json"}, devices)
    visible_cards.check("GPU", 2, {"RANK_TABLE_FILE": "/etc/ranks.json"}, devices)


@pytest.mark.parametrize(
    ("target", "leased", "ranks", "environment", "selected"),
    [
        ("CPU", (0, 1), 2, {}, {}),
        ("GPU", (), 0, {}, {}),
        ("GPU", (2, 3), 2, {}, {"CUDA_VISIBLE_DEVICES": "2,3"}),
        ("Ascend", (0, 1), 2, {}, {"ASCEND_RT_VISIBLE_DEVICES": "0,1"}),
        ("Ascend", (1, 2), 2, {"ASCEND_RT_VISIBLE_DEVICES": "4-7"}, {"ASCEND_RT_VISIBLE_DEVICES": "5,6"}),
        ("GPU", (0,), 1, {"CUDA_VISIBLE_DEVICES": "GPU-8f3a,GPU-77b1"}, {"CUDA_VISIBLE_DEVICES": "GPU-8f3a"}),
    ],
)
def test_ranks_see_the_cards_that_are_leased_to_their_launch(target, leased, ranks, environment, selected):
    assert visible_cards.selection(target, leased, ranks, environment) == selected


@pytest.mark.parametrize(
    ("leased", "environment", "found"),
    [
        ((0, 1), {}, "found cards 0, 1$"),
        ((4, 5, 6), {"CUDA_VISIBLE_DEVICES": "0-3"}, "found cards 4, 5, 6 of CUDA_VISIBLE_DEVICES=0-3"),
    ],
)
def test_fewer_cards_than_ranks_are_refused(leased, environment, found):
    with pytest.raises(ConfigError, match=f"^3 ranks of this host on GPU need a card each; .*{found}"):
        visible_cards.selection("GPU", leased, 3, environment)


@pytest.mark.parametrize(("target", "shown_by"), [("GPU", "nvidia-smi"), ("Ascend", "npu-smi info")])
def test_a_host_without_cards(tmp_path, target, shown_by):
    with pytest.raises(LaunchError, match=f"^device_target {target}: this host shows no card .*`{shown_by}`"):
        visible_cards.check(target, 1, {}, tmp_path)
