# Other programs read a capture: h5py with hdf5plugin, and h5py and h5dump with our own filter plugin. The values are
# those of tests/calibrate/tiny_capture.h, by the same formula in numpy.
. tests/programs/tap.sh

cat >"$scratch/check.py" <<'PYTHON'
import hashlib, sys
import numpy as np, h5py
if sys.argv[2] == "hdf5plugin":
    import hdf5plugin

def vectors(s, layer, which, heads, tokens):
    h, t, d = np.ogrid[:heads, :tokens, :6]
    return ((s * 7 + layer * 5 + which * 3 + h * 11 + t * 13 + d * 17) % 251 - 125) / 8

# Blocks (0, 2) and (1, 3) turn; (4, 5) lies past rotary_dim. The mean is over tokens and, where a KV head has several
# query heads, over those too.
def energy(x):
    x = x.reshape(2, -1, 6).astype("f8")
    return np.stack([(x[..., [a, b]] ** 2).sum(-1).mean(-1) for a, b in ((0, 2), (1, 3), (4, 5))], -1)

dtype = np.dtype(sys.argv[3])
with h5py.File(sys.argv[1], "r") as f:
    text = lambda name: f.attrs[name].decode()
    assert text("schema") == "ropebits-capture" and f.attrs["schema_version"] == 1
    assert text("model_type") == "llama" and text("rope_kind") == "llama3" and text("rope_pairing") == "split-half"
    assert text("capture_point") == "pre-rope" and text("options") == '{"n_tokens": 33}'
    assert f.attrs["head_dim"] == 6 and f.attrs["rope_factor"] == 8.0
    assert f["rope/inv_freq"][:].tolist() == [1, 0.01]
    for s, (name, n) in enumerate((("calibration", 33), ("test", 17))):
        ids = f[name]["tokens"]
        assert ids.dtype == "<i4" and np.array_equal(ids[:], np.arange(n) * (s + 3) % 97)
        assert ids.attrs["tokens_sha256"].decode() == hashlib.sha256(ids[:].tobytes()).hexdigest()
        assert ids.attrs["context"] == 16
        for layer in range(2):
            g = f[name]["layer_%03d" % layer]
            q, k, v = (vectors(s, layer, which, heads, n) for which, heads in ((0, 4), (1, 2), (2, 2)))
            for key, x in (("q", q), ("k", k), ("v", v)):
                assert g[key].dtype == dtype and np.array_equal(g[key][:], x), (name, layer, key)
            assert np.allclose(g["q_energy"][:], energy(q), rtol=1e-14)
            assert np.allclose(g["k_energy"][:], energy(k), rtol=1e-14)
            assert np.allclose(g["k_mean"][:], k.mean(1), rtol=0, atol=1e-14)
            if sys.argv[2] == "frames":     # a chunk is one zstd frame: magic, then a content size in the header
                mask, frame = g["k"].id.read_direct_chunk((0, 0, 0))
                assert mask == 0 and frame[:4] == b"\x28\xb5\x2f\xfd" and frame[4] & 0xe0, frame[:8]
PYTHON

# The first python3 whose h5py has the filter; without one, the first with h5py.
has_filter='import h5py, hdf5plugin, numpy, sys; sys.exit(not h5py.h5z.filter_avail(32015))'
python=
for needs in "$has_filter" 'import h5py, numpy'; do
    for candidate in /usr/bin/python3 python3; do
        if [ -z "$python" ] && "$candidate" -c "$needs" 2>/dev/null; then python=$candidate; fi
    done
done
plugin=$PWD/$build/lib/hdf5-plugin
case $build in /*) plugin=$build/lib/hdf5-plugin ;; esac
writer=$build/tests/calibrate/test_capture_file

expect "a small capture is written in f16" 0 "$writer" --write "$scratch/tiny16.h5" f16
expect "a small capture is written in f32" 0 "$writer" --write "$scratch/tiny32.h5" f32

for bits in 16 32; do
    name="h5py with hdf5plugin reads the f$bits capture"
    if [ -z "$python" ]; then skip_case "$name" "no python3 with h5py"
    elif ! "$python" -c "$has_filter" 2>/dev/null; then
        skip_case "$name" "no hdf5plugin with the zstd filter (Debian's has none)"
    else check "$name" "$python" "$scratch/check.py" "$scratch/tiny$bits.h5" hdf5plugin "<f$((bits / 8))"
    fi
done

# A plugin with sanitizers in it does not load into a program without.
sanitized=${RB_SANITIZED:-0}
name="h5py with our plugin reads the f16 capture, and chunks are zstd frames with a size"
if [ "$sanitized" = 1 ]; then skip_case "$name" "the plugin is sanitized"
elif [ -z "$python" ]; then skip_case "$name" "no python3 with h5py"
else check "$name" env HDF5_PLUGIN_PATH="$plugin" "$python" "$scratch/check.py" "$scratch/tiny16.h5" frames "<f2"
fi

name="h5dump with our plugin prints the keys"
if [ "$sanitized" = 1 ]; then skip_case "$name" "the plugin is sanitized"
elif ! command -v h5dump >/dev/null; then skip_case "$name" "h5dump is not installed"
else
    expect "$name" 0 env HDF5_PLUGIN_PATH="$plugin" h5dump -d /test/layer_001/k -s 1,16,0 -c 1,1,6 "$scratch/tiny16.h5"
    # set 1, layer 1, keys, head 1, token 16: (7 + 5 + 3 + 11 + 208 + 17 d) % 251 - 125, in eighths
    stdout_has "(1,16,0): 13.625, -15.625, -13.5, -11.375, -9.25, -7.125"
fi

finish
