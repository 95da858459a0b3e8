"""The log of a run: one JSON object a line, one line an epoch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class JsonLog:
    """``log.jsonl``: append a record an epoch; what a resumed run will do again is dropped first."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def append(self, record: dict[str, Any]) -> None:
        """Write one record and hand it to the operating system."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def records(self) -> list[dict[str, Any]]:
        """All whole records; a last line that a killed run left unfinished is no record."""
        if not self.path.exists():
            return []
        records = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return records

    def keep(self, epochs: int) -> None:
        """Drop the records after the first ``epochs`` epochs."""
        kept = [record for record in self.records() if record["epoch"] <= epochs]
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        os.replace(partial, self.path)
