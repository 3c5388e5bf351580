# The arrows of the house point one way (docs/architecture.md): a file includes only what is in its own room or in a
# room below it.
. tests/programs/tap.sh

# Lowest first. Rooms of one line do not see each other.
levels="core
kernels model
texts
plan
cache
methods
calibrate
profile
allocate
evaluate
export
generate
tune
run"
read -r -d '' -a rooms <<<"$levels"

level_of() { echo "$levels" | awk -v room="$1" '{ for (i = 1; i <= NF; i++) if ($i == room) print NR }'; }
# Templates are no sources of ours: programs write them out.
sources() {
    find "$@" -path export/templates -prune -o \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' \) -print | sort
}

# "FILE HEADER" for every include of ours, but for headers that the build makes.
includes() {
    sources "$@" | xargs grep -HoE '^ *# *include *"[^"]+"' | sed -E 's/^([^:]+):.*"([^"]+)"$/\1 \2/' |
        grep -vE ' (version|needle_templates|cuda_templates|report_style)\.h$'
}

wrong_arrows() {    # wrong_arrows ROOM
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
for room in "${rooms[@]}"; do none "$room includes only what lies below it" "$(wrong_arrows "$room")"; done

folders_without_level() {
    local folder
    for folder in */; do
        folder=${folder%/}
        case $folder in tests | bench | build | docs) continue ;; esac
        [ -z "$(level_of "$folder")" ] && [ -n "$(sources "$folder" | head -n 1)" ] && echo "$folder"
    done
}
none "every folder with sources has a level" "$(folders_without_level)"

# Other programs link the library of plans without the rest, but for the definition of rotations, which one file takes.
foreign=$(includes plan/library | grep -v ' plan/library/' |
    grep -vxF 'plan/library/plan_rbp_rotation.c kernels/reference/rotation.h')
none "plan/library includes nothing else of ropebits" "$foreign"

# tsort names the files of a circle.
circles=$(includes "${rooms[@]}" | tsort 2>&1 >/dev/null | sed -n 's/^tsort: \([^-].*\.[a-z]*\)$/\1/p')
none "no two files include each other, by any way round" "$circles"

duplicate_names=$(sources "${rooms[@]}" | sed 's|.*/||' | sort | uniq -d)
none "file names are unique across the tree" "$duplicate_names"

finish
