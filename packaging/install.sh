#!/bin/bash
# install.sh STAGE ROOT: copies the staged tree into ROOT (DESTDIR and PREFIX) and writes there, in
# lib/ropebits/installed-files, which files and which new folders these are, so that uninstall.sh removes exactly them.
# What an earlier installation left there goes first.
set -euo pipefail
stage=$1 root=$2
manifest=lib/ropebits/installed-files
umask 022

if [ -f "$root/$manifest" ]; then "$(dirname "$0")/uninstall.sh" "$root"; fi
mkdir -p "$root"
list=$(mktemp)
trap 'rm -f "$list"' EXIT
while read -r folder; do
    if [ ! -d "$root/$folder" ]; then
        mkdir "$root/$folder"
        echo "$folder/" >>"$list"
    fi
done < <(find "$stage" -mindepth 1 -type d -printf '%P\n' | sort)
while read -r file; do
    rm -f "$root/$file"         # a running program keeps its file
    cp -P --preserve=mode "$stage/$file" "$root/$file"
    echo "$file" >>"$list"
done < <(find "$stage" ! -type d -printf '%P\n' | sort)
echo "$manifest" >>"$list"
cp "$list" "$root/$manifest"
chmod 644 "$root/$manifest"
echo "installed ropebits in $root"
