"""References: what a user names, read once and a value from then on.

Rule: `parse_reference` is the only reader of a URL that a user typed; the rest of the code takes a Reference. The path
of a cache hit imports the key's function alone (loom.core.keys): this module would cost it too much.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loom.core import schemes
from loom.core.file_names import file_name, last_part
from loom.core.keys import stable_url, text_key
from loom.core.names import model_of
from loom.core.revisions import IMMUTABLE, MOVING, revision_of
from loom.core.urls import Url, parse_url, redact
from loom.errors import UsageError

if TYPE_CHECKING:
    from loom.core.urls import Endpoint


@dataclass(frozen=True)
class Reference:
    """One object at an origin, whichever version of it stands there at the time.

    url: where it is asked for, with all its secrets: for requests alone.
    stable: the URL as it stays when it is signed anew: no user info, signature or fragment.
    key: the SHA-256 of `stable`, 64 hex digits: what cache, journal and peers know it by.
    shown: the URL for people and records: user info dropped, query values blanked.
    name: the file's name as the URL tells it; "" when it tells none: then the origin's answer decides.
    last_name: what the file is called when the answer tells no name either.
    revision: whether what it names can change, by the URL alone: one of loom.core.revisions.
    """

    url: Url = field(repr=False)
    stable: str = field(repr=False)
    key: str
    shown: str
    name: str
    last_name: str
    revision: str

    @property
    def endpoint(self) -> Endpoint:
        """Scheme, host and port of the origin."""
        return self.url.endpoint

    @property
    def best_name(self) -> str:
        """The file's name by the URL alone."""
        return self.name or self.last_name

    @property
    def is_immutable(self) -> bool:
        """Whether the URL names a commit, a digest or one version: what it leads to never changes."""
        return self.revision == IMMUTABLE

    @property
    def is_moving(self) -> bool:
        """Whether the URL names a branch, a tag or what is the latest."""
        return self.revision == MOVING

    @property
    def model(self) -> str:
        """What a control plane calls it, unless the user says otherwise."""
        return model_of(self.stable, self.key)

    @property
    def holds_secret(self) -> bool:
        """Whether the URL itself may be a credential: user info, a signature, a value that is not plainly harmless."""
        return self.url.holds_secret


def parse_reference(text: str) -> Reference:
    """Read what a user typed. Raises UsageError on anything that cannot be asked for, never quoting a secret."""
    if not text.strip():
        raise UsageError("the URL is empty", "is a variable unset? write loom fetch https://host/path/model.gguf")
    url, stable = parse_url(text, schemes.SCHEMES), stable_url(text)
    names = file_name(text), last_part(text) or "download"
    return Reference(url, stable, text_key(stable), redact(text), *names, revision_of(text))
