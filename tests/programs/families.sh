# Models of families that docs/models.md names, in the shape in which they are published: SmolLM2's tokenizer, which
# cuts digits apart, and a config.json of Llama 1 and 2, which does not state the RoPE base. The ids are those of the
# `tokenizers` library; the hash is that of the first 300 as int32.
. tests/programs/tap.sh

fixtures=tests/fixtures/claimed-families
ids_sha256=4b3cb19bae70963c3e791fe1f3f9296dd2582239e6b45cc19813a637f88e553a

for family in smollm2-shape llama1-2-no-rope-theta; do
    model=$scratch/$family
    mkdir "$model"
    cp $fixtures/$family/*.json $fixtures/model.safetensors "$model/"
    expect "$family: calibrates" 0 "$bin/ropebits-calibrate" --device cpu --model "$model" --text $fixtures/text.txt \
        --n-tokens 300 --n-test-tokens 300 --context 100 -o "$scratch/$family.h5"
    stdout_has "theta 10000"
    cp "$scratch/stderr" "$scratch/$family.err"
    expect "  profiles" 0 "$bin/ropebits-profile" --device cpu -q "$scratch/$family.h5" --budgets 2 --methods uniform \
        --no-curves -o "$scratch/$family-profile.h5"
    expect "  allocates" 0 "$bin/ropebits-allocate" -q "$scratch/$family-profile.h5" --method uniform --avg-bits 2 \
        -o "$scratch/$family.json"
    check "  the ids are those of the tokenizers library" grep -q "$ids_sha256" "$scratch/$family.json"
done
check "a RoPE base that is not stated is said in one line" \
    grep -q "config.json does not say rope_theta 10000: taken as transformers documents for llama" \
    "$scratch/llama1-2-no-rope-theta.err"
check "and one that is stated is not" lacks "does not say" "$scratch/smollm2-shape.err"
finish
