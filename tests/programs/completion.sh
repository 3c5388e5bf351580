# Completion for bash and zsh: what the shells offer, which comes from the option tables of the programs.
. tests/programs/tap.sh

export PATH=$PWD/$bin:$PATH
case $bin in /*) PATH=$bin:$PATH ;; esac
mkdir "$scratch/here"
touch "$scratch/here/plan.json" "$scratch/here/two words.json"

# ---- what programs say of themselves ----
five_columns() {    # five_columns PROGRAM: an option a line
    ! "$1" --complete | grep -vqP '^--[a-z-]+\t-[a-zA-Z-]\t(flag|word|list|file|value)\t[^\t]+\t[^\t]+$'
}
for program in "$bin"/ropebits-*; do
    name=${program##*/}
    "$program" --help | grep -oE -- '^(  |      )(-[a-z], )?--[a-z-]+' | grep -oE -- '--[a-z-]+' | sort >"$scratch/want"
    "$program" --complete | cut -f1 | sort >"$scratch/have"
    check "$name --complete has the options of --help" cmp "$scratch/want" "$scratch/have"
    check "  five columns a line" five_columns "$program"
done
expect "the front command names its programs" 0 "$bin/ropebits" --complete
for program in "$bin"/ropebits-*; do
    check "  ${program##*/ropebits-} too" grep -q "^${program##*/ropebits-}	" "$scratch/stdout"
done
expect "--complete with anything else is no option" 2 "$bin/ropebits-compare" --complete a.json

# ---- bash ----
# As readline does: words cut at blanks and at =, the cursor after the last.
cat >"$scratch/complete.bash" <<'EOF'
source "$1"
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
compopt() { :; }        # of readline, which is not here
_ropebits "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
EOF
completion=$PWD/packaging/completion.bash
completes() {   # completes NAME WANTED WORD...: WANTED has a blank between words
    local name=$1 wanted=$2 got; shift 2
    got=$(cd "$scratch/here" && bash --norc "$scratch/complete.bash" "$completion" "$@" 2>&1 | tr '\n' ' ')
    equal "$name" "$wanted" "${got% }" "words: $*"
}
completes "bash: programs by their beginning" "explain export" ropebits ex
completes "bash: and after help" "evaluate" ropebits help ev
completes "bash: the options of a program" "--max-regression --max-growth --max-needles-lost" ropebits compare --max
completes "bash: a program by its own name" "--max-regression --max-growth --max-needles-lost" ropebits-compare --max
completes "bash: a program by its path" "--max-regression --max-growth --max-needles-lost" \
    "$PWD/$bin/ropebits" compare --max
completes "bash: the choices of an option" "haar hadamard" ropebits allocate p.h5 --rotation ha
completes "bash: and after =" "haar hadamard" ropebits allocate p.h5 --rotation = ha
completes "bash: all of them right after =" "haar hadamard" ropebits allocate p.h5 --rotation =
completes "bash: the next one of a list" "rbp,safetensors" ropebits export plan.json --format rbp,saf
completes "bash: words of a device" "cuda" ropebits profile --device cu
completes "bash: files for an option that takes one" "plan.json" ropebits export --summary pl
completes "bash: for a short option" "plan.json" ropebits run -o pl
completes "bash: and by default" "plan.json" ropebits inspect pl
completes "bash: with blanks in their names" "two words.json" ropebits inspect two
completes "bash: after a flag too" "plan.json" ropebits inspect --json pl
completes "bash: nothing for a number" "" ropebits inspect --layer pl
completes "bash: nothing for a program that is not there" "" ropebits nothing --met
check "bash: the programs are known by name" \
    bash --norc -c 'source "$1"; complete -p ropebits && complete -p ropebits-run' - "$completion"

# ---- zsh ----
if command -v zsh >/dev/null 2>&1; then
    check "zsh: the file is whole" zsh -f -n packaging/completion.zsh
    mkdir "$scratch/functions"
    cp packaging/completion.zsh "$scratch/functions/_ropebits"
    # A shell on a pseudo terminal gets a line and a Tab; what it shows is read back.
    cat >"$scratch/complete.zsh" <<'EOF'
zmodload zsh/zpty
folder=$1 typed=$2
TERM=dumb zpty shell zsh -f -i
zpty -w shell "PS1= PS2= RPS1=; stty -echo cols 200 rows 100; fpath=($folder \$fpath); autoload -Uz compinit" \
    "; compinit -u -D; LISTMAX=1000; print BEG''IN"
zpty -r shell out '*BEGIN*'
zpty -w -n shell "$typed"$'\t\t'
sleep 1
zpty -w -n shell $'\x15print -r EN""D\n'
zpty -r shell out '*END*'
print -r -- $out
zpty -d shell
EOF
    offers() {  # offers NAME TYPED WORD...
        local name=$1 typed=$2 word; shift 2
        (cd "$scratch/here" && timeout 60 zsh -f "$scratch/complete.zsh" "$scratch/functions" "$typed") \
            >"$scratch/stdout" 2>&1
        for word in "$@"; do check "$name: $word" grep -qF -- "$word" "$scratch/stdout"; done
    }
    offers "zsh: programs" "ropebits ex" explain export
    offers "zsh: options of a program" "ropebits compare --max" --max-regression --max-needles-lost \
        "how much worse a number may be"
    offers "zsh: a program by its own name" "ropebits-compare --max" --max-regression
    offers "zsh: the choices of an option" "ropebits allocate --rotation ha" haar hadamard
    offers "zsh: files" "ropebits inspect pl" plan.json
else
    skip_case "zsh: completes" "no zsh here"
fi

finish
