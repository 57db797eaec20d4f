"""What is Redis's own: control planes that share it, and what it can do to them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.control.ledgers import redis as redis_module
from loom.control.ledgers.ledger import EpochChanged, Missed
from loom.control.ledgers.locations import open_ledger
from loom.control.ledgers.redis_location import RedisLocation, parse_redis_location
from loom.control.ledgers.redis_records import unpack_batch
from loom.control.registry import Registry
from loom.core.changes import Beat, Ended, Holding, Left, Registered, Withdrawn
from loom.errors import RegistryError, RegistryUnavailable, UsageError
from tests.control.ledgers.changes import facts_of, sample
from tests.control.ledgers.servers import RedisServer, SentinelServers, free_port
from tests.control.ledgers.test_contract import opened, registry_at, run
from tests.origins.nginx import OriginUnavailable
from tests.waiting import DEADLINE_S, Deadline, until_async

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from pathlib import Path

    from loom.control.ledgers.ledger import Batch, Ledger, Snapshot
    from loom.core.changes import Change
    from tests.control.ledgers.servers import ClusterServer
    from tests.origins.tls import Authority

PASSWORD = "s3cret-pass"


def has(registry: Registry, model: str) -> bool:
    return registry.fleet.count_holders(model) > 0


def test_control_planes_agree(redis: RedisServer) -> None:
    """What one is told the other knows; writing at once about the same nodes ends the same for both."""

    async def work() -> None:
        async with registry_at(redis.url) as one, registry_at(redis.url) as other:
            await one.submit(Registered("a", Holding("m")))
            await until_async(lambda: has(other, "m"))
            changes = [
                (side, Registered(f"n{n % 5}", Holding(f"m{n % 7}", size=n)) if n % 3 else Withdrawn("n1", f"m{n % 7}"))
                for n in range(200)
                for side in (one, other)
            ]
            await asyncio.gather(*(side.submit(change) for side, change in changes))
            await until_async(lambda: facts_of(one.fleet) == facts_of(other.fleet))
            async with registry_at(redis.url) as third:
                assert facts_of(third.fleet) == facts_of(one.fleet)

    run(work())


def test_control_planes_come_back_together(redis: RedisServer) -> None:
    """After Redis was away, all of them notice that it is back and write again, however many do so at once."""

    async def work() -> None:
        planes = [Registry(open_ledger(redis.url)) for _ in range(6)]
        try:
            for plane in planes:
                await plane.start()
            redis.kill()
            await until_async(lambda: all(plane.trouble for plane in planes))
            redis.start()
            await until_async(lambda: not any(plane.trouble for plane in planes))
            for n, plane in enumerate(planes):
                await plane.submit(Registered(f"n{n}", Holding("m")))
            await until_async(lambda: all(plane.fleet.count_holders("m") == len(planes) for plane in planes))
        finally:
            await asyncio.gather(*(plane.close() for plane in planes))

    run(work())


class Overtaken:
    """A ledger whose every commit comes right behind another one's, which nobody has read when Redis goes away."""

    def __init__(self, redis: RedisServer) -> None:
        self._redis = redis
        self._ledger, self._other = open_ledger(redis.url), open_ledger(redis.url)

    async def commit(self, epoch: str, changes: Sequence[Change]) -> int:
        await self._other.commit(epoch, [Registered("other", Holding("m"))])
        number = await self._ledger.commit(epoch, changes)
        self._redis.kill()
        return number

    async def follow(self, epoch: str, number: int) -> Sequence[Batch]:
        while self._redis.is_running:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
        return await self._ledger.follow(epoch, number)

    async def close(self) -> None:
        await self._ledger.close()
        await self._other.close()

    def __getattr__(self, name: str) -> object:
        return getattr(self._ledger, name)


def test_who_cannot_see_the_batch_before_is_told(redis: RedisServer) -> None:
    """A write is kept, but what was kept before it cannot be read any more: it fails now, not when Redis is back."""

    async def work() -> None:
        registry = Registry(Overtaken(redis))  # type: ignore[arg-type]
        await registry.start()
        try:
            with pytest.raises(RegistryUnavailable):
                await asyncio.wait_for(registry.submit(Registered("a", Holding("m"))), DEADLINE_S)
        finally:
            await registry.close()

    run(work())


def test_a_redis_that_lost_everything_is_healed(redis: RedisServer) -> None:
    """Restarted empty it has a new epoch; leases go on until nodes have said what they hold again."""

    async def work() -> None:
        async with registry_at(redis.url) as registry:
            before = registry.epoch
            beat = Beat("a", registry.now + 60, "http://10.0.0.1:1", inventory=(Holding("m"),))
            await registry.submit(beat)
            redis.kill()
            await until_async(lambda: bool(registry.trouble))
            assert has(registry, "m")
            redis.start()
            await until_async(lambda: registry.epoch != before)
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
            await until_async(lambda: bool(registry.trouble))
            redis.start()
            await until_async(lambda: not registry.trouble and not has(registry, "lost4"))
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


def test_a_redis_that_is_flushed_is_given_everything_again(redis: RedisServer) -> None:
    """What was registered without a lease was acknowledged, too: a control plane that knows it writes it anew."""

    async def work() -> None:
        async with registry_at(redis.url) as registry:
            before = registry.epoch
            await registry.submit(Registered("a", Holding("kept")))
            redis.ask("FLUSHALL")
            await until_async(lambda: registry.epoch != before)
            async with registry_at(redis.url) as other:
                assert has(other, "kept")

    run(work())


def test_each_control_plane_counts_what_it_was_told(redis: RedisServer) -> None:
    """Both know what the fleet moved, and both together count it once: also when the answer to a commit was lost."""

    async def work() -> None:
        async with registry_at(redis.url) as one, registry_at(redis.url) as other:
            for registry, received in ((one, 10), (other, 30), (one, 100)):
                holding = Holding("m", None, 100, "partial", received, received)
                await registry.submit(Registered("a", holding, expires_at=registry.now + 60, fetch="f1"))
                await until_async(lambda: all(it.fleet.totals.from_origin == received for it in (one, other)))  # noqa: B023
            await other.submit(Withdrawn("a", "m", "f1", Ended("store", 2.0, one.now)))
            await until_async(lambda: bool(list(one.fleet.fetches.failures)))
            assert (one.fleet.heard.from_origin, other.fleet.heard.from_origin) == (80, 20)
            assert [it.fleet.fetches.counts.started for it in (one, other)] == [1, 0]
            assert [it.fleet.fetches.counts.failed.total() for it in (one, other)] == [0, 1]
            assert next(iter(one.fleet.fetches.failures)).reason == "store"

    run(work())


def test_a_batch_says_who_wrote_it(redis: RedisServer) -> None:
    """A follower knows its own work by that, and leaves out what only a newer Loom knows how to say."""

    async def work() -> None:
        async with opened(redis.url) as (ledger, snapshot), opened(redis.url) as (other, _):
            await other.commit(snapshot.epoch, [Registered("a", Holding("m"))])
            await ledger.commit(snapshot.epoch, [Registered("b", Holding("m"))])
            seen = await other.follow(snapshot.epoch, snapshot.number)
            assert [batch.is_ours for batch in seen] == [True, False]
        news = msgspec.msgpack.encode([{"k": "?", "n": "a"}, {"k": "l", "n": "b"}])
        batch = unpack_batch((b"7-0", {b"b": news}), "me")
        assert (batch.number, batch.changes, batch.is_ours) == (7, [Left("b")], False)

    run(work())


def test_batches_of_another_epoch_are_not_taken_for_the_next_ones(redis: RedisServer, monkeypatch) -> None:
    """Flushed and filled again, numbers may go on as if nothing had happened; each batch says what it belongs to."""
    monkeypatch.setattr(redis_module, "BLOCK_S", 60.0)  # so that it has looked at the epoch a moment ago

    async def work() -> None:
        async with opened(redis.url) as (ledger, snapshot), opened(redis.url) as (other, _):
            await other.commit(snapshot.epoch, [])
            (first,) = await ledger.follow(snapshot.epoch, snapshot.number)
            redis.ask("FLUSHALL")
            anew = await other.load()
            for _ in range(first.number + 1):
                await other.commit(anew.epoch, [Registered("a", Holding("m"))])
            with pytest.raises(EpochChanged):
                await ledger.follow(snapshot.epoch, first.number)

    run(work())


def test_batches_that_do_not_name_their_epoch_are_believed_after_a_look(redis: RedisServer) -> None:
    """A control plane of an older Loom writes such ones, while the fleet's are replaced one by one."""

    async def work() -> None:
        async with opened(redis.url) as (ledger, snapshot):
            commands, _ = ledger._open()
            for number in (1, 2):
                await commands.incr("{loom}:number")
                await commands.xadd("{loom}:batches", {"b": msgspec.msgpack.encode([])}, id=f"{number}-0")
            assert [batch.number for batch in await ledger.follow(snapshot.epoch, snapshot.number)] == [1, 2]
            redis.ask("SET", "{loom}:epoch", "another")
            with pytest.raises(EpochChanged):
                await ledger.follow(snapshot.epoch, snapshot.number)

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
            await until_async(lambda: not registry.trouble)
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
            await until_async(lambda: not registry.trouble)
            await registry.submit(Registered("b", Holding("m2")))

    run(work())


@pytest.mark.parametrize("leave", ["kill", "pause"])
def test_who_waits_for_news_is_told(redis: RedisServer, monkeypatch: pytest.MonkeyPatch, leave: str) -> None:
    """Redis goes away, with or without a word, while we wait for news of it: that is no news, but an error."""
    monkeypatch.setattr(redis_module, "TIMEOUT_S", 0.3)

    async def work() -> None:
        async with opened(redis.url) as (ledger, snapshot):
            waiting = asyncio.create_task(ledger.follow(snapshot.epoch, snapshot.number))
            await until_async(lambda: "cmd=xread" in redis.ask("CLIENT", "LIST") or waiting.done())
            getattr(redis, leave)()
            with pytest.raises(RegistryUnavailable) as caught:
                await asyncio.wait_for(waiting, DEADLINE_S)
            assert caught.value.hint

    run(work())


def test_a_redis_that_forgot_our_scripts_is_told_them_again(redis: RedisServer) -> None:
    """SCRIPT FLUSH, or a new master, costs one round trip."""

    async def work() -> None:
        async with opened(redis.url) as (ledger, snapshot):
            for n in (1, 2, 3):
                redis.ask("SCRIPT", "FLUSH")
                assert await ledger.commit(snapshot.epoch, [Registered("a", Holding(f"m{n}"))]) == snapshot.number + n
            assert "cmdstat_eval:calls=4," in redis.ask("INFO", "commandstats")  # one of them purged

    run(work())


@pytest.mark.parametrize(
    ("sick", "well", "said"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "maxmemory"),
        (("CONFIG", "SET", "min-replicas-to-write", "1"), ("CONFIG", "SET", "min-replicas-to-write", "0"), "replicas"),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "read only"),
        (("BGSAVE",), ("CONFIG", "SET", "stop-writes-on-bgsave-error", "no"), "MISCONF"),
    ],
)
def test_a_redis_that_cannot_write_now(
    redis: RedisServer, sick: tuple[str, ...], well: tuple[str, ...], said: str
) -> None:
    """A write fails with what Redis says and leaves nothing behind; reads go on; it is noticed when it can again."""
    (redis.folder / "dump.rdb").mkdir()  # no snapshot can take this place
    redis.ask("CONFIG", "SET", "save", "3600 1")

    async def work() -> None:
        async with registry_at(redis.url) as registry:
            await registry.submit(Registered("a", Holding("m")))
            redis.ask(*sick)
            if said == "MISCONF":
                await until_async(lambda: "rdb_last_bgsave_status:err" in redis.ask("INFO", "persistence"))
            number = redis.ask("GET", "{loom}:number")
            with pytest.raises(RegistryUnavailable, match=said) as caught:
                await registry.submit(Registered("b", Holding("m")))
            assert caught.value.hint
            assert redis.ask("GET", "{loom}:number") == number
            assert registry.fleet.count_holders("m") == 1
            redis.ask(*well)
            await until_async(lambda: not registry.trouble)
            await registry.submit(Registered("c", Holding("m")))
            assert registry.fleet.count_holders("m") == 2

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


def test_a_control_plane_that_paused_catches_up(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it goes on, and the stream has left it behind, it reads everything again."""
    monkeypatch.setattr(redis_module, "KEPT_BATCHES", 1)
    ledger, may_follow = open_ledger(redis.url), asyncio.Event()

    async def follow(epoch: str, number: int) -> Sequence[Batch]:
        await may_follow.wait()
        return await type(ledger).follow(ledger, epoch, number)

    async def work() -> None:
        monkeypatch.setattr(ledger, "follow", follow)
        paused = Registry(ledger)
        try:
            await paused.start()
            async with opened(redis.url) as (other, snapshot):
                for n in range(300):
                    await other.commit(snapshot.epoch, [Registered("a", Holding(f"m{n}"))])
            assert not has(paused, "m0")
            may_follow.set()
            await until_async(lambda: paused.fleet.count_of("a") == 300)
        finally:
            may_follow.set()
            await paused.close()

    run(work())


def test_the_stream_takes_bounded_memory(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large batches fewer are kept."""
    monkeypatch.setattr(redis_module, "KEPT_BYTES", 100_000)
    monkeypatch.setattr(redis_module, "_LEAST_KEPT", 2)
    large = Beat("a", 4e9, inventory=tuple(Holding(f"org/model-{n}") for n in range(500)))

    async def work() -> None:
        async with opened(redis.url) as (ledger, snapshot):
            for _ in range(50):
                await ledger.commit(snapshot.epoch, [large])
            length = int(redis.ask("XLEN", "{loom}:batches")[1:])
            assert 2 <= length <= 10
            last = snapshot.number + 50
            assert [one.number for one in await ledger.follow(snapshot.epoch, last - 1)] == [last]

    run(work())


def test_the_clock_is_redis_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers say what time it is as well as they were quick; the clock is put right, and never turned back."""
    ledger = redis_module.RedisLedger("redis://localhost")
    here = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: here)

    def hear(asked_at: float, answered_at: float, said: float) -> float:
        nonlocal here
        here = answered_at
        ledger._set_clock((int(said), round(said % 1 * 1e6)), asked_at)
        return ledger.now()

    def about(time_s: float) -> object:
        return pytest.approx(time_s, rel=0, abs=1e-4)

    assert hear(100, 100.01, 5000) == about(5000.005)  # somewhere between asking and the answer
    assert hear(200, 201.99, 5101.9) == about(5101.985)  # a slow answer, which agrees
    assert hear(300, 300.001, 5200.0) == about(5200.0)  # a quick one: four milliseconds more
    assert hear(301, 301.001, 5191.0) == about(5200.0)  # set back by ten seconds it stands still
    here = 312.001
    assert ledger.now() == about(5202.001)  # and goes on when it has caught up
    assert hear(313, 313.001, 5400.0) == about(5400.0)  # set forward it follows


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
        servers = SentinelServers(tmp_path, down_after_ms=300)
    except OriginUnavailable as reason:
        pytest.skip(str(reason))

    async def work() -> None:
        async with registry_at(servers.url) as registry:
            await registry.submit(Registered("a", Holding("m")))
            servers.replica.ask("WAIT", "1", "1000")
            await until_async(lambda: "db0" in servers.replica.ask("INFO", "keyspace"))
            servers.master.kill()
            deadline = Deadline("the replica takes over")
            while True:
                try:
                    await registry.submit(Registered("b", Holding("m2")))
                except RegistryUnavailable:
                    deadline.check()
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
        monkeypatch.setattr(redis_module, "TIMEOUT_S", 0.3)  # it waits for us to go on
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


@pytest.mark.parametrize("kind", ["redis", "cluster", "sentinel"])
def test_who_is_not_known_is_refused(request: pytest.FixtureRequest, kind: str) -> None:
    """It is no use to try again: the error says so, and names no secret."""
    scheme, slashes, rest = request.getfixturevalue(f"shared_{kind}").url.partition("//")

    async def work() -> None:
        ledger: Ledger = open_ledger(f"{scheme}{slashes}nobody:{PASSWORD}@{rest}")
        with pytest.raises(RegistryError) as caught:
            await ledger.load()
        await ledger.close()
        assert not isinstance(caught.value, RegistryUnavailable)
        assert "user" in caught.value.hint
        told = f"{caught.value!r} {caught.value} {caught.value.hint} {caught.value.__cause__!r} {ledger!r}"
        assert PASSWORD not in told

    run(work())


@pytest.mark.parametrize(
    "rights", ["+@read +@connection", "+@read +@connection +set +eval +evalsha +time", "+@all -time -incr"]
)
def test_what_is_not_permitted_is_refused(redis: RedisServer, rights: str) -> None:
    """A user that may not do what we need is an error that trying again does not mend, in a script, too."""
    redis.ask("ACL", "SETUSER", "weak", "on", f">{PASSWORD}", "~*", *rights.split())

    async def work() -> None:
        ledger = open_ledger(f"redis://weak:{PASSWORD}@127.0.0.1:{redis.port}")
        with pytest.raises(RegistryError, match="refuses us") as caught:
            await ledger.commit((await ledger.load()).epoch, [Registered("a", Holding("m"))])
        await ledger.close()
        assert not isinstance(caught.value, RegistryUnavailable)
        assert PASSWORD not in f"{caught.value!r} {caught.value.hint} {caught.value.__cause__!r}"

    run(work())


def test_a_cluster_that_was_away_is_used_again(shared_cluster: ClusterServer) -> None:
    """Its client finds the nodes anew."""
    cluster = shared_cluster

    async def work() -> None:
        async with registry_at(cluster.url) as registry:
            await registry.submit(Registered("a", Holding("m")))
            cluster.kill()
            with pytest.raises(RegistryUnavailable):
                await registry.submit(Registered("b", Holding("m")))
            assert has(registry, "m")
            cluster.start()
            await until_async(lambda: not registry.trouble)
            await registry.submit(Registered("c", Holding("m2")))
            assert has(registry, "m2")

    try:
        run(work())
    finally:
        if not cluster.is_running:
            cluster.start()


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
     "redis://h?db=1", "redis+sentinel://h", "redis+cluster://h/1", "redis://u:pw-s@h:99999", "redis://a,,b",
     "redis://[::1", "redis://u:pw-s]@h", "redis://u:pw-s@h\u2100", "redis://u:pw-s@h x", "redis://u:pw-s@h\n:1",
     "redis://u:pw-s/x@h", "redis://u:pw-s?x@h", "redis://u:pw-s#x@h", "redis://h/" + "1" * 5000, "valkey+sentinel://h/s",
     "redis+sentinel://h/s?pw-s=1", "redis:u:pw-s@h", "redis:pw-s", "pw-s:redis://h", "pw-s", "u:pw-s@h"],
)  # fmt: skip
def test_what_is_no_location(text: str) -> None:
    """It is refused, and a password in it is not quoted."""
    with pytest.raises(UsageError) as caught:
        parse_redis_location(text)
    assert "pw-s" not in f"{caught.value} {caught.value.hint}"


@given(st.sampled_from(["redis://", "rediss+sentinel://", "redis+cluster://u:p@"]), st.text())
def test_a_location_is_understood_or_refused(scheme: str, rest: str) -> None:
    """Whatever is written there, nothing else happens."""
    with contextlib.suppress(UsageError):
        assert parse_redis_location(scheme + rest).hosts


def test_a_key_of_another_kind_is_one_trouble_until_it_is_gone(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While no change can be kept, the registry does not say twice a second that all is well."""
    said: list[str] = []
    loads: list[Coroutine[object, object, Snapshot]] = []
    ledger = open_ledger(redis.url)
    load = ledger.load

    def counted() -> Coroutine[object, object, Snapshot]:
        loads.append(load())
        return loads[-1]

    monkeypatch.setattr(ledger, "load", counted)

    async def work() -> None:
        registry = Registry(ledger, said.append)
        await registry.start()
        try:
            redis.ask("SET", "{loom}:registered", "something else")
            with pytest.raises(RegistryUnavailable, match="WRONGTYPE"):
                await registry.submit(Registered("a", Holding("m")))
            await until_async(lambda: len(loads) >= 4, "three more tries")
            assert len(said) == 1
            assert redis.ask("XLEN", "{loom}:batches").strip() == ":0"
            redis.ask("DEL", "{loom}:registered")
            await until_async(lambda: not registry.trouble)
            await registry.submit(Registered("a", Holding("m")))
        finally:
            await registry.close()

    run(work())
    assert len(said) == 2


def test_a_record_that_nobody_can_read_keeps_nobody_from_starting(redis: RedisServer, caplog) -> None:
    """It is passed over, and named in the log; all the others are there."""

    async def work() -> None:
        async with registry_at(redis.url) as one:
            await one.submit(Registered("a", Holding("m")))
            await one.submit(Beat("b", one.now + 60, inventory=(Holding("m2"),)))
        for key in ("nodes", "inventories", "registered"):
            redis.ask("HSET", f"{{loom}}:{key}", "odd", "neither msgpack nor JSON")
        redis.ask("HSET", "{loom}:nodes", "list", "7")
        redis.ask("HSET", "{loom}:registered", "a\nshort", "[1]")
        async with registry_at(redis.url) as other:
            assert has(other, "m")
            assert has(other, "m2")

    run(work())
    assert "'odd' in the Redis hash {loom}:registered cannot be read" in caplog.text
