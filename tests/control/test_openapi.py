"""The OpenAPI document is held against the running server: all that schemathesis can think of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import load_all_checks
from schemathesis.config import SchemathesisConfig

from loom import __version__
from tests.control.plane import Plane, head, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from schemathesis.schemas import BaseSchema

OPERATIONS = ("POST /register", "DELETE /register", "POST /heartbeat", "GET /locate/{model}", "GET /nodes",
              "GET /nodes/{node}", "GET /models", "GET /failures", "GET /healthz", "GET /readyz",
              "GET /metrics")  # fmt: skip
"""All but GET /events, which does not end."""


load_all_checks()
LEFT_OUT = ("positive_data_acceptance",)
"""Names that are printable and stand for themselves are not all that the schema lets pass: they may be refused, too."""


def bounded(examples: int) -> settings:
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def plane(tmp_path_factory) -> Iterator[Plane]:
    """A control plane that knows a node and a model."""
    with running(tmp_path_factory.mktemp("plane")) as one:
        one.post("/register", node="node1", model="llama-2-7b", address="127.0.0.1:3001", zone="z", size=1)
        one.post(
            "/heartbeat", node="node2", ttl_s=86400, inventory=[{"model": "0"}, {"model": "a/b", "state": "partial"}]
        )
        yield one


@pytest.fixture(scope="module")
def schema(plane) -> BaseSchema:
    """Return the document, as schemathesis reads it."""
    return schemathesis.openapi.from_url(f"{plane.url}/openapi.json", config=SchemathesisConfig())


def operations_of(schema: BaseSchema) -> dict[str, schemathesis.schemas.APIOperation]:
    found = [result.ok() for result in schema.get_all_operations()]
    return {operation.label: operation for operation in found}


def checks() -> list:
    return [check for check in schemathesis.checks.CHECKS.get_all() if check.__name__ not in LEFT_OUT]


def test_all_operations_are_held_against_the_server(schema) -> None:
    """An operation that is new is tested, too."""
    assert sorted(operations_of(schema)) == sorted((*OPERATIONS, "GET /events"))


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("label", OPERATIONS)
def test_the_server_does_as_the_document_says(schema, label, mode) -> None:
    """Statuses, bodies and types are those of the document, what is not as it says is refused, and nothing is a 500."""
    operation = operations_of(schema)[label]
    if mode is schemathesis.GenerationMode.NEGATIVE and not can_be_wrong(label):
        pytest.skip("it takes nothing that could be wrong, but for a name too long, which is a rare find")

    @bounded(15)
    @given(case=operation.as_strategy(generation_mode=mode))
    def hold(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=checks())

    hold()


def can_be_wrong(label: str) -> bool:
    return label not in ("GET /failures", "GET /healthz", "GET /readyz", "GET /metrics", "GET /nodes/{node}")


@pytest.mark.parametrize(
    ("path", "name", "most"),
    [("/locate/m", "zone", 128), ("/locate/m", "node", 253), ("/nodes", "after", 1024), ("/nodes", "search", 1024),
     ("/models", "after", 1024), ("/models", "search", 1024), ("/events", "search", 1024)],
)  # fmt: skip
def test_a_query_longer_than_the_document_says_is_refused(plane, path, name, most) -> None:
    """The document's maxLength is the server's."""
    with plane.open(head(f"{path}?{name}={'x' * (most + 1)}")) as one:
        assert one.recv(12) == b"HTTP/1.1 400"


def test_the_document(plane) -> None:
    """It says which version it is of, what is open to all, and describes what errors look like."""
    document = plane.get("/openapi.json")
    assert document["openapi"].startswith("3.1")
    assert document["info"]["version"] == __version__
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"]
            is_open = path in ("/healthz", "/readyz")
            assert ("401" in operation["responses"]) != is_open
    error = document["components"]["schemas"]["ErrorFacts"]
    assert set(error["required"]) == {"code", "message", "hint"}


def test_a_plane_with_a_token_does_as_the_document_says(tmp_path) -> None:
    """Without the token every guarded operation answers 401 in the documented form; with it as without one."""
    with running(tmp_path, token="t0ken") as locked:
        found = schemathesis.openapi.from_url(f"{locked.url}/openapi.json", config=SchemathesisConfig())
        for label, operation in operations_of(found).items():
            if label == "GET /events":
                continue

            @bounded(5)
            @given(case=operation.as_strategy())
            def hold(case: schemathesis.Case) -> None:
                case.call_and_validate(checks=checks())
                case.call_and_validate(checks=checks(), headers=dict(locked.headers))

            hold()
