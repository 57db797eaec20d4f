"""Whole fetches, against origins of every temper. Which file holds what:

origin/     what an origin answers
  test_nginx             a real nginx, over HTTP and HTTPS
  test_odd_heads         heads, statuses and names that are odd and allowed
  test_odd_bodies        bodies that are framed oddly, cut off, or of another range
  test_codings           content codings: the file's own, and those put on along the way
  test_lies              replies that lie about what they bring
  test_wrong_bytes       the wrong bytes: replaced objects, zeros, login pages, foreign journals
  test_late_bytes        bytes that come late or never: stragglers, hangs, throttling, dead addresses
  test_told              the size and digest that the first answer tells
  test_replicas          replicas behind one address, with validators of their own
  test_refusals          error replies: exit code and words
  test_access            signed URLs, tokens and cookies: who may see what
  test_caching_proxies   caching proxies that do not have the file yet
  test_hostile           every request meets a fault drawn by lot
network/    the way to an origin
  test_addresses         several addresses, dead ones, names that do not resolve
  test_redirects         redirects, followed by hand
  test_redirect_guard    redirects into this machine or its network
  test_proxy             proxies that the environment names
  test_client_certificate  mutual TLS
cache/      fetching through the cache
  test_hits              when it is a hit, and what a hit costs
  test_freshness         URLs that name something that moves
  test_known_by_digest   one content behind several URLs
  test_links             how outputs get their bytes; caches that cannot be written to
  test_limits            a cache with a limit, a disk too small
  test_races             many processes and threads at once
  test_settlers          which process settles a new blob
  test_damage            reboot, damage, kill -9, removal
  test_failing_calls     any system call may fail, or the process be killed at it
  test_other_users       several users of one cache
  test_planted_links     a cache that lesser users can write to
outputs/    what a user asks for, and under which name it arrives
  test_bad_input         wrong URLs, settings, places
  test_into_memory       bytes that arrive in memory, and in no file
  test_names             names that the user did not give
  test_refused           outputs that no rename can take, or without room
models/     names on a hub
  test_model             whole models: files, commits, progress, errors, what is asked of the hub
  test_hub_cache         models in the cache of the hub's own client
  test_fleet             a model that several nodes fetch together
endings/    fetches that do not end well, and what the next one makes of them
  test_interrupted       Ctrl-C: what is told
  test_killed            kill -9 and lies: what is left, and what the next fetch believes
  test_disproved         bytes that turn out wrong leave the record first
  test_full_disk         disks that are full or fill up
  test_forbidden_calls   units and pods that forbid system calls
  test_memory            the peak of memory
peers/      fetches that take from each other
  test_peers             a small fleet, every node honest
  test_pulling           what peers bring: by one job, without a control plane
  test_confirming        digests asked of other nodes: what is confirmed, and what is not
  test_hostile           peers that lie, stall, break off or flood
  test_announcing        a fetch and its control plane
  test_sharing           one process, many files: one port, one lease, one process that lingers
  test_lingering         the process that goes on handing out
test_session                what fetches of one process share, and what is left when the last one ends
test_<module>            one module of fetching/ alone
kit/        what these tests share: a served file, getter, cached, fleet, liars, mounts
"""
