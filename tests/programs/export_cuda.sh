# export --format cuda: the generated C reader gives what the definition gives, the kernels agree with both (run on the
# CPU by a few headers), and nvcc takes them without a warning where it is.
. tests/programs/tap.sh

cc=${CC:-gcc}
on_cpu=tests/programs/cuda_on_cpu
# A capture of made numbers: small heads, so that kernels on the CPU end soon.
make_tensors() { # make_tensors FILE QUERY_HEADS KV_HEADS HEAD_DIM VALUE_DIM
    python3 - "$@" <<'CODE'
import json, random, struct, sys
random.seed(7)
path, (q_heads, kv_heads, head_dim, value_dim) = sys.argv[1], map(int, sys.argv[2:])
tokens, header, data = 600, {}, b""
for layer in range(2):
    for what, heads, dims in ("q", q_heads, head_dim), ("k", kv_heads, head_dim), ("v", kv_heads, value_dim):
        mean = 0.3 if what == "k" else 0.0
        x = [random.gauss(mean, 4 * 0.9 ** (i % dims) + 0.05) for i in range(heads * tokens * dims)]
        header[f"layer_{layer:03d}.{what}"] = {"dtype": "F32", "shape": [heads, tokens, dims],
                                               "data_offsets": [len(data), len(data) + 4 * len(x)]}
        data += struct.pack(f"<{len(x)}f", *x)
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
open(path, "wb").write(struct.pack("<Q", len(text)) + text + data)
CODE
}
capture_of() { # capture_of NAME OPTION...: NAME.h5 and its profile, of NAME.safetensors
    "$bin/ropebits-import" -q "$scratch/$1.safetensors" --n-test-tokens 100 --context 100 --rope-theta 10000 \
        --model-type tiny "${@:2}" -o "$scratch/$1.h5" >/dev/null
    "$bin/ropebits-profile" -q --no-curves "$scratch/$1.h5" --budgets 3 -o "$scratch/$1-profile.h5" >/dev/null
}
# Interleaved pairs, and dims that do not turn; and more query heads of a KV head than a thread block takes, values of a
# size of their own.
make_tensors "$scratch/partial.safetensors" 4 2 32 32
capture_of partial --pairing interleaved --rotary-dim 24
make_tensors "$scratch/split.safetensors" 9 1 40 24
capture_of split --pairing split-half
plan_of() { # plan_of NAME CAPTURE OPTION...
    "$bin/ropebits-allocate" -q "$scratch/$2-profile.h5" "${@:3}" -o "$scratch/$1.json" >/dev/null
}
export_cuda() { "$bin/ropebits-export" "$scratch/$1.json" --format cuda "${@:2}"; }

reader_agrees() { # reader_agrees FOLDER
    (cd "$1" && $cc -std=c99 -O1 -Wall -Wextra -Wconversion -Wpedantic -Werror -o check_decoder check_decoder.c \
        plan_decoder.c plan_tables.c test_vectors.c -lm && ./check_decoder)
}
kernels_agree() { # kernels_agree FOLDER
    local folder=$1-cpu part
    rm -rf "$folder"
    cp -r "$1" "$folder"
    python3 "$on_cpu/rewrite.py" "$folder" || return 1
    for part in plan_decoder plan_tables test_vectors; do
        $cc -std=c99 -O1 -c "$folder/$part.c" -o "$folder/$part.o" || return 1
    done
    g++ -std=c++17 -O1 -Wall -Wextra -Werror -I"$on_cpu" -o "$folder/check" "$folder"/check.cpp "$folder"/*.o -lm &&
        "$folder/check"
}
# The sources are the same in every build, so the plain one's test is enough.
why_not="done in the plain build"
printf '_Float16 x = 1;\nint main() { return (float)x != 1; }\n' >"$scratch/half.cpp"
if [ "${RB_SANITIZED:-0}" != 1 ]; then
    why_not="no g++ with _Float16"
    g++ -std=c++17 -o "$scratch/half" "$scratch/half.cpp" 2>/dev/null && why_not=
fi

# name, capture, and what makes the plan
while read -r name capture options; do
    # shellcheck disable=SC2086  # options are words
    plan_of "$name" "$capture" $options
    expect "$name: sources are written" 0 export_cuda "$name" --capture "$scratch/$capture.h5" -o "$scratch"
    check "  the reader gives what the definition gives" reader_agrees "$scratch/$name-cuda"
    if [ -z "$why_not" ]; then
        check "  and the kernels agree, on the CPU" kernels_agree "$scratch/$name-cuda"
    else
        skip_case "  and the kernels agree, on the CPU" "$why_not"
    fi
done <<'PLANS'
fp16-values partial --method uniform --avg-bits 3 --rotation hadamard --value-bits 16
block-gtq split --method block-gtq --avg-bits 2
exact partial --method optimal --true-bits 3 --sink 2 --recent 5
center split --method optimal-center --true-bits 2.5 --norm fp16
levels partial --method block-codebook --true-bits 6
trellis split --method trellis --true-bits 3 --value-bits 3
mixed partial --method block-codebook --true-bits 2.25 --value-codec trellis --value-bits 2.25
PLANS
expect "the same again" 0 export_cuda exact --capture "$scratch/partial.h5" -o "$scratch/again"
rm -f "$scratch/exact-cuda/check_decoder"
check "  gives the same bytes" diff -r "$scratch/exact-cuda" "$scratch/again/exact-cuda"

# The checks can fail: another byte of a record, another number of the reader.
spoil() { sed -i "$1" "$scratch/again/exact-cuda/$2"; }
spoil '/^const uint8_t test_records/,/}/ s/^    \([0-9]*\),/    255,/' test_vectors.c
if reader_agrees "$scratch/again/exact-cuda" >"$scratch/said"; then
    not_ok "other codes are not restored alike"
else
    check "other codes are not restored alike" grep -q "off by" "$scratch/said"
fi

expect "without a capture vectors are made" 0 export_cuda mixed -o "$scratch/made"
check "  and it is said" grep -q 'test_source\[\] = "made: ' "$scratch/made/mixed-cuda/test_vectors.c"
check "  the reader restores them" reader_agrees "$scratch/made/mixed-cuda"

expect "a capture without the format is a usage error" 2 "$bin/ropebits-export" "$scratch/mixed.json" \
    --capture "$scratch/partial.h5" -o "$scratch/none"
expect "a capture of another model is refused" 1 export_cuda mixed --capture "$scratch/split.h5" -o "$scratch/none"
stderr_has "the plan and $scratch/split.h5: n_q_heads 4 and 9"
check "  nothing is written" [ ! -e "$scratch/none/mixed-cuda" ]
check "no header of ropebits is needed" \
    lacks '#include .*ropebits' "$scratch"/mixed-cuda/*.[ch] "$scratch"/mixed-cuda/*.cu*

# ---- nvcc ----
nvcc_takes() { # nvcc_takes FOLDER
    local arch options=()
    for arch in 80 90 120; do options+=(-gencode "arch=compute_$arch,code=sm_$arch"); done
    (cd "$1" && nvcc -std=c++17 -O1 -Werror all-warnings -Xcompiler -Wall,-Wextra,-Werror "${options[@]}" \
        -o check check.cu plan_decoder.c plan_tables.c test_vectors.c)
}
if [ "${RB_SANITIZED:-0}" = 1 ]; then
    skip_case "nvcc takes the sources" "done in the plain build"
elif ! command -v nvcc >/dev/null; then
    skip_case "nvcc takes the sources" "no nvcc"
else
    for name in exact mixed; do
        check "nvcc takes $name for sm_80, sm_90 and sm_120 without a warning" nvcc_takes "$scratch/$name-cuda"
    done
fi

finish
