"""The address of a folder in an object storage, as the parameter `upload_to` has it."""

from __future__ import annotations

import re


def check_upload_address(address: str | None) -> None:
    """`ValueError`, which does not repeat what may hold a password, where `address` is none."""
    if address and (problem := _problem_of(address)):
        raise ValueError(f"upload_to: expected an address like s3://CONNECTION@BUCKET/FOLDER, {problem}")


def _problem_of(address: str) -> str | None:
    """What is wrong with the address, without repeating it; `None` where nothing is."""
    scheme, separator, rest = address.partition("://")
    host, _, folder = rest.partition("/")
    connection, has_connection, _ = host.rpartition("@")
    if not separator or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
        return "found none of a scheme: begin with s3://, gs:// or the like"
    if ":" in connection or re.search(r"[?#]", rest):
        return "found what may be credentials: put them into a connection of Airflow's, and name that"
    if has_connection and not re.fullmatch(r"[\w.-]+", connection):
        return "found @ without the name of a connection before it"
    if ".." in folder.split("/") or "::" in rest or re.search(r"\s", rest) or not rest.strip("/"):
        return "found '..', '::', a space or no bucket in it"
    return None
