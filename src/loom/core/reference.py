"""References: the URL that a user gives, or the name on a hub, parsed once.

Rule: `parse_reference` is the only reader of what a user typed; the rest of the code takes a Reference. The path
of a cache hit imports the key's function alone (loom.core.keys): this module would cost it too much.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import quote

from loom.core import schemes
from loom.core.file_names import file_name, last_part, safe_name
from loom.core.hub import HubName, is_hub_text, parse_hub, parse_page
from loom.core.keys import stable_url, text_key
from loom.core.names import model_of
from loom.core.revisions import IMMUTABLE, MOVING, revision_of
from loom.core.urls import Endpoint, Url, parse_url, redact
from loom.errors import UsageError


@dataclass(frozen=True)
class Reference:
    """One object at an origin, in whichever version.

    url: the URL for requests, with all its secrets. Use it for nothing else. Of a hub's it is for messages alone.
    stable: the part of the URL that a new signature does not change: without user info, signature and fragment.
    key: the SHA-256 of `stable`, 64 hex digits. Cache, journal and peers use it.
    shown: the URL for people and records: user info dropped, query values blanked.
    name: the file's name in the URL; "" when it has none: then the origin's reply decides.
    last_name: the file's name if the reply has none either.
    revision: whether the object can change, judged by the URL: one of loom.core.revisions.
    hub: what it names on a hub; None for a URL.
    """

    url: Url = field(repr=False)
    stable: str = field(repr=False)
    key: str
    shown: str
    name: str
    last_name: str
    revision: str
    hub: HubName | None = None

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
        """True when the URL names a commit, a digest or one version: its object never changes."""
        return self.revision == IMMUTABLE

    @property
    def is_moving(self) -> bool:
        """True when the URL names a branch, a tag or the latest version."""
        return self.revision == MOVING

    @property
    def model(self) -> str:
        """Name of the model at a control plane, unless the user gives another."""
        return model_of(self.stable, self.key)

    @property
    def holds_secret(self) -> bool:
        """True when the URL may be a credential: it has user info, a signature, or an unknown query parameter."""
        return self.url.holds_secret


def parse_reference(text: str, mirror: str = "") -> Reference:
    """Parse a URL or a hub's name that a user typed, or the address of a hub's page.

    mirror: host and port of another hub than the public one, whose pages count as well. Raises UsageError, which quotes
    no secret, when no request can be made from it.
    """
    if not text.strip():
        raise UsageError("the URL is empty", "is a variable unset? write loom fetch https://host/path/model.gguf")
    if is_hub_text(text):
        return hub_reference(parse_hub(text))
    url, stable = parse_url(text, schemes.SCHEMES), stable_url(text)
    if (page := parse_page(text, mirror)) is not None:
        return hub_reference(page)
    names = file_name(text), last_part(text) or "download"
    return Reference(url, stable, text_key(stable), redact(text), *names, revision_of(text))


def hub_reference(hub: HubName) -> Reference:
    """Return the reference of a hub's name. Its key follows from repository, revision and path, not from the host."""
    text, name = str(hub), safe_name(hub.last)
    host = hub.repository.partition("/")[0]
    target = "/" + quote(text.removeprefix(f"hf://{host}/"), safe="/:@!$&'()*+,;=~-._%")
    url = Url(Endpoint("hf", host, 0), target)
    return Reference(url, text, text_key(text), text, name, name, IMMUTABLE if hub.is_pinned else MOVING, hub)
