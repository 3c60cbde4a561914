# Completion of tollgate's command line for bash: source it, or copy it to /usr/share/bash-completion/completions/tollgate.
# It asks the program's own help, so it knows what this version knows.
_tollgate()
{
    local program=${COMP_WORDS[0]} current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local names words=() word
    # Lines such as "  keys new   make an API key".
    names=$("$program" --help 2>/dev/null | sed -n 's/^  \([a-z]\+\( [a-z]\+\)\?\)  *.*/\1/p')
    COMPREPLY=()
    if [ "$previous" = --config ] || [ "$previous" = --trace ] || [ "$previous" = --out ]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
    fi
    # The command is what stands before the first option.
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case $word in
            -*) break ;;
            *) words+=("$word") ;;
        esac
    done
    if grep -qx -- "${words[*]}" <<<"$names"; then
        names=$("$program" "${words[@]}" --help 2>/dev/null | sed -n 's/^  \(--[a-z-]\+\).*/\1/p')
    else
        names=$(sed -n "s/^${words[*]:+${words[*]} }\([a-z]\+\).*/\1/p" <<<"$names")$'\n'--help
    fi
    mapfile -t COMPREPLY < <(compgen -W "$names" -- "$current" | sort -u)
}
complete -o filenames -F _tollgate tollgate
