"""What the parameter `hugging_face_export` names: the mapping that comes with Shardline, or a file."""

from __future__ import annotations

BUILT_IN = "built-in"
"""The mapping of the network gpt."""


def check_export_mapping(named: str | None, network: str | None) -> None:
    """`ValueError` where the mapping that comes with Shardline is asked for another network than it is for.

    `network` is None where it is not one of Shardline's.
    """
    if named == BUILT_IN and network != "gpt":
        raise ValueError(
            f"hugging_face_export '{BUILT_IN}' is for network 'gpt': give the path of a mapping file, or leave it out"
        )
