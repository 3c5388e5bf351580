#compdef ropebits -P ropebits-*
# zsh completion of ropebits and its programs. It asks the programs themselves (`ropebits NAME --complete`), so it knows
# every option they have: its line is --name, -x, what the argument is, the words it may be, the help, with tabs between
# (core/options.h).

# The words first; a file may stand in their place.
_ropebits_word_or_file() {
    local -a options_of_compadd
    zparseopts -D -E -a options_of_compadd M+: X+: J+: V+: 1 2 o+: n F: x+: P: S: r: R: q s+: e
    compadd $options_of_compadd - "$@"
    _files
}

local program=${words[1]/#\~/$HOME} name short kind choices text line
local -a table programs spec command
command=($program)

if [[ ${program:t} == ropebits ]]; then
    if [[ $CURRENT -eq 2 || ( $CURRENT -eq 3 && $words[2] == help ) ]]; then
        for line in ${(f)"$($program --complete 2>/dev/null)"}; do
            spec=("${(@ps:\t:)line}")
            programs+=("$spec[1]:$spec[5]")
        done
        _describe -t programs 'ropebits program' programs
        return
    fi
    command+=($words[2])
    # What follows is the program's own: `ropebits NAME` counts as its name.
    words=("$words[1]-$words[2]" "${(@)words[3,-1]}")
    (( CURRENT-- ))
fi

# _arguments wants "(-x --name)"{-x,--name}"[help]:NAME:ACTION"; colons and brackets of the help are escaped.
for line in ${(f)"$($command --complete 2>/dev/null)"}; do
    spec=("${(@ps:\t:)line}")
    name=$spec[1] short=$spec[2] kind=$spec[3] choices=${spec[4]//,/ } text=${spec[5]//(#m)[\[\]:\\]/\\$MATCH}
    case $kind in
        flag) line="[$text]" ;;
        word) line="[$text]:word:($choices)" ;;
        list) line="[$text]:list:_sequence compadd - $choices" ;;
        file)
            if [[ $choices == - ]]; then
                line="[$text]:file:_files"
            else
                line="[$text]:word or file:_ropebits_word_or_file $choices"
            fi
            ;;
        *) line="[$text]:value: " ;;
    esac
    if [[ $short != -- ]]; then
        [[ $kind == flag ]] && table+=("$short$line") || table+=("$short+$line")
    fi
    [[ $kind == flag ]] && table+=("$name$line") || table+=("$name=$line")
done
_arguments -s -S $table '*:file:_files'
