"""The command that runs a call."""

from __future__ import annotations

# What `python call.pyz` does, without `runpy`, whose imports take as long as all else before the user's first line.
_RUN = (
    "import sys, zipimport; del sys.argv[0]; sys.path[:] = filter(None, sys.path); "
    "exec(zipimport.zipimporter(sys.argv[0]).get_code('__main__'))"
)


def runner_command(python: str, archive: str, *options: str) -> list[str]:
    """Return the command that runs an archive.

    Args:
        python: the environment's interpreter.
        archive: the archive's path there.
        options: the runner's command line.
    """
    return [python, "-c", _RUN, archive, *options]
