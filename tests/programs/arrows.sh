# The arrows of the house point one way (docs/architecture.md): core <- kernels, model <- the stages; a stage includes another stage's public headers only.
. tests/programs/tap.sh

public_headers="calibrate/capture_file.h texts/token_source.h calibrate/block_statistics.h texts/needle_template.h texts/needle_documents.h texts/documents_file.h
profile/profile_table.h profile/profile_file.h profile/profile_statistics.h profile/profile_summary.h
methods/allocator.h plan/plan_json.h plan/library/ropebits_plan.h plan/plan_rbp.h evaluate/evaluation_file.h"

# Rooms a room may include, besides itself.
allowed_rooms() {
    case $1 in
    core) echo "" ;;
    kernels | model) echo "core" ;;
    *) echo "core kernels model" ;;
    esac
}

violations() {  # violations ROOM
    local room=$1 rooms file header target
    rooms=" $room $(allowed_rooms "$room") "
    grep -HoE '^#include "[^"]+"' "$room"/*.[ch] 2>/dev/null | sed -E 's/^([^:]+):#include "([^"]+)"/\1 \2/' | while read -r file header; do
        target=${header%%/*}
        case $header in version.h | needle_templates.h) continue ;; */*) ;; *) echo "$file includes $header without its room"; continue ;; esac
        case $rooms in *" $target "*) continue ;; esac
        case $room in core | kernels | model) echo "$file includes $header"; continue ;; esac
        case " $(echo $public_headers) " in *" $header "*) ;; *) echo "$file includes $header" ;; esac
    done
}

for room in core kernels model calibrate profile allocate export evaluate run; do
    [ -d "$room" ] || continue
    found=$(violations "$room")
    if [ -z "$found" ]; then ok "$room includes only what its arrows allow"; else not_ok "$room includes only what its arrows allow" "$found"; fi
done

duplicate_names=$(find core kernels model calibrate profile allocate export evaluate run -name '*.[ch]' -printf '%f\n' | sort | uniq -d)
if [ -z "$duplicate_names" ]; then ok "file names are unique across the tree"; else not_ok "file names are unique across the tree" "$duplicate_names"; fi

finish
