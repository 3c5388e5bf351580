# bash completion of ropebits and its programs. It asks the programs themselves (`ropebits NAME --complete`), so it
# knows every option they have: its line is --name, -x, what the argument is, the words it may be, the help, with tabs
# between (core/options.h).

# Words that begin with what is typed; $2 is the part of a comma list that stands already.
_ropebits_words() {     # _ropebits_words "WORD WORD .." [BEFORE]
    local word
    for word in $1; do
        [[ ${2-}$word == "$cur"* ]] && COMPREPLY+=("${2-}$word")
    done
}

_ropebits_files() {
    compopt -o filenames 2>/dev/null
    local IFS=$'\n'
    # shellcheck disable=SC2207  # a line a file
    COMPREPLY=($(compgen -f -- "$cur"))
}

# The argument of option $1 of the table on stdin.
_ropebits_argument() {
    local name short kind words _help
    while IFS=$'\t' read -r name short kind words _help; do
        [[ $1 == "$name" || $1 == "$short" ]] || continue
        [[ $words == - ]] && words=
        case $kind in
        flag) return 1 ;;
        list)
            local before=
            [[ $cur == *,* ]] && before=${cur%,*},
            _ropebits_words "${words//,/ }" "$before"
            compopt -o nospace 2>/dev/null
            ;;
        word) _ropebits_words "${words//,/ }" ;;
        file)
            _ropebits_words "${words//,/ }"
            [[ ${#COMPREPLY[@]} -gt 0 ]] || _ropebits_files
            ;;
        esac
        return 0
    done
    return 1
}

_ropebits() {
    local program=${1/#\~/$HOME} cur=${COMP_WORDS[COMP_CWORD]} first=1 option='' table
    COMPREPLY=()
    # `ropebits NAME`: what follows is NAME's. `ropebits-NAME` is a program of its own.
    if [[ ${program##*/} == ropebits ]]; then
        if [[ $COMP_CWORD -eq 1 || ( $COMP_CWORD -eq 2 && ${COMP_WORDS[1]} == help ) ]]; then
            _ropebits_words "$("$program" --complete 2>/dev/null | cut -f1)"
            return
        fi
        first=2
        table=$("$program" "${COMP_WORDS[1]}" --complete 2>/dev/null) || return
    else
        table=$("$program" --complete 2>/dev/null) || return
    fi
    # bash cuts `--name=value` into three words.
    if [[ $cur == = ]]; then
        option=${COMP_WORDS[COMP_CWORD - 1]} cur=
    elif [[ $COMP_CWORD -ge 2 && ${COMP_WORDS[COMP_CWORD - 1]} == = ]]; then
        option=${COMP_WORDS[COMP_CWORD - 2]}
    elif [[ $COMP_CWORD -gt $first ]]; then
        option=${COMP_WORDS[COMP_CWORD - 1]}
    fi
    if [[ $option == -* ]] && _ropebits_argument "$option" <<<"$table"; then return; fi
    if [[ $cur == -* ]]; then
        _ropebits_words "$(cut -f1 <<<"$table")"
    else
        _ropebits_files
    fi
}

complete -F _ropebits ropebits
# The programs by their own names, where they are on PATH. Loaded on demand, this file goes by each of their names too.
for _ropebits_name in $(compgen -c ropebits-) "${BASH_SOURCE[0]##*/}"; do
    [[ $_ropebits_name == ropebits-* ]] && complete -F _ropebits "$_ropebits_name"
done
unset _ropebits_name
