# Fish completion for vreg. To install it: vreg completion fish > ~/.config/fish/completions/vreg.fish

function __vreg_complete
    command -q vreg; or return
    set -l words (commandline -opc)[2..-1]
    set -l current (string unescape -- (commandline -ct))
    # `command` ignores a function named vreg.
    set -l answer (command vreg __complete fish $words "$current" </dev/null 2>/dev/null)
    set -l head (string split -m 1 \t -- $answer[1])
    switch "$head[1]"
        case program
            # Complete the program and its arguments after --.
            set -l first (math (contains -i -- -- $words) + 1)
            complete -C (string join ' ' -- (string escape -- $words[$first..-1]) "$current")
        case files
            set -l rest (string sub -s (math (string length -- "$head[2]") + 1) -- "$current")
            # Fish expands no tilde in a variable.
            if string match -q '~/*' -- "$rest"
                set -l start (math (string length -- "$HOME") + 1)
                for file in (__fish_complete_path "$HOME"(string sub -s 2 -- "$rest"))
                    printf '%s~%s\n' "$head[2]" (string sub -s $start -- $file)
                end
            else
                for file in (__fish_complete_path "$rest")
                    printf '%s%s\n' "$head[2]" $file
                end
            end
        case values nospace
            for line in $answer[2..-1]
                printf '%s%s\n' "$head[2]" $line
            end
    end
end

complete -c vreg -e
complete -c vreg -f -a '(__vreg_complete)'
