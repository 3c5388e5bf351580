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
sed -e '/"evaluate"/d' -e 's|"demo-|"'"$PWD"'/configs/demo-|' -e 's/"n_tokens": 2048/"n_tokens": 256/' \
    -e 's/"context": 1024/"context": 128/' -e 's/\[2, 3, 4\]/[2]/' configs/demo.json >"$scratch/pipeline.json"
expect "a baseline is made" 0 "$bin/ropebits" run "$scratch/pipeline.json" -q -o "$scratch/made" \
    --baseline "$scratch/baseline.json" --update-baseline
check "  which is the summary" cmp "$scratch/baseline.json" "$scratch/made/summary.json"
sed 's/"logit_mae": [0-9.]*/"logit_mae": 0.5/' "$scratch/baseline.json" >"$scratch/better.json"

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
