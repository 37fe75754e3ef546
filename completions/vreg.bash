# Bash completion for vreg. To load it: source <(vreg completion bash)

_vreg() {
  local line=${COMP_LINE:0:COMP_POINT} kind='' reply
  if [[ -z $line ]]; then
    # Another completion has called this function without a line.
    line="${COMP_WORDS[*]:0:COMP_CWORD+1}"
    line=${line// = /=} line=${line/% =/=}
  fi
  # `command` ignores an alias and a function named vreg.
  reply=$(command vreg __complete bash "$line" "$COMP_WORDBREAKS" "$COMP_TYPE" "${COLUMNS:-80}" </dev/null 2>/dev/null)
  COMPREPLY=()
  while IFS= read -r line; do
    if [[ -z $kind ]]; then kind=$line; else COMPREPLY+=("$line"); fi
  done <<<"$reply"
  case $kind in
    nospace) compopt -o nospace 2>/dev/null ;;
    files) compopt -o default 2>/dev/null ;;
    prefixed-files) _vreg_files "${COMPREPLY[0]}" "${COMPREPLY[1]-}" ;;
    program) _vreg_program ;;
  esac
}

# Completes a file after a part of the word that readline would replace, such as --file= if COMP_WORDBREAKS has no equals sign.
_vreg_files() {
  local file
  COMPREPLY=()
  while IFS= read -r file; do
    if [[ -d $file ]]; then file+=/; fi
    COMPREPLY+=("$1$(printf %q "$file")")
  done < <(compgen -f -- "$2")
  if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == */ ]]; then compopt -o nospace 2>/dev/null; fi
}

# Completes a program and its arguments after --.
_vreg_program() {
  local first=1 name
  while [[ ${COMP_WORDS[first]} != -- ]]; do ((first++ < COMP_CWORD)) || return; done
  ((first++))
  if declare -F _comp_command_offset >/dev/null; then
    _comp_command_offset "$first"
  elif declare -F _command_offset >/dev/null; then
    _command_offset "$first"
  elif ((COMP_CWORD > first)) || [[ ${COMP_WORDS[COMP_CWORD]} == */* ]]; then
    compopt -o default 2>/dev/null
  else
    while IFS= read -r name; do COMPREPLY+=("$name"); done < <(compgen -c -- "${COMP_WORDS[COMP_CWORD]}")
  fi
}

complete -F _vreg vreg
