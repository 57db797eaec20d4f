"""Which proxy stands in between, by the environment's conventions."""

from __future__ import annotations

import pytest

from loom.core.proxies import Proxy, choose_proxy, is_bypassed, parse_proxy
from loom.core.urls import Endpoint
from loom.errors import UsageError

HOST = Endpoint("https", "models.example.com", 443)
ADDRESS = Endpoint("http", "10.1.2.3", 8080)


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({}, None),
        ({"https_proxy": "http://p:3128"}, Proxy("p", 3128)),
        ({"HTTPS_PROXY": "p"}, Proxy("p", 80)),
        ({"HTTPS_PROXY": "https://p"}, Proxy("p", 443, scheme="https")),
        ({"HTTPS_PROXY": "https://p:8443"}, Proxy("p", 8443, scheme="https")),
        ({"https_proxy": "http://low", "HTTPS_PROXY": "http://up"}, Proxy("low", 80)),
        ({"ALL_PROXY": "http://u:a%40b@p:1"}, Proxy("p", 1, "u", "a@b")),
        ({"http_proxy": "http://p:3128"}, None),
        ({"https_proxy": "http://p", "NO_PROXY": "example.com"}, None),
        ({"https_proxy": "http://p", "no_proxy": "other", "NO_PROXY": "*"}, Proxy("p", 80)),
        ({"https_proxy": " ", "all_proxy": " p:1 "}, Proxy("p", 1)),
        ({"https_proxy": "http://[fd00::1]:3128/"}, Proxy("fd00::1", 3128)),
        ({"https_proxy": "HTTP://u@P:1"}, Proxy("p", 1, "u")),
    ],
)
def test_the_proxy_is_chosen_by_scheme(environ, proxy) -> None:
    """Lower case before upper case, the scheme's own before all_proxy, none for what is exempt."""
    assert choose_proxy(HOST, environ) == proxy


def test_a_cgi_client_cannot_set_the_proxy() -> None:
    """Inside a CGI request HTTP_PROXY could be a client's `Proxy:` header."""
    environ = {"HTTP_PROXY": "http://evil", "REQUEST_METHOD": "GET"}
    assert choose_proxy(ADDRESS, environ) is None
    assert choose_proxy(ADDRESS, {**environ, "http_proxy": "http://good"}) == Proxy("good", 80)


@pytest.mark.parametrize(
    ("endpoint", "no_proxy", "exempt"),
    [
        (HOST, "*", True),
        (HOST, "example.com", True),
        (HOST, ".example.com", True),
        (HOST, "*.example.com", True),
        (HOST, "ample.com", False),
        (HOST, "models.example.com:443", True),
        (HOST, "models.example.com:80", False),
        (HOST, " other , Models.Example.com ", True),
        (ADDRESS, "10.0.0.0/8", True),
        (ADDRESS, "10.1.2.3", True),
        (ADDRESS, "192.168.0.0/16", False),
        (Endpoint("http", "fd00::1", 80), "fd00::/8", True),
        (Endpoint("http", "::1", 80), "[::1]", True),
        (Endpoint("http", "::1", 80), "::1", True),
        (Endpoint("http", "::1", 80), "[::1]:80", True),
        (Endpoint("http", "::1", 81), "[::1]:80", False),
        (ADDRESS, "10.0.0.0/8:8080", True),
        (ADDRESS, "10.0.0.0/8:80", False),
        (ADDRESS, "::/0", False),
        (HOST, "other models.example.com", True),
        (HOST, "*:443", True),
        (HOST, "example.com.", True),
        (HOST, "s.example.com", False),
        (HOST, ".", False),
        (HOST, ":443", False),
        (HOST, "10.0.0.0/99,/,[", False),
        (HOST, "", False),
    ],
)
def test_who_is_exempt(endpoint, no_proxy, exempt) -> None:
    """Names with all below them, addresses, CIDR blocks (as clusters use), ports."""
    assert is_bypassed(endpoint, no_proxy) == exempt


@pytest.mark.parametrize("text", ["socks5://p:1", "http://", "http://p:port"])
def test_a_proxy_that_cannot_be_spoken_to_is_refused(text) -> None:
    """The error names the variable, not the value: it may hold a password."""
    with pytest.raises(UsageError, match="ALL_PROXY") as caught:
        parse_proxy(text.replace("p", "u:s3cr3t@p", 1), "ALL_PROXY")
    assert "s3cr3t" not in caught.value.message + caught.value.hint
