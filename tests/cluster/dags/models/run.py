"""Stands for a tool such as dbt: it runs the project's queries, and leaves a JSON file."""

import json
import os
import pathlib
import sqlite3
import sys

folder = pathlib.Path(__file__).parent
for query in sorted(folder.glob(sys.argv[1])):
    rows = [row[0] for row in sqlite3.connect(":memory:").execute(query.read_text())]
    print(query.name, rows)
    pathlib.Path(os.environ["K8S_VENV_RESULT"]).write_text(json.dumps({"rows": rows, "day": os.environ["DAY"]}))
if "fail" in sys.argv:
    sys.exit(3)
