"""Download and upload networks of the Hugging Face hub with its own client (extra 'hub'). No file is run."""

import functools
import pathlib
from collections.abc import Sequence

from gz_jax.runtime.errors import UserError

HUB, CONFIG, FILES = "hf-hub:", "config.json", ("model.safetensors", "pytorch_model.bin")


def fetch(source: str) -> pathlib.Path:
    """The folder in the hub's cache with config.json and weights of 'hf-hub:owner/name@revision'.

    Raises:
      UserError: they cannot be fetched.
    """
    name, _, revision = source.removeprefix(HUB).partition("@")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError
    except ImportError as error:
        raise UserError(f"fetching {source!r} needs huggingface_hub: pip install 'gz_jax[hub]'") from error
    get = functools.partial(hf_hub_download, name, library_name="gz_jax")
    problem: Exception | None = None
    try:
        folder = pathlib.Path(get(CONFIG, revision=revision or None)).parent  # named after the commit
        for file in FILES:
            try:
                return pathlib.Path(get(file, revision=folder.name)).parent
            except EntryNotFoundError as error:  # or there is no network, and it is not in the cache
                problem = error
    except Exception as error:  # of names, HTTP, the network and files, which share no base class
        problem = error
    raise UserError(
        f"cannot fetch {CONFIG} and {' or '.join(FILES)} of {source!r} ({_reason(problem)}). The form is "
        f"{HUB}owner/name or {HUB}owner/name@revision. A folder of files downloaded elsewhere does as well."
    ) from problem


def check(name: str) -> None:
    """Check the name of a repository, before anything is written or sent.

    Raises:
      UserError: `name` is no 'owner/name', or the hub's client is not installed.
    """
    try:
        from huggingface_hub.utils import validate_repo_id
    except ImportError as error:
        raise UserError(f"--hub={name} needs huggingface_hub: pip install 'gz_jax[hub]'") from error
    plain = name.removeprefix(HUB)
    try:
        if plain.count("/") != 1 or "@" in plain:
            raise ValueError
        validate_repo_id(plain)
    except ValueError as error:
        raise UserError(f"--hub={name}: a repository of the hub is called owner/name.") from error


def send(name: str, folder: pathlib.Path, files: Sequence[str], message: str) -> str:
    """Files of a folder as one commit to the repository 'owner/name', made if there is none (and then public).

    Returns:
      The commit's address.

    Raises:
      UserError: they cannot be sent; after a refused commit, nothing of it is in the repository.
    """
    from huggingface_hub import HfApi

    plain = name.removeprefix(HUB)
    try:
        api = HfApi(library_name="gz_jax")
        api.create_repo(plain, exist_ok=True)
        commit = api.upload_folder(
            repo_id=plain, folder_path=folder, allow_patterns=list(files), commit_message=message
        )
    except Exception as error:  # of names, HTTP, the network and files, which share no base class
        raise UserError(
            f"{folder} is written and cannot be sent to {plain} ({_reason(error)}). Is there a token that may write "
            "(hf auth login, or HF_TOKEN)? The same command tries again."
        ) from error
    return str(commit.commit_url)


def _reason(problem: Exception | None) -> str:
    return " ".join(f"{type(problem).__name__}: {problem}".split())[:300]
