"""Where the files of a data set are downloaded from."""

from __future__ import annotations

from typing import NamedTuple


class Source(NamedTuple):
    """Files of a public repository, for `tools.download`.

    Attributes:
      repository: owner/name.
      files: patterns of the paths wanted.
      revision: commit, or how its name begins; "" for the newest.
      root: beginning of the paths that is left out below `folder`.
      folder: below the folder of all sets; the name of the set unless given.
      host: "hub" (of Hugging Face) or "github".
    """

    repository: str
    files: tuple[str, ...]
    revision: str = ""
    root: str = ""
    folder: str = ""
    host: str = "hub"
