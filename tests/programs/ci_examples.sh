# The jobs of docs/examples for GitHub Actions and GitLab: read as YAML, and every step but the installation run, with a
# good baseline and with one that the run cannot reach.
. tests/programs/tap.sh

# The one that comes with Debian, or whichever has the package.
python=
for candidate in python3 /usr/bin/python3; do
    if "$candidate" -c 'import yaml' 2>/dev/null; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
    skip_case "the jobs of docs/examples run" "no python3 with yaml"
    finish
fi

cat >"$scratch/steps.py" <<'PY'
# steps.py FILE FOLDER: writes the scripts of the job as FOLDER/1.sh, ..., without those that install.
import sys, yaml
job, folder = yaml.safe_load(open(sys.argv[1])), sys.argv[2]
if "jobs" in job:
    assert job[True] == ["pull_request"] or job["on"], "no trigger"
    (gate,) = job["jobs"].values()
    assert gate["runs-on"] and gate["env"].keys() == {"PIPELINE", "BASELINE"}
    steps = gate["steps"]
    assert all(("run" in s) != ("uses" in s) and ("run" not in s or s["name"]) for s in steps), steps
    assert [s["uses"] for s in steps if "uses" in s] == ["actions/checkout@v4", "actions/upload-artifact@v4"]
    assert steps[-1]["if"] == "always()" and "junit.xml" in steps[-1]["with"]["path"]
    scripts = [s["run"] for s in steps if "run" in s and not s["name"].startswith("Install")]
else:
    (gate,) = job.values()
    assert gate["variables"].keys() == {"PIPELINE", "BASELINE"} and gate["before_script"]
    assert gate["artifacts"]["reports"]["junit"] == "junit.xml" and gate["artifacts"]["when"] == "always"
    scripts = ["\n".join(gate["script"])]
assert scripts and all(isinstance(s, str) for s in scripts), scripts
for i, script in enumerate(scripts):
    open("%s/%d.sh" % (folder, i + 1), "w").write(script + "\n")
PY
# run_job NAME BASELINE SHELL...: the scripts one after the other, up to the first that fails; its exit code.
run_job() {
    local name=$1 baseline=$2 script; shift 2
    for script in "$scratch/$name"/*.sh; do
        (cd "$scratch/$name" && PATH=$bin_path:$PATH PIPELINE=$scratch/pipeline.json BASELINE=$baseline \
            GITHUB_STEP_SUMMARY=$scratch/$name/page.md "$@" "$script") || return
    done
}
bin_path=$(cd "$bin" && pwd)
cat >"$scratch/pipeline.json" <<EOF
{ "schema": "ropebits-pipeline", "version": 1,
  "model": "$PWD/configs/demo-llama",
  "text": "$PWD/configs/demo-text/calibration.txt",
  "test_text": "$PWD/configs/demo-text/heldout.txt",
  "calibrate": { "n_tokens": 256, "context": 128 },
  "profile": { "budgets": [2], "methods": ["uniform", "block-gtq"] },
  "allocate": { "method": "block-gtq", "avg_bits": 3 } }
EOF
expect "a baseline is made" 0 "$bin/ropebits" run "$scratch/pipeline.json" -q -o "$scratch/made" \
    --baseline "$scratch/baseline.json" --update-baseline
check "  which is the summary" cmp "$scratch/baseline.json" "$scratch/made/summary.json"
sed 's/"logit_mae": [0-9.]*/"logit_mae": 0.5/' "$scratch/baseline.json" >"$scratch/better.json"

# ---- baselines of a run ----
run() { "$bin/ropebits" run "$scratch/pipeline.json" -q -o "$scratch/made" "$@"; }
expect "a run is not worse than its own baseline" 0 run --baseline "$scratch/baseline.json"
stdout_has "summary.json against $scratch/baseline.json"
stdout_has "yes: none of"
expect "one that it cannot reach is told in the table" 3 run --baseline "$scratch/better.json"
stdout_has "WORSE"
expect "  and on standard error where a document is printed" 3 run --baseline "$scratch/better.json" --json
check "  which stays one" "$python" -c 'import json, sys; json.load(open(sys.argv[1]))' "$scratch/stdout"
stderr_has "WORSE"
expect "  but not with limits wide enough" 0 run --baseline "$scratch/better.json" --max-regression 1000
sed 's|"allocate":|"compare": { "max_regression": { "logit_mae": 1000 } },\n  &|' "$scratch/pipeline.json" \
    >"$scratch/wide.json"
expect "  which the pipeline file may have" 0 "$bin/ropebits" run "$scratch/wide.json" -q -o "$scratch/made" \
    --baseline "$scratch/better.json"
sed 's/logit_mae/logit_mea/' "$scratch/wide.json" >"$scratch/misspelt.json"
expect "  where a metric that there is not is named" 2 \
    "$bin/ropebits" run "$scratch/misspelt.json" -q -o "$scratch/made"
stderr_has 'did you mean "logit_mae"?'
sed 's|"allocate":|"compare": { "max_growth": 1000 },\n  &|' "$scratch/pipeline.json" >"$scratch/grows.json"
sed -E 's/("true_bits": )[0-9.]+/\12/' "$scratch/baseline.json" >"$scratch/fewer.json"
grows() { "$bin/ropebits" run "$scratch/grows.json" -q -o "$scratch/made" --baseline "$scratch/fewer.json" "$@"; }
expect "bits may grow where the pipeline file says so" 0 grows
expect "  and not where the command line says 0" 3 grows --max-growth 0
expect "a baseline that is not there is told before anything runs" 1 "$bin/ropebits" run "$scratch/pipeline.json" \
    -o "$scratch/not-made" --baseline "$scratch/absent.json"
stderr_has "absent.json: no such baseline; --update-baseline makes one of this run"
check "  so nothing is there" test ! -e "$scratch/not-made/capture.h5"
expect "limits without a baseline are a usage error" 2 run --max-growth 1
cp "$scratch/better.json" "$scratch/old.json"
expect "a baseline that is updated does not fail the run" 0 run --baseline "$scratch/old.json" --update-baseline
stdout_has "WORSE"
check "  and is what the run made" cmp "$scratch/old.json" "$scratch/made/summary.json"
sed 's/"config_sha256": "[0-9a-f]*"/"config_sha256": "'"$(printf '%064d' 0)"'"/' "$scratch/baseline.json" \
    >"$scratch/other.json"
expect "one of another model is an error" 1 run --baseline "$scratch/other.json"
expect "  and can be replaced all the same" 0 run --baseline "$scratch/other.json" --update-baseline
check "  as a whole" cmp "$scratch/other.json" "$scratch/made/summary.json"

# ---- the jobs ----
for job in "github-actions bash -e" "gitlab-ci bash -eo pipefail"; do
    read -r name shell <<<"$job"
    mkdir "$scratch/$name"
    check "$name.yml is YAML with a job as the service wants it" "$python" "$scratch/steps.py" \
        "docs/examples/$name.yml" "$scratch/$name"
    # shellcheck disable=SC2086  # the shell and its options are words
    expect "  its steps pass with a good baseline" 0 run_job "$name" "$scratch/baseline.json" $shell
    check "  and leave a JUnit report" grep -q '<testsuite .*failures="0"' "$scratch/$name/junit.xml"
    # shellcheck disable=SC2086
    expect "  they fail with one that the run cannot reach" 3 run_job "$name" "$scratch/better.json" $shell
    check "  the report has the failures" grep -q '<failure type="worse"' "$scratch/$name/junit.xml"
    stdout_has "WORSE"
done
check "GitHub's page has the table" grep -qF '| **WORSE** |' "$scratch/github-actions/page.md"

finish
