"""Files that are whole or not there: written under a temporary name, then renamed."""

import secrets
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary name beside `path`, then rename that file to `path`.

    A reader, or a run that is killed meanwhile, never sees half a file. Missing folders are made.
    The temporary name keeps the ending of `path`, which some writers go by.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode  # the user's umask; safetensors makes private files
        write(temporary)
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
