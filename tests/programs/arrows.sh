# The arrows of the house point one way (docs/architecture.md): a file includes only what stands in its own room or in a room below it.
. tests/programs/tap.sh

# Lowest first. Rooms of one line do not see each other.
levels="core
kernels model
texts
plan
methods
calibrate
profile
allocate
export
evaluate
run"
rooms=$(echo $levels)

level_of() { echo "$levels" | awk -v room="$1" '{ for (i = 1; i <= NF; i++) if ($i == room) print NR }'; }
sources() { find "$@" -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' | sort; }

# "FILE HEADER" for every include of ours, made headers left out.
includes() {
    sources "$@" | xargs grep -HoE '^#include "[^"]+"' | sed -E 's/^([^:]+):#include "([^"]+)"/\1 \2/' | grep -vE ' (version|needle_templates)\.h$'
}

violations() {  # violations ROOM
    local room=$1 own file header target level
    own=$(level_of "$room")
    includes "$room" | while read -r file header; do
        target=${header%%/*}
        level=$(level_of "$target")
        if [ "$target" = "$header" ] || [ -z "$level" ]; then echo "$file includes $header, which is in no room"
        elif [ "$target" != "$room" ] && [ "$level" -ge "$own" ]; then echo "$file includes $header"
        fi
    done
}

for room in $rooms; do
    found=$(violations "$room")
    if [ -z "$found" ]; then ok "$room includes only what lies below it"; else not_ok "$room includes only what lies below it" "$found"; fi
done

others=$(for folder in */; do
    folder=${folder%/}
    case $folder in tests | bench | build) continue ;; esac
    [ -z "$(level_of "$folder")" ] && [ -n "$(sources "$folder" | head -n 1)" ] && echo "$folder"
done)
if [ -z "$others" ]; then ok "every folder with sources has a level"; else not_ok "every folder with sources has a level" "$others"; fi

# The library that other programs link stands alone.
foreign=$(includes plan/library | grep -v ' plan/library/')
if [ -z "$foreign" ]; then ok "plan/library includes nothing else of ropebits"; else not_ok "plan/library includes nothing else of ropebits" "$foreign"; fi

# tsort names what lies in a circle.
circles=$(includes $rooms | tsort 2>&1 >/dev/null | sed -n 's/^tsort: \([^-].*\.[a-z]*\)$/\1/p')
if [ -z "$circles" ]; then ok "no two files include each other, by any way round"; else not_ok "no two files include each other, by any way round" "$circles"; fi

duplicate_names=$(sources $rooms | sed 's|.*/||' | sort | uniq -d)
if [ -z "$duplicate_names" ]; then ok "file names are unique across the tree"; else not_ok "file names are unique across the tree" "$duplicate_names"; fi

finish
