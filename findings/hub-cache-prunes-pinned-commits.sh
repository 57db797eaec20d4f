#!/usr/bin/env bash
# huggingface_hub 2.4.0: `hf cache prune` removes every model that is pinned by its commit.
#
# Usual guess:  prune removes what was superseded: revisions that a branch has moved away from, and incomplete downloads.
# Behaviour:    a revision that no ref names is "unreferenced". A deployment that asks for a full commit writes no ref (only
#               branches and tags get one), so its whole snapshot goes, though it is complete and the only one of its repo.
# For Loom:     what fills the hub's cache for a pinned commit must keep a ref beside it, or be fetched again after a prune.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv venv && venv/bin/pip install --quiet --disable-pip-version-check huggingface_hub==2.4.0 2>/dev/null
export HF_HUB_CACHE=$work/cache HF_HUB_OFFLINE=1 HF_HUB_DISABLE_UPDATE_CHECK=1 HF_HUB_DISABLE_TELEMETRY=1 NO_COLOR=1
pinned=$(printf 'a%.0s' {1..40}); named=$(printf 'b%.0s' {1..40})
for repo in pinned named; do
    mkdir -p "cache/models--org--$repo/snapshots/${!repo}"
    echo '{}' >"cache/models--org--$repo/snapshots/${!repo}/config.json"
done
mkdir -p cache/models--org--named/refs && printf %s "$named" >cache/models--org--named/refs/main

venv/bin/pip show huggingface_hub 2>/dev/null | sed -n 's/^Version: /huggingface_hub /p'
venv/bin/python - <<P
from huggingface_hub import snapshot_download
print("before: pinned by commit is whole and offline:", snapshot_download("org/pinned", revision="$pinned")[-8:])
P
venv/bin/hf cache prune --yes 2>/dev/null
left=$(find cache -name config.json | sed 's,.*models--org--\([a-z]*\)/.*,\1,' | sort | xargs)
echo "after: left in the cache: $left"
[ "$left" = named ] || { echo "CHANGED: expected only the repo with a ref to be left" >&2; exit 1; }
