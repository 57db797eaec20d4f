#!/usr/bin/env bash
# huggingface_hub 2.4.0: `hf cache` counts a hard link as bytes of its own, and reports bytes as freed that were not.
#
# Usual guess:  sizes are what the disk holds; a file with several names counts once, as with `du`.
# Behaviour:    files in snapshots/ that are no symbolic links into blobs/ count once for each name, and `prune` and `rm` say
#               "freed" for bytes that other names still hold. A cache filled by hard link from another one looks twice as large
#               as it is, and a node that frees room by this number does not get it.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv venv && venv/bin/pip install --quiet --disable-pip-version-check huggingface_hub==2.4.0 2>/dev/null
export HF_HUB_CACHE=$work/cache HF_HUB_OFFLINE=1 HF_HUB_DISABLE_UPDATE_CHECK=1 HF_HUB_DISABLE_TELEMETRY=1 NO_COLOR=1
one=$(printf 'a%.0s' {1..40}); other=$(printf 'b%.0s' {1..40})
mkdir -p cache/models--org--model/{refs,snapshots/"$one",snapshots/"$other"}
head -c 3000000 /dev/zero | tr '\0' w >weights
ln weights "cache/models--org--model/snapshots/$one/model.safetensors"
ln weights "cache/models--org--model/snapshots/$other/model.safetensors"
printf %s "$one" >cache/models--org--model/refs/main

venv/bin/pip show huggingface_hub 2>/dev/null | sed -n 's/^Version: /huggingface_hub /p'
counted=$(venv/bin/python -c 'from huggingface_hub import scan_cache_dir; print(scan_cache_dir().size_on_disk)')
echo "on the disk: $(du -s --apparent-size -B1 weights | cut -f1) bytes, counted: $counted"
freed=$(venv/bin/hf cache prune --yes 2>/dev/null | sed -n 's/.*freed[: ]*\([0-9.]*[KMG]\).*/\1/p' | head -n 1)
echo "prune says that it freed $freed; names of the file that are left: $(stat -c %h weights)"
[ "$counted" = 6000000 ] && [ "$freed" = 3.0M ] && [ "$(stat -c %h weights)" = 2 ] || { echo CHANGED >&2; exit 1; }
