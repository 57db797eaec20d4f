#!/bin/sh
# One 200 reply of `rclone serve http` holds two versions of a file that is replaced while it is sent.
#
# Seen with rclone 1.60.1 (Debian 12, package 1.60.1+dfsg-2+b5).
# The usual guess: a server opens the file once per request, so that a file replaced by a rename is sent in the old
#   version to its end, or the connection is cut. One reply is one version.
# What happens: rclone reads its backend in chunks, 128 MiB at first (--vfs-read-chunk-size), and opens the file anew by
#   its name for the next chunk. From offset 134217728 on the reply goes on with the bytes of the new file. Status,
#   Content-Length and connection are those of a good reply; no client can tell without a digest.
# Uses: apt-get download, python3. No rclone configuration, loopback only. Exits 1 when that has changed.
set -e
work=$(mktemp -d)
trap 'kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"
apt-get download -qq rclone 2>/dev/null
dpkg -x rclone_*.deb rclone
export RCLONE_CONFIG="$work/none"
rclone/usr/bin/rclone version | head -n 1
mkdir www
python3 - <<'PY'
import os
size = 200 * 1024 * 1024
for name, letter in (("www/file.bin", b"o"), ("new", b"n")):
    with open(name, "wb") as file:
        for _ in range(size >> 20):
            file.write(letter * (1 << 20))
    os.utime(name, (1_700_000_000, 1_700_000_000))
PY
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
rclone/usr/bin/rclone serve http --addr "127.0.0.1:$port" www > log 2>&1 & server=$!
python3 - "$port" <<'PY'
import http.client, os, sys, time
for _ in range(100):
    try:
        connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
        connection.request("GET", "/file.bin")
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
reply = connection.getresponse()
body = bytearray(reply.read(32 << 20))
os.replace("new", "www/file.bin")  # a rename, as a deployment does it
body += reply.read()
at = body.find(b"n")
print(f"status {reply.status}, {len(body)} of {reply.headers['Content-Length']} bytes, the new file's from offset {at} on")
sys.exit(0 if reply.status == 200 and at == 128 << 20 and body.endswith(b"n") else 1)
PY
