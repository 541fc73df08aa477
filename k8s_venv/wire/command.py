"""A program as a task's work, run inside its environment."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

_RESULT = "K8S_VENV_RESULT"


def run_command(command: List[str], env: Dict[str, str], cwd: Optional[str]) -> Any:
    """Run a program, print what it prints, and return what it leaves.

    Args:
        command: the program and its arguments.
        env: variables for it, besides those of this process.
        cwd: its working folder, relative to that of the data files.

    Returns:
        The JSON value in the file that the variable ``K8S_VENV_RESULT`` names, if the program wrote one, else the last
        line that it printed.

    Raises:
        SystemExit: it ended with another exit code than 0, as a shell counts them.
    """
    import signal
    import subprocess
    import sysconfig
    import tempfile

    files = os.environ["K8S_VENV_FILES"]
    os.makedirs(files, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        result = os.path.join(folder, "result.json")
        path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
        variables = {**os.environ, "PATH": path, _RESULT: result, **env}
        try:
            program = subprocess.Popen(
                command,
                cwd=os.path.join(files, cwd or ""),
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            print(f"{error.filename}: {error.strerror}", file=sys.stderr)
            raise SystemExit(127 if isinstance(error, FileNotFoundError) else 126) from None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _: program.send_signal(received))
        last = _shown(program)
        code = program.wait()
        if code:
            raise SystemExit(code if code > 0 else 128 - code)
        if not os.path.exists(result):
            return last
        import json

        with open(result, encoding="utf-8") as stream:
            return json.load(stream)


def _shown(program: Any) -> str:
    """Print the lines of a program while it runs, and return the last one."""
    last = ""
    for line in program.stdout:
        last = line.decode("utf-8", errors="replace").rstrip("\r\n")
        print(last, flush=True)
    return last
