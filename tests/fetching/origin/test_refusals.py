"""Error replies: what the store or the hub says decides the exit code and the words."""

from __future__ import annotations

import json

import pytest

from loom.errors import AccessDenied, NotFound, OriginError, OriginThrottled
from tests.fetching.kit.getter import SECRET, SIZE
from tests.origins.deliveries import dribbles, stalls
from tests.origins.fault import after, first
from tests.origins.replies import Signed, answers, ends_by_closing, says, sends_chunked
from tests.origins.things import Thing, seeded

DATA = seeded(SIZE)
THING = Thing(DATA)


def xml(code: str, message: str = "", more: str = "") -> bytes:
    """Return an error document as S3 writes it."""
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>".encode()


CASES = {
    "no bucket": (404, (), xml("NoSuchBucket"), NotFound, "bucket that does not exist", "bucket's name"),
    "no key": (404, (), xml("NoSuchKey"), NotFound, "does not exist", "key"),
    "expired, 400": (400, (), xml("ExpiredToken"), AccessDenied, "has expired", "new one"),
    "expired, rclone": (400, (), xml("AccessDenied", "Request has expired"), AccessDenied, "has expired", "new one"),
    "expired, S3": (403, (), xml("AccessDenied", "Request has expired"), AccessDenied, "has expired", "new one"),
    "expired, Azure": (403, (), xml("AuthenticationFailed", "", "<AuthenticationErrorDetail>Signature not valid in the "
                       "specified time frame</AuthenticationErrorDetail>"), AccessDenied, "has expired", "new one"),
    "expired, token": (401, (("X-Error-Message", "It is expired"),), b"", AccessDenied, "a token that has", "new one"),
    "clocks": (403, (), xml("RequestTimeTooSkewed"), AccessDenied, "clocks differ", "NTP"),
    "signature": (403, (), xml("SignatureDoesNotMatch"), AccessDenied, "denies access", "in quotes"),
    "archived": (403, (), xml("InvalidObjectState"), OriginError, "is archived", "restore"),
    "archived, Azure": (409, (("x-ms-error-code", "BlobArchived"),), b"", OriginError, "is archived", "restore"),
    "region": (301, (("x-amz-bucket-region", "eu-west-1"),), xml("PermanentRedirect"), OriginError,
               "another region, eu-west-1", "eu-west-1"),
    "region, 400": (400, (), xml("AuthorizationHeaderMalformed", "", "<Region>us-west-2</Region>"), OriginError,
                    "another region, us-west-2", "us-west-2"),
    "hub, repository": (401, (("X-Error-Code", "RepoNotFound"),), b"", NotFound, "does not exist", "--token"),
    "hub, gated": (403, (("X-Error-Code", "GatedRepo"),), b"", AccessDenied, "gated", "accept its terms"),
    "hub, revision": (404, (("X-Error-Code", "RevisionNotFound"),), b"", NotFound, "revision", "branch"),
    "hub, file": (404, (("X-Error-Code", "EntryNotFound"),), b"", NotFound, "no file of that", "file's name"),
    "Google": (403, (), b'{"error":{"message":"No list access","errors":[{"reason":"forbidden"}]}}', AccessDenied,
               "forbidden: No list access", "--token"),
    "unknown": (409, (), xml("Surprise", "Try the other door."), OriginError, "Surprise: Try the other door", "check"),
    "busy": (400, (), xml("SlowDown"), OriginThrottled, "throttling", "--workers"),
}  # fmt: skip


@pytest.mark.parametrize("framing", [None, sends_chunked, ends_by_closing], ids=["length", "chunked", "closed"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_a_refusal_says(origin, getter, case, framing):
    """The code decides class, words and hint, whatever the status and however the body is framed."""
    status, fields, body, kind, words, hint = case
    faults = [answers(status, *fields, body=body), *([framing] if framing else [])]
    error = getter.wrong(origin.put("/m", THING, *faults), kind, retries=0, timeout_s=5.0)
    assert words in str(error)
    assert hint in error.hint
    assert getter.left_behind() == ""


def test_no_secret_comes_back(origin, getter):
    """What the request carries is not repeated by the error, though the origin repeats all of it."""

    def parrots(exchange) -> None:
        told = f"no {exchange.request.head.fields['authorization']} {exchange.request.query} please"
        answers(403, body=json.dumps({"error": told}).encode())(exchange)

    error = getter.wrong(origin.put("/m", THING, parrots) + f"?key=k{SECRET}", AccessDenied, token=f"t{SECRET}")
    assert "***" in str(error)
    assert SECRET not in str(error) + error.hint


@pytest.mark.parametrize("delivery", [dribbles(0.05), stalls(10)], ids=["dribbles", "stalls"])
def test_a_body_that_does_not_come(origin, getter, delivery):
    """An error whose body is withheld is told by its status, and soon."""
    error = getter.wrong(origin.put("/m", THING, answers(404, body=xml("NoSuchKey") * 50), delivery), NotFound)
    assert "(404" in str(error)


def test_a_signature_that_expires_under_400(origin, other_origin, getter):
    """A redirect's target whose expiry is told by 400 is signed anew, as one that is told by 403 is."""
    signed = Signed(other_origin.url("/blob"), uses=3)

    def checks(exchange) -> None:
        signed.checks(exchange)
        if exchange.reply.status == 403:
            answers(400, body=xml("AccessDenied", "Request has expired"))(exchange)

    other_origin.put("/blob", THING, checks)
    getter.right(origin.put("/m", THING, signed.signs), DATA)
    assert signed.handed_out == 2


def test_throttled_by_code(origin, getter):
    """A store that says SlowDown under another status is throttling: it is asked again."""
    receipt = getter.right(origin.put("/m", THING, first(2, answers(400, body=xml("RequestTimeout")))), DATA)
    assert receipt.retries == 2
    getter.right(origin.put("/m", THING, first(1, answers(403, body=xml("SlowDown")))), DATA)


def test_a_signed_url_that_expires_midway(origin, getter):
    """A signed URL of the user's own that expires midway ends the fetch with what it is, and what came is kept."""
    url = origin.put("/m", THING, after(2, answers(400, body=xml("ExpiredToken"))))
    error = getter.wrong(url + "?X-Amz-Signature=1", AccessDenied)
    assert "has expired" in str(error)
    assert getter.right(origin.put("/m", THING, says("X-Now", "1")) + "?X-Amz-Signature=2", DATA).resumed > 0
