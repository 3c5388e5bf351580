# The import program: a capture that went out as tensors comes back as the same numbers, and what it refuses.
. tests/programs/tap.sh

import=$bin/ropebits-import
model=configs/demo-llama
export_capture() { "$build/tests/calibrate/test_import" --export "$@"; }
profile_of() {      # profile_of CAPTURE JSON
    "$bin/ropebits-profile" -q "$1" --budgets 2,3 --methods uniform,block-gtq -o "$scratch/p.h5" --json >"$2"
}

expect "--help is a success on stdout" 0 "$import" --help
stdout_has "layer_%03d.q"
expect "no file is a usage error" 2 "$import" -o "$scratch/x.h5"
expect "no output is a usage error" 2 "$import" x.npz
stderr_has "no output"

"$bin/ropebits-calibrate" -q --model $model --text configs/demo-text/calibration.txt --test-text \
    configs/demo-text/heldout.txt --n-tokens 300 --context 128 --values --dtype f32 -o "$scratch/a.h5" >/dev/null
check "a capture goes out as tensors" export_capture "$scratch/a.h5" "$scratch/a.safetensors"
profile_of "$scratch/a.h5" "$scratch/a.json"

# ---- the same numbers ----
same=("$scratch/a.safetensors" --context 128 --dtype f32)
expect "tensors are imported" 0 "$import" "${same[@]}" --config $model/config.json -o "$scratch/b.h5"
stdout_has "300 calibration, 300 test, sequences of 128 and 128"
stdout_has "values       imported"
profile_of "$scratch/b.h5" "$scratch/b.json"
# All but what an import does not know: the weights, and the tokens that begin the text.
known() { grep -vE '"(bos|weights_sample_sha256)"' "$1" | sed 's/,$//'; }
check "  with the profile that calibrate's own capture has" cmp <(known "$scratch/a.json") <(known "$scratch/b.json")
check "  and the same tensors, the values too" export_capture "$scratch/b.h5" "$scratch/b.safetensors"
check "    byte for byte" cmp "$scratch/a.safetensors" "$scratch/b.safetensors"
for threads in 1 2; do
    expect "with $threads threads they are too" 0 "$import" "${same[@]}" --config $model/config.json \
        --threads $threads -o "$scratch/c.h5"
    check "  with the same bytes" cmp "$scratch/b.h5" "$scratch/c.h5"
done
maes() { grep -E '"(logit_mae|true_bits)"' "$1"; }
expect "facts may come from options" 0 "$import" "${same[@]}" --pairing split-half --rope-theta 10000 \
    --model-type llama -o "$scratch/c.h5"
profile_of "$scratch/c.h5" "$scratch/c.json"
check "  with the same errors" cmp <(maes "$scratch/a.json") <(maes "$scratch/c.json")
expect "the other pairing is another model" 0 "$import" "${same[@]}" --pairing interleaved --rope-theta 10000 \
    --model-type llama -o "$scratch/c.h5"
profile_of "$scratch/c.h5" "$scratch/c.json"
check "  with other errors" test "$(maes "$scratch/a.json" | md5sum)" != "$(maes "$scratch/c.json" | md5sum)"
expect "it gives JSON" 0 "$import" "${same[@]}" --config $model/config.json --json -o "$scratch/c.h5"
stdout_has '"ropebits-import-result"'

# ---- reference files: a set of 96 tokens under names of its own ----
golden=(tests/fixtures/demo-llama-golden.safetensors --q-name q_rope.%d --k-name k_rope.%d --tokens-name input_ids)
expect "names are patterns" 0 "$import" "${golden[@]}" --n-test-tokens 32 --pairing split-half --rope-theta 10000 \
    -o "$scratch/golden.h5"
stdout_has "model        llama, 4 layers, 6 query heads and 2 KV heads of 64 dims"
stdout_has "64 calibration, 32 test"
stdout_has 'not read     9 other tensors, the first is "k_rot.0"'
expect "files of the test set are given by themselves" 0 "$import" "${golden[@]}" \
    --test tests/fixtures/demo-llama-golden.safetensors --config $model/config.json -o "$scratch/golden.h5"
stdout_has "96 calibration, 96 test"

# ---- .npz, as numpy writes it ----
python=
for candidate in /usr/bin/python3 python3; do
    if [ -z "$python" ] && "$candidate" -c 'import numpy' 2>/dev/null; then python=$candidate; fi
done
if [ -z "$python" ]; then skip_case ".npz files give the same capture" "no python3 with numpy"
else
    cat >"$scratch/npz.py" <<'PYTHON'
import json, sys
import numpy as np
raw = open(sys.argv[1], "rb").read()
n = int.from_bytes(raw[:8], "little")
kinds, tensors = {"F32": "<f4", "I32": "<i4"}, {}
for name, t in json.loads(raw[8:8 + n]).items():
    begin, end = t["data_offsets"]
    tensors[name] = np.frombuffer(raw[8 + n + begin:8 + n + end], kinds[t["dtype"]]).reshape(t["shape"])
np.savez(sys.argv[2] + "/stored.npz", **tensors)
np.savez_compressed(sys.argv[2] + "/deflated.npz", **tensors)
nan = {**tensors, "calibration.layer_002.k": tensors["calibration.layer_002.k"].copy()}
nan["calibration.layer_002.k"][1, 17, 5] = np.nan
np.savez(sys.argv[2] + "/nan.npz", **nan)
nan = {**tensors, "test.layer_001.v": tensors["test.layer_001.v"].copy()}
nan["test.layer_001.v"][1, 9, 5] = -np.inf
np.savez(sys.argv[2] + "/inf.npz", **nan)
PYTHON
    check "numpy writes .npz" "$python" "$scratch/npz.py" "$scratch/a.safetensors" "$scratch"
    for kind in stored deflated; do
        expect "a $kind .npz is imported" 0 "$import" "$scratch/$kind.npz" --context 128 --dtype f32 \
            --config $model/config.json -o "$scratch/c.h5"
        check "  to the same tensors" export_capture "$scratch/c.h5" "$scratch/c.safetensors"
        check "    byte for byte" cmp "$scratch/a.safetensors" "$scratch/c.safetensors"
    done
    expect "a NaN is named by set, layer, head and token" 1 "$import" "$scratch/nan.npz" --config $model/config.json \
        -o "$scratch/d.h5"
    stderr_has "nan.npz: calibration: layer 2 kv_head 1: 1 non-finite key, first at token 17"
    stderr_lines 1
    check "  and no file is left" test ! -e "$scratch/d.h5" -a ! -e "$scratch/d.h5.tmp"
    expect "and an infinity among the values too" 1 "$import" "$scratch/inf.npz" --config $model/config.json \
        -o "$scratch/d.h5"
    stderr_has "test layer 1 kv_head 1 token 9 dim 5: value -inf is not finite"
fi

# ---- what it refuses ----
expect "a file that is not there is named" 1 "$import" "${golden[@]}" --test "$scratch/absent.npz" \
    --config $model/config.json -o "$scratch/d.h5"
stderr_has "absent.npz: cannot open"
head -c 5000 "$scratch/a.safetensors" >"$scratch/cut.safetensors"
expect "a file that is cut is refused" 1 "$import" "$scratch/cut.safetensors" --config $model/config.json \
    -o "$scratch/d.h5"
stderr_has "cut.safetensors"
stderr_lines 1
expect "a test set in two ways is a usage error" 2 "$import" "${golden[@]}" --n-test-tokens 4 --test x \
    -o "$scratch/d.h5"
stderr_has "either --test or --n-test-tokens"
cp "$scratch/a.safetensors" "$scratch/twice.safetensors"
sed -i -E 's/"test\./"text./g; s/"calibration\.([a-z_0-9.]+)"/"\1"            /g' "$scratch/twice.safetensors"
expect "the same text for both sets is refused" 1 "$import" "$scratch/twice.safetensors" --test \
    "$scratch/twice.safetensors" --config $model/config.json -o "$scratch/d.h5"
stderr_has "test text repeats the calibration text"
sed -i 's/"tokens"/"nokens"/' "$scratch/twice.safetensors"
expect "  also where there are no token ids" 1 "$import" "$scratch/twice.safetensors" --test \
    "$scratch/twice.safetensors" --config $model/config.json -o "$scratch/d.h5"
stderr_has "test text repeats the calibration text"
check "  and no file is left" test ! -e "$scratch/d.h5" -a ! -e "$scratch/d.h5.tmp"

finish
