# The page of a plan: every section from a small run, numbers against those of other programs, and how it looks in
# headless Chromium, where that is installed. test_plan_report.c has the numbers by hand and the large plan.
. tests/programs/tap.sh

python=$(command -v python3 || true)
chromium=$(command -v chromium || command -v chromium-browser || true)
page=$scratch/out/small.html

"$bin/ropebits-calibrate" -q --model configs/demo-llama --text configs/demo-text/calibration.txt \
    --test-text configs/demo-text/heldout.txt --n-tokens 256 --context 128 -o "$scratch/c.h5" >/dev/null
"$bin/ropebits-profile" -q --no-curves "$scratch/c.h5" --budgets 3,4 --methods uniform,block-gtq,optimal-center \
    -o "$scratch/p.h5" --json >"$scratch/s.json"
"$bin/ropebits-allocate" -q "$scratch/p.h5" --method optimal-center --avg-bits 3 --value-bits 3 \
    -o "$scratch/small.json" --json >"$scratch/cost.json"
"$bin/ropebits-evaluate" -q --model configs/demo-llama --plan "$scratch/small.json" --n-tokens 64 --context 64 \
    --text configs/demo-text/heldout.txt --needles 2 --needle-contexts 200 -o "$scratch/e.json" >/dev/null

export_page() { "$bin/ropebits-export" "$scratch/$1.json" --format report "${@:2}" -o "$scratch/out"; }
inputs=(--profile "$scratch/p.h5" --summary "$scratch/s.json" --evaluation "$scratch/e.json")
page_has() { check "  the page has: $1" grep -qF -- "$1" "$page"; }

expect "a page is written from all there is" 0 export_page small "${inputs[@]}"
stdout_has "$page"
check "no section is left out" lacks 'Left out' "$page"
for title in "Logit error at the same bytes" "What it does to the model" "Where it stands among plans of other sizes" \
    "Where the bits go" "Texts, coverage and sinks" "How to use it" "The plan's facts"; do
    page_has "$title</h2>"
done
page_has "ropebits export small.json --format rbp"
page_has 'RopebitsCache(&quot;small.rbp&quot;, model)'
page_has "2 needle questions are few"
cp "$page" "$scratch/first.html"
expect "  and again" 0 export_page small "${inputs[@]}"
check "the same inputs give the same bytes" cmp "$scratch/first.html" "$page"

expect "a profile says what its summary would" 0 \
    export_page small --profile "$scratch/p.h5" --evaluation "$scratch/e.json"
check "  with the same page" cmp "$scratch/first.html" "$page"
expect "a plan by itself has a page too" 0 export_page small
page_has "no profile was given"
expect "a summary is of no use to other formats" 2 "$bin/ropebits-export" "$scratch/small.json" --format rbp \
    --summary "$scratch/s.json" -o "$scratch/out"
stderr_has "expected it in --format"
cp "$scratch/small.json" "$scratch/a&b<i>.json"
expect "names of files are escaped" 0 export_page "a&b<i>"
check "  in text" grep -qF 'a&amp;b&lt;i&gt;' "$scratch/out/a&b<i>.html"
check "  and nowhere as they are" lacks 'a&b<i>' "$scratch/out/a&b<i>.html"
cp "$scratch/first.html" "$page"

# ---- the numbers ----
if [ -n "$python" ]; then
    read -r true_bits nominal_bits compression < <("$python" - "$scratch/cost.json" <<'EOF'
import json, sys
cost = json.load(open(sys.argv[1]))
print(f'{cost["key_true_bits"]:.3f} {cost["key_nominal_bits"]:.3f} {cost["compression"]:.2f}')
EOF
    )
    page_has "<b>$true_bits</b><span>true bits a dim; $nominal_bits nominal</span>"
    page_has "<b>$compression"
    for method in uniform block-gtq; do
        error=$("$python" tests/programs/report_page.py rival "$scratch/s.json" $method "$true_bits")
        check "  the error of $method at these bits, $error" \
            grep -qE ">$method</text><rect [^>]*/><text [^>]*>$error" "$page"
    done
    check "the page is sound: tags, names, captions, scopes, contrast, no script, no network" \
        "$python" tests/programs/report_page.py page "$page"
else
    skip_case "the numbers, and whether the page is sound" "no python3"
fi
if command -v xmllint >/dev/null; then
    check "xmllint finds no more than elements that it does not know" bash -c \
        '! xmllint --html --noout "$1" 2>&1 | grep "parser error" | grep -vE "Tag [a-z]+ invalid"' - "$page"
else
    skip_case "xmllint reads it" "no xmllint"
fi

# ---- in a browser ----
browse() {          # browse OPTION...: Chromium without a window, a profile or a network
    timeout 120 "$chromium" --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars \
        --user-data-dir="$scratch/chromium" --enable-logging=stderr --virtual-time-budget=3000 "$@" \
        2>>"$scratch/browser.log"
}
ground_is() {       # ground_is SCHEME NUMBER COLOUR WIDTH: the colour of a corner of the page
    browse --blink-settings=preferredColorScheme="$2" --window-size="$4",900 --screenshot="$scratch/$1-$4.png" \
        "file://$page" >/dev/null
    equal "the page is $1 where that is preferred, $4 wide" "$3" \
        "$("$python" tests/programs/report_page.py pixel "$scratch/$1-$4.png" 3 3 2>&1)"
}
if [ "${RB_SANITIZED:-0}" = 1 ]; then
    skip_case "how it looks in both schemes and at four widths" "the plain build shows it"
elif [ -n "$chromium" ] && [ -n "$python" ]; then
    for width in 390 1280; do
        ground_is light 1 "#ffffff" $width
        ground_is dark 0 "#101418" $width
    done
    "$python" tests/programs/report_page.py measured "$page" "$scratch/wrapper.html"
    browse --window-size=1400,900 --dump-dom "file://$scratch/wrapper.html" >"$scratch/dom"
    grep -oE '<li>[0-9]+ holds [0-9]+' "$scratch/dom" | sort -u | sed 's/<li>//' >"$scratch/widths"
    equal "it was shown at four widths" 4 "$(wc -l <"$scratch/widths")" "$(cat "$scratch/widths")"
    none "nothing is wider than the page" "$(awk '$3 > $1' "$scratch/widths")"
    check "the browser has nothing to complain of" lacks 'CONSOLE' "$scratch/browser.log"
else
    skip_case "how it looks in both schemes and at four widths" "no chromium, or no python3"
fi

# ---- inspect opens what the page is made from ----
inspect() { "$bin/ropebits-inspect" "$@"; }
expect "inspect opens a capture" 0 inspect "$scratch/c.h5"
stdout_has "capture      of queries and keys as they enter RoPE, f16"
stdout_has "calibration  256 tokens in sequences of 128"
check "  with a row a layer" test "$(grep -cE '^ +[0-3] +[0-9.]+ .* %$' "$scratch/stdout")" = 4
expect "  one of its layers" 0 inspect --layer 2 "$scratch/c.h5"
check "  with one row" test "$(grep -cE '^ +[0-3] +[0-9.]+ .* %$' "$scratch/stdout")" = 1
expect "  but none that it has not" 1 inspect --layer 4 "$scratch/c.h5"
stderr_has "--layer is 4, expected less than the 4 layers of"
expect "inspect opens a profile" 0 inspect "$scratch/p.h5"
stdout_has "profile      of capture"
stdout_has "optimal-center"
stdout_has "coverage     rare test keys lie"
if [ -n "$python" ]; then
    for file in c p; do inspect --json "$scratch/$file.h5" >"$scratch/$file.json"; done
    check "as JSON both say the same of the layers, and the profile has its summary" "$python" - \
        "$scratch/c.json" "$scratch/p.json" "$scratch/s.json" <<'EOF'
import json, sys
capture, profile, summary = (json.load(open(name)) for name in sys.argv[1:])
assert capture["kind"] == "capture" and profile["kind"] == "profile"
assert capture["layers"] == profile["layers"] and len(capture["layers"]) == 4
assert capture["vector_bytes"] == 2 * 2 * 256 * 4 * 8 * 64
assert profile["texts"]["calibration"]["n_tokens"] == 256
wanted, found = ({m["method"]: m["logit_mae"] for m in s["methods"]} for s in (summary, profile["summary"]))
assert wanted == found
EOF
else
    skip_case "as JSON both say the same of the layers" "no python3"
fi
head -c 5000 "$scratch/c.h5" >"$scratch/cut.h5"
expect "a capture that is cut is refused" 1 inspect "$scratch/cut.h5"
stderr_lines 1

finish
