# encode: vectors of a capture and of files of every kind, as .npz, .safetensors, JSON and text; and the way back.
. tests/programs/tap.sh

"$bin/ropebits-calibrate" -q --values --model configs/demo-llama --text configs/demo-text/calibration.txt \
    --n-tokens 256 --context 128 -o "$scratch/capture.h5" >/dev/null
"$bin/ropebits-profile" -q --no-curves "$scratch/capture.h5" --budgets 3 -o "$scratch/p.h5" >/dev/null
encode() { "$bin/ropebits-encode" "$@" --layer 1 --kv-head 1; }
same_array() { # same_array A.npz B.npz NAME: python compares them, without numpy
    python3 - "$@" <<'CODE'
import sys, zipfile
a, b = (zipfile.ZipFile(path).read(sys.argv[3] + ".npy") for path in sys.argv[1:3])
sys.exit(a != b)
CODE
}

for method in block-gtq optimal-center block-codebook trellis; do
    plan=$scratch/$method.json codes=$scratch/$method.npz
    "$bin/ropebits-allocate" -q "$scratch/p.h5" --method $method --avg-bits 3 -o "$plan" >/dev/null
    expect "$method: keys of a capture" 0 encode "$plan" "$scratch/capture.h5" --n-vectors 40 -o "$codes"
    stdout_has "40 keys of layer 1, KV head 1"
    expect "$method: its vectors give the same file" 0 encode "$plan" "$codes" --tensor vectors -o "$scratch/again.npz"
    check "  byte for byte" cmp "$codes" "$scratch/again.npz"
    expect "$method: its codes are restored" 0 encode "$plan" "$codes" --decode -o "$scratch/back.npz"
    check "  as they were" same_array "$codes" "$scratch/back.npz" restored
    expect "$method: values" 0 encode "$plan" "$scratch/capture.h5" --values -o "$scratch/values.npz"
    expect "$method: restored values" 0 encode "$plan" "$scratch/values.npz" --values --decode -o "$scratch/back.npz"
    check "  as they were" same_array "$scratch/values.npz" "$scratch/back.npz" restored
done

# Other files: from the array in the .npz, without numpy.
plan=$scratch/block-gtq.json codes=$scratch/block-gtq.npz
unzip() { # unzip FILE.npz NAME.npy
    python3 -c 'import sys, zipfile; sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read(sys.argv[2]))' "$@"
}
unzip "$codes" vectors.npy >"$scratch/vectors.npy"
tail -c $((40 * 64 * 4)) "$scratch/vectors.npy" >"$scratch/vectors.f32"
expect "vectors of a .npy" 0 encode "$plan" "$scratch/vectors.npy" -o "$scratch/out.npz"
check "  give the same file" cmp "$codes" "$scratch/out.npz"
expect "raw vectors" 0 encode "$plan" "$scratch/vectors.f32" -o "$scratch/out.npz"
check "  give the same file" cmp "$codes" "$scratch/out.npz"
expect "codes as .safetensors" 0 encode "$plan" "$scratch/vectors.f32" -o "$scratch/out.safetensors"
expect "  which it reads" 0 encode "$plan" "$scratch/out.safetensors" --decode -o "$scratch/back.npz"
check "  and restores alike" same_array "$codes" "$scratch/back.npz" restored
expect "some of them as text" 0 encode "$plan" "$scratch/vectors.npy" --first 3 --n-vectors 2
check "  codes of 24 bytes and norms" grep -qE "^       1  [0-9a-f]{48}  ([0-9a-f]{4})+$" "$scratch/stdout"
check "  two lines and their heading" [ "$(wc -l <"$scratch/stdout")" = 3 ]
expect "and as JSON" 0 encode "$plan" "$scratch/vectors.npy" --json
check "  with the bytes of the .npz" python3 - "$scratch/stdout" "$codes" <<'CODE'
import json, sys, zipfile
vectors = json.load(open(sys.argv[1]))["vectors"]
packed, norms = (zipfile.ZipFile(sys.argv[2]).read(name + ".npy") for name in ("packed", "norms"))
assert packed.endswith(b"".join(bytes.fromhex(v["packed"]) for v in vectors)) and len(vectors) == 40
assert norms.endswith(b"".join(bytes.fromhex(v["norms"]) for v in vectors))
CODE
if python3 -c 'import numpy' 2>/dev/null; then
    check "numpy reads the .npz" python3 - "$codes" <<'CODE'
import numpy, sys
codes = numpy.load(sys.argv[1])
assert codes["vectors"].shape == codes["restored"].shape == (40, 64) and codes["restored"].dtype == "f4"
assert codes["packed"].shape == (40, 24) and codes["packed"].dtype == "u1" and codes["norms"].dtype == "f2"
CODE
else
    skip_case "numpy reads the .npz" "python3 has no numpy"
fi

# ---- what is refused ----
refused() { # refused NAME PATTERN ARGUMENT...
    expect "$1" 1 "$bin/ropebits-encode" "${@:3}" -o "$scratch/none.npz"
    stderr_has "$2"
    stderr_lines 1
    check "  nothing is written" no_output "$scratch/none.npz"
}
head -c 100 "$scratch/vectors.f32" >"$scratch/short.f32"
head -c 100 "$scratch/vectors.npy" >"$scratch/short.npy"
printf '\0\0\300\177%.0s' {1..64} >"$scratch/nan.f32"
refused "a layer that the plan has not" "it has no layer 4, expected 0 to 3" "$plan" "$scratch/vectors.npy" --layer 4
refused "vectors of another size" "last dim is 25, expected vectors of 64" "$plan" "$scratch/short.f32"
refused "a .npy that is cut" "ends within its header" "$plan" "$scratch/short.npy"
refused "a number that is none" "a value is not finite" "$plan" "$scratch/nan.f32"
refused "an .npz without saying which array" "4 arrays in it, the first is \"vectors\"" "$plan" "$codes"
refused "codes of another head" "array \"norms\" is U8 with 2 dims, expected F16" \
    "$plan" "$scratch/optimal-center.npz" --decode --layer 1 --kv-head 1
refused "a file of another kind" "none of .npy, .npz" "$plan" "$plan"

finish
