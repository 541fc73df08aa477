"""The project file: the environments that it names, and how values travel.

What needs no look into a file stands here, so that help texts do without pydantic.
"""

from typing import Literal

FILE = "k8s-venv.toml"
PROJECT_VARIABLE = "K8S_VENV_PROJECT"

BackendName = Literal["kubernetes", "docker", "local"]

# Where a lock's packages can be installed; those of Linux are also what an image is made for.
PLATFORMS = ("linux/amd64", "linux/arm64", "macos/amd64", "macos/arm64")
# The machine's name in platforms, by what Linux calls it.
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
