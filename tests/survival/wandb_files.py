"""What a W&B offline file holds, read without W&B's server.

A .wandb file is a LevelDB log (blocks of 32 KiB; a chunk is a checksum, a length, a kind:
1 whole, 2 first, 3 middle, 4 last) after a header of 7 bytes.
"""

import json
import struct
from pathlib import Path
from typing import Any

HEADER, BLOCK, CHUNK = 7, 32768, 7
WHOLE, LAST = 1, 4


def read_records(path: Path) -> list:
    """The whole records of a file; a kill may have torn the last one."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore

    data, position, parts, records = path.read_bytes(), HEADER, b"", []
    if not data:
        return []
    assert data[:4] == b":W&B"
    while position + CHUNK <= len(data):
        room = BLOCK - position % BLOCK
        if room < CHUNK:
            position += room
            continue
        _, size, kind = struct.unpack_from("<IHB", data, position)
        start = position + CHUNK
        if start + size > len(data):
            break
        parts += data[start : start + size]
        position = start + size
        if kind in (WHOLE, LAST):
            record = Record()
            record.ParseFromString(parts)
            records.append(record)
            parts = b""
    return records


def key_of(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


def history(path: Path) -> list[dict[str, Any]]:
    """Every logged row of a file, in order: key -> value, W&B's own keys included."""
    return [
        {key_of(item): json.loads(item.value_json) for item in record.history.item}
        for record in read_records(path)
        if record.WhichOneof("record_type") == "history"
    ]
