"""The environment variables that make Hugging Face libraries talk only to a test hub.

Nothing is set here: most variables are read only when huggingface_hub is imported, so the caller must set them before.
"""

from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from . import HubServer


def environment(hub: "HubServer", home: Path) -> dict[str, str]:
    """The variables for a process that uses `hub` and keeps its caches and tokens under the folder `home`."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": hub.token,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),  # a developer's own setting would override HF_HOME
        "HF_HUB_OFFLINE": "0",  # a developer may have set it to 1
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",  # it would ask PyPI
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "DISABLE_SAFETENSORS_CONVERSION": "1",
        "NO_PROXY": "127.0.0.1",  # a proxy cannot reach this loopback
        "no_proxy": "127.0.0.1",
    }
