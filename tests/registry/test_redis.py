"""What is Redis's own: control planes that share it, and what it can do to them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from loom.core.changes import Beat, Holding, Registered, Withdrawn
from loom.errors import RegistryError, RegistryUnavailable, UsageError
from loom.registry import redis as redis_module
from loom.registry.ledger import EpochChanged, Missed
from loom.registry.locations import open_ledger
from loom.registry.redis_location import RedisLocation, parse_redis_location
from tests.registry.changes import facts_of, sample
from tests.registry.servers import RedisServer, SentinelServers, free_port
from tests.registry.test_contract import opened, registry_at, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from loom.registry.registry import Registry
    from tests.origins.tls import Authority

PASSWORD = "s3cret-pass"


async def until(is_so: Callable[[], bool], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def has(registry: Registry, model: str) -> bool:
    return registry.fleet.count_holders(model) > 0


def test_control_planes_agree(redis: RedisServer) -> None:
    """What one is told the other knows; writing at once about the same nodes ends the same for both."""

    async def work() -> None:
        async with registry_at(redis.url) as one, registry_at(redis.url) as other:
            await one.submit(Registered("a", Holding("m")))
            await until(lambda: has(other, "m"))
            changes = [
                (side, Registered(f"n{n % 5}", Holding(f"m{n % 7}", size=n)) if n % 3 else Withdrawn("n1", f"m{n % 7}"))
                for n in range(200)
                for side in (one, other)
            ]
            await asyncio.gather(*(side.submit(change) for side, change in changes))
            await until(lambda: facts_of(one.fleet) == facts_of(other.fleet))
            async with registry_at(redis.url) as third:
                assert facts_of(third.fleet) == facts_of(one.fleet)

    run(work())


def test_a_redis_that_lost_everything_is_healed(redis: RedisServer) -> None:
    """Restarted empty it has a new epoch; leases go on until nodes have said what they hold again."""

    async def work() -> None:
        async with registry_at(redis.url) as registry:
            before = registry.epoch
            beat = Beat("a", registry.now + 60, "http://10.0.0.1:1", inventory=(Holding("m"),))
            await registry.submit(beat)
            redis.kill()
            await until(lambda: bool(registry.trouble))
            assert has(registry, "m")
            redis.start()
            await until(lambda: registry.epoch != before)
            assert has(registry, "m")
            await registry.submit(beat)
            async with registry_at(redis.url) as other:
                assert has(other, "m")
                assert other.epoch == registry.epoch

    run(work())


def test_a_redis_that_comes_back_with_older_facts_is_believed(redis: RedisServer) -> None:
    """Restored from an older snapshot, its numbers begin lower: everybody goes on from what it knows, and agrees."""

    async def work() -> None:
        async with registry_at(redis.url) as registry:
            await registry.submit(Registered("a", Holding("kept")))
            redis.ask("SAVE")
            for n in range(5):
                await registry.submit(Registered("a", Holding(f"lost{n}")))
            redis.kill()
            await until(lambda: bool(registry.trouble))
            redis.start()
            await until(lambda: not registry.trouble and not has(registry, "lost4"))
            assert has(registry, "kept")
            await registry.submit(Registered("a", Holding("new")))
            async with registry_at(redis.url) as other:
                assert facts_of(other.fleet) == facts_of(registry.fleet)
                assert has(other, "new")

    run(work())


def test_a_redis_that_is_flushed_is_noticed(redis: RedisServer) -> None:
    """FLUSHALL under our feet is a new epoch, whether we write or wait when it happens."""

    async def work() -> None:
        async with opened(redis.url) as (ledger, snapshot):
            redis.ask("FLUSHALL")
            with pytest.raises(EpochChanged):
                await ledger.commit(snapshot.epoch, [Registered("a", Holding("m"))])
            with pytest.raises(EpochChanged):
                await ledger.follow(snapshot.epoch, snapshot.number)
        async with registry_at(redis.url) as registry:
            redis.ask("FLUSHALL")
            await registry.submit(Registered("a", Holding("m")))
            async with registry_at(redis.url) as other:
                assert has(other, "m")

    run(work())


def test_a_redis_that_is_away_costs_writes_only(redis: RedisServer) -> None:
    """Reads go on, a write fails with a hint, and all is well again when it is back."""

    async def work() -> None:
        async with registry_at(redis.url) as registry:
            await registry.submit(Registered("a", Holding("m")))
            redis.kill()
            with pytest.raises(RegistryUnavailable) as caught:
                await registry.submit(Registered("b", Holding("m")))
            assert caught.value.hint
            assert has(registry, "m")
            redis.start()
            await until(lambda: not registry.trouble)
            await registry.submit(Registered("c", Holding("m2")))
            assert has(registry, "m2")

    run(work())


def test_a_redis_that_hangs_costs_bounded_time(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped without a word it is given up, and used again when it goes on."""
    monkeypatch.setattr(redis_module, "TIMEOUT_S", 0.3)

    async def work() -> None:
        async with registry_at(redis.url) as registry:
            redis.pause()
            with pytest.raises(RegistryUnavailable):
                await registry.submit(Registered("a", Holding("m")))
            redis.go_on()
            await until(lambda: not registry.trouble)
            await registry.submit(Registered("b", Holding("m2")))

    run(work())


def test_who_fell_behind_loads_again(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that the stream no longer has are missed, not skipped."""
    monkeypatch.setattr(redis_module, "KEPT_BATCHES", 1)

    async def work() -> None:
        async with opened(redis.url) as (ledger, snapshot):
            for n in range(300):  # a stream is trimmed in nodes of a hundred entries
                await ledger.commit(snapshot.epoch, [Registered("a", Holding(f"m{n}"))])
            with pytest.raises(Missed):
                await ledger.follow(snapshot.epoch, snapshot.number)

    run(work())


def test_what_has_ended_is_removed(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis does not keep what nobody renews, and keeps what somebody did."""
    monkeypatch.setattr(redis_module, "_GRACE_S", -5.0)
    monkeypatch.setattr(redis_module, "_PURGE_EVERY_S", 0.0)

    async def work() -> None:
        async with opened(redis.url) as (ledger, snapshot):
            now = ledger.now()
            await ledger.commit(snapshot.epoch, [
                Beat("a", now + 1, inventory=(Holding("m"),)),
                Registered("b", Holding("m"), expires_at=now + 1),
                Registered("c", Holding("m"), expires_at=now + 1), Registered("c", Holding("kept")),
                Beat("d", now + 100, inventory=(Holding("kept"),)),
            ])  # fmt: skip
            loaded = await ledger.load()
            assert {change.node for change in loaded.changes} == {"c", "d"}
        assert redis.ask("ZCARD", "{loom}:leases") == ":1\r\n"
        assert redis.ask("HLEN", "{loom}:nodes") == ":2\r\n"

    run(work())


def test_a_failover_is_survived(tmp_path: Path) -> None:
    """When the master dies the sentinel's choice is used; nodes and control planes go on."""
    try:
        servers = SentinelServers(tmp_path)
    except Exception as reason:  # noqa: BLE001
        pytest.skip(str(reason))

    async def work() -> None:
        async with registry_at(servers.url) as registry:
            await registry.submit(Registered("a", Holding("m")))
            servers.replica.ask("WAIT", "1", "1000")
            await until(lambda: "db0" in servers.replica.ask("INFO", "keyspace"))
            servers.master.kill()
            deadline = time.monotonic() + 30
            while True:
                try:
                    await registry.submit(Registered("b", Holding("m2")))
                except RegistryUnavailable:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.1)
                else:
                    break
            assert has(registry, "m")
            assert [one.node for one in registry.fleet.locate("m2", 1, sample)] == ["b"]

    with servers:
        run(work())


def test_over_tls(tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """rediss:// verifies the server by the authorities of SSL_CERT_FILE; a plain Redis is refused."""
    folder, port = authority.ca_file.parent, free_port()
    files = ["--tls-cert-file", f"{folder}/server.pem", "--tls-key-file", f"{folder}/server.key"]
    server = RedisServer(tmp_path, "--tls-port", str(port), "--tls-ca-cert-file", str(authority.ca_file), *files,
                         "--tls-auth-clients", "no")  # fmt: skip

    async def work(location: str) -> None:
        async with opened(location) as (ledger, snapshot):
            assert await ledger.commit(snapshot.epoch, [Registered("a", Holding("m"))]) == snapshot.number + 1

    with server:
        with pytest.raises(RegistryUnavailable):
            run(work(f"rediss://localhost:{port}"))
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
        run(work(f"rediss://localhost:{port}"))
        with pytest.raises(RegistryUnavailable):
            run(work(f"rediss://localhost:{server.port}"))


def test_a_wrong_password_is_told_without_telling_it(tmp_path: Path) -> None:
    """What is refused names no secret, in message, hint or repr."""
    server = RedisServer(tmp_path, "--requirepass", PASSWORD)

    async def work() -> None:
        async with opened(f"redis://:{PASSWORD}@127.0.0.1:{server.port}") as (_, snapshot):
            assert snapshot.epoch
        ledger = open_ledger(f"redis://user:{PASSWORD}x@127.0.0.1:{server.port}")
        with pytest.raises(RegistryError) as caught:
            await ledger.load()
        await ledger.close()
        told = f"{caught.value!r} {caught.value} {caught.value.hint} {caught.value.__cause__!r}"
        assert PASSWORD not in told

    with server:
        run(work())


def test_nobody_there_is_told(tmp_path: Path) -> None:
    """A port at which nothing listens is an error with a hint, for each kind of location."""

    async def work(location: str) -> None:
        ledger = open_ledger(location)
        with pytest.raises(RegistryUnavailable) as caught:
            await ledger.load()
        await ledger.close()
        assert caught.value.hint
        assert PASSWORD not in str(caught.value)

    port = free_port()
    for scheme, path in (("redis", ""), ("redis+sentinel", "/fleet"), ("redis+cluster", "")):
        run(work(f"{scheme}://u:{PASSWORD}@127.0.0.1:{port}{path}"))


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("redis://h", RedisLocation("single", (("h", 6379),))),
        ("valkey://h:1/2", RedisLocation("single", (("h", 1),), database=2)),
        ("rediss://u:p%40@[::1]:7/0", RedisLocation("single", (("::1", 7),), True, "u", "p@")),
        ("valkeys://:p@h", RedisLocation("single", (("h", 6379),), True, None, "p")),
        (
            "redis+sentinel://a,b:5/svc/3",
            RedisLocation("sentinel", (("a", 26379), ("b", 5)), database=3, service="svc"),
        ),
        ("rediss+cluster://a:1,b:2", RedisLocation("cluster", (("a", 1), ("b", 2)), True)),
    ],
)
def test_locations(text: str, location: RedisLocation) -> None:
    """Every documented form is understood."""
    assert parse_redis_location(text) == location


@pytest.mark.parametrize(
    "text",
    ["redis://", "redis://:pw-s@", "redis://h:0", "redis://h:x", "redis://h:pw-s:1:2:3", "redis://h/x", "redis://h/1/2",
     "redis://h?db=1", "redis+sentinel://h", "redis+cluster://h/1", "redis://u:pw-s@h:99999", "redis://a,,b"],
)  # fmt: skip
def test_what_is_no_location(text: str) -> None:
    """It is refused, and a password in it is not quoted."""
    with pytest.raises(UsageError) as caught:
        parse_redis_location(text)
    assert "pw-s" not in f"{caught.value} {caught.value.hint}"
