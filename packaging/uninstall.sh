#!/bin/bash
# uninstall.sh ROOT: removes what install.sh wrote down in ROOT/lib/ropebits/installed-files: the files, and those of
# its folders that are empty now.
set -euo pipefail
root=$1
manifest=$root/lib/ropebits/installed-files
if [ ! -f "$manifest" ]; then
    echo "make uninstall: ropebits is not installed in $root: $manifest is not there" >&2
    exit 1
fi
mapfile -t paths <"$manifest"
for path in "${paths[@]}"; do
    case $path in */) ;; *) rm -f "$root/$path" ;; esac
done
# Deepest folders first.
for ((i = ${#paths[@]} - 1; i >= 0; i--)); do
    folder=$root/${paths[i]}
    case $folder in */) if [ -d "$folder" ]; then rmdir --ignore-fail-on-non-empty "$folder"; fi ;; esac
done
echo "removed ropebits from $root"
