"""What error replies say: codes and messages of stores and hubs, and nothing that must not be shown."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.core.refusals import Kind, Refusal, parse_refusal

XML = '<?xml version="1.0"?>\n<Error><Code>{}</Code><Message>{}</Message>{}<RequestId>4442587FB7D0</RequestId></Error>'
SECRET = "s1gnature-secret"


@pytest.mark.parametrize(
    ("fields", "body", "code", "message"),
    [
        ({}, XML.format("NoSuchBucket", "The bucket does not exist", ""), "NoSuchBucket", "The bucket does not exist"),
        ({}, XML.format("AccessDenied", "a &lt;b&gt; &amp;amp; c.", ""), "AccessDenied", "a <b> &amp; c"),
        ({}, "\ufeff" + XML.format("BlobNotFound", "Not there.\nTime:2", ""), "BlobNotFound", "Not there"),
        ({"x-ms-error-code": "BlobArchived"}, "", "BlobArchived", ""),
        ({"x-error-code": "GatedRepo", "x-error-message": "Ask for access."}, "", "GatedRepo", "Ask for access"),
        ({"x-error-code": "RepoNotFound"}, '{"error":"Repository not found"}', "RepoNotFound", "Repository not found"),
        ({}, '{"error":{"code":403,"message":"No.","errors":[{"reason":"forbidden"}]}}', "forbidden", "No"),
        ({}, '{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED"}}', "RESOURCE_EXHAUSTED", "m"),
        ({}, '{"errors":[{"code":"UNAUTHORIZED","message":"log in"}]}', "UNAUTHORIZED", "log in"),
        ({}, '{"errors":["no"]}', "", "no"),
        ({}, '{"Code":404,"Message":"gone"}', "", "gone"),
        ({}, '{"detail":"Not Found"}', "", "Not Found"),
        ({}, '{"error":"invalid_request","message":"no"}', "", "no"),
    ],
)  # fmt: skip
def test_who_says_what(fields, body, code, message) -> None:
    """S3's XML, Azure's and the hub's fields, JSON of Google, registries and frameworks are understood."""
    assert parse_refusal(fields, body) == Refusal(code, message)


@pytest.mark.parametrize(
    ("fields", "body", "kind"),
    [
        ({}, XML.format("NoSuchKey", "m", ""), Kind.ABSENT),
        ({}, XML.format("RequestTimeTooSkewed", "m", ""), Kind.DENIED),
        ({}, XML.format("ExpiredToken", "m", ""), Kind.EXPIRED),
        ({}, XML.format("AccessDenied", "Request has expired", ""), Kind.EXPIRED),
        (
            {},
            XML.format(
                "AuthenticationFailed",
                "m",
                "<AuthenticationErrorDetail>Signature not valid in the specified "
                "time frame: Start [a] - Expiry [b]</AuthenticationErrorDetail>",
            ),
            Kind.EXPIRED,
        ),
        ({}, XML.format("AuthenticationFailed", "m", ""), Kind.DENIED),
        ({"x-error-message": "User Access Token is expired"}, "", Kind.EXPIRED),
        ({}, XML.format("InvalidObjectState", "m", ""), Kind.UNUSABLE),
        ({}, XML.format("SlowDown", "m", ""), Kind.THROTTLED),
        ({}, XML.format("RequestTimeout", "m", ""), Kind.TRANSIENT),
        ({}, XML.format("Surprise", "m", ""), Kind.UNKNOWN),
        ({}, XML.format("NoSuchKey", "the link expired", ""), Kind.ABSENT),
        ({"x-amz-bucket-region": "eu-west-1"}, XML.format("PermanentRedirect", "m", ""), Kind.UNUSABLE),
        ({"x-amz-bucket-region": "eu-west-1"}, XML.format("AccessDenied", "m", ""), Kind.DENIED),
        ({}, XML.format("AuthorizationHeaderMalformed", "m", "<Region>us-west-2</Region>"), Kind.UNUSABLE),
        ({"x-error-code": "RevisionNotFound"}, "", Kind.ABSENT),
        ({}, '{"error":{"errors":[{"reason":"rateLimitExceeded"}]}}', Kind.THROTTLED),
    ],
)
def test_what_codes_mean(fields, body, kind) -> None:
    """The code decides what kind of refusal it is; that something has expired, the message may say as well."""
    assert parse_refusal(fields, body).meaning.kind is kind


def test_a_region() -> None:
    """A bucket of another region names it, and says what to use."""
    meaning = parse_refusal({}, XML.format("AuthorizationHeaderMalformed", "m", "<Region>us-west-2</Region>")).meaning
    assert "us-west-2" in meaning.what
    assert "us-west-2" in meaning.hint


@pytest.mark.parametrize(
    "text",
    [
        f"the token {SECRET} is wrong",
        "see https://host/x?X-Amz-Signature=deadbeef for more",
        "bad key AKIAIOSFODNN7EXAMPLE1",
        "sig=Zm9vYmFyZm9vYmFyZm9vYmFyZm9v was refused",
        "hf_abcdefghijklmnopqrstuvwxyzabcdefgh",
    ],
)
def test_nothing_secret_is_shown(text) -> None:
    """What the request holds, addresses, and what has the form of a token are not repeated, whoever repeats them."""
    for body in (XML.format("Denied", text, ""), json.dumps({"error": text})):
        message = parse_refusal({}, body, [SECRET]).message
        assert "***" in message
        for part in (SECRET, "deadbeef", "AKIA", "Zm9v", "abcdefgh"):
            assert part not in message
    assert parse_refusal({"x-error-code": SECRET}, "", [SECRET]).code == ""


@pytest.mark.parametrize(
    "body",
    [
        "[" * 16_000,
        '{"error":' * 2_000,
        "<!DOCTYPE x [<!ENTITY a 'b'>]><Error><Code>&a;</Code></Error>",
        "<Code>" * 3_000,
        "<Code>" + "x" * 15_000,
        "<html><body>403</body></html>",
        "\x00\x01\xff",
        "null",
        '{"errors":[]}',
        '{"error":{"errors":[[]]}}',
        '{"code":["x"],"message":{"a":1}}',
        "<Error><Code>no code at all!</Code></Error>",
    ],
)
def test_hostile_bodies(body) -> None:
    """A body that makes no sense says nothing."""
    assert parse_refusal({}, body) == Refusal()


def test_long_and_odd_messages() -> None:
    """A message is one line, printable and short."""
    refusal = parse_refusal({"x-error-message": "a\x1b[31m b\u202e " + "no " * 500}, "")
    assert refusal.message.isprintable()
    assert len(refusal.message) <= 200


@given(st.text(max_size=300), st.text(max_size=60))
def test_anything(body, field) -> None:
    """No body and no field makes the reader fail, and what is shown is printable."""
    for text in (body, f"<Code>{body}</Code><Message>{body}</Message>", json.dumps({"error": body})):
        refusal = parse_refusal({"x-error-message": field, "x-amz-bucket-region": field}, text)
        assert refusal.describe().isprintable()
        assert refusal.meaning.kind in Kind
