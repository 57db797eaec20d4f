"""Redirects that would make this machine fetch what only it can reach, tried over real sockets."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from loom.errors import OriginError
from tests import ROOT, SRC
from tests.fetching.kit.getter import SIZE
from tests.origins.proxy import ForwardProxy
from tests.origins.replies import redirects
from tests.origins.things import Thing, seeded

DATA = seeded(SIZE)
THING = Thing(DATA)
SERVICE = "169.254.169.254"


@pytest.mark.parametrize(
    "host",
    [SERVICE, "2852039166", "0xa9.0xfe.43518", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "[fd00:ec2::254]"],
)
def test_an_origin_on_loopback_may_not_lead_to_metadata(origin, getter, host):
    """However the address is spelled: one request, no retry, and what to say if it is right."""
    error = getter.wrong(origin.put("/m", THING, redirects(f"http://{host}/latest/")), OriginError)
    assert "a redirect leads to" in str(error)
    assert "metadata address" in str(error)
    assert "--allow-redirect-to" in error.hint
    assert len(origin.requests) == 1


@pytest.mark.parametrize("host", ["169.254.169.254", "metadata.google.internal", "0xA9FEA9FE"])
def test_through_a_proxy_the_spelling_is_judged(origin, getter, monkeypatch, host):
    """The proxy would resolve the name: it is not asked."""
    with ForwardProxy() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url())
        url = origin.put("/m", THING, redirects(f"http://{host}/latest/"))
        error = getter.wrong(url, OriginError)
        assert f"a redirect leads to {host.lower()}, a metadata address" in str(error)
        assert [head.target for head in proxy.requests] == [url]


def test_what_is_allowed_is_followed(origin, getter):
    """With --allow-redirect-to the address is connected to: then it is the network that decides."""
    url = origin.put("/m", THING, redirects("http://[fd00:ec2::254]:1/m"))
    error = getter.wrong(url, OriginError.__subclasses__()[0], allow_redirect_to=["fd00:ec2::/32"], retries=0)
    assert "a redirect leads to" not in str(error)


SCENE = """
import json, sys
import loom
from tests.origins.fault import Origin
from tests.origins.replies import redirects
from tests.origins.things import Thing
told = {}
with Origin("10.93.0.1") as origin, Origin("127.0.0.1") as loopback, Origin("169.254.20.10") as local:
    for server, hosts in ((loopback, ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]", "0"]),
                          (local, ["169.254.20.10", "[::ffff:a9fe:140a]"])):
        server.put("/t", Thing(b"secret"))
        for host in hosts:
            url = origin.put("/m", Thing(b""), redirects(f"http://{host}:{server.port}/t"))
            for allowed in ((), (host,), ("127.0.0.0/8", "169.254.20.10", "0.0.0.0")):
                try:
                    loom.fetch(url, "got", no_cache=True, allow_redirect_to=allowed, retries=0)
                    told[f"{host} {len(allowed)}"] = open("got").read()
                except loom.LoomError as error:
                    told[f"{host} {len(allowed)}"] = str(error)
    told["asked"] = len(loopback.requests) + len(local.requests)
print(json.dumps(told))
"""


def test_an_origin_of_the_network_may_not_lead_to_this_machine(tmp_path):
    """From 10.93.0.1, a name that resolves to loopback counts like the address itself; what is allowed is fetched."""
    up = "ip link set lo up && ip addr add 10.93.0.1/32 dev lo && ip addr add 169.254.20.10/32 dev lo"
    probe = subprocess.run(["unshare", "--net", "sh", "-c", up], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("no network namespaces here (root is needed)")
    command = ["unshare", "--net", "sh", "-c", f'{up} && exec "$@"', "-", sys.executable, "-c", SCENE]
    environ = {"PYTHONPATH": f"{SRC}:{ROOT}", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=50, check=False)
    told = json.loads(done.stdout or "{}")
    assert told, done.stderr
    asked = told.pop("asked")
    refused = {key: text for key, text in told.items() if key.endswith(" 0")}
    assert all(" loopback address" in text or " link-local address" in text for text in refused.values()), refused
    fetched = {key: text for key, text in told.items() if not key.endswith(" 0")}
    assert fetched["localhost 1"] == fetched["127.0.0.1 3"] == fetched["169.254.20.10 1"] == "secret", fetched
    assert asked == sum(text == "secret" for text in fetched.values())
