# For each of "$@" a line "MODE SIZE MTIME NAME": MODE in hex from stat, or ls's letters.
attributes() {
    if stat -c %f / >/dev/null 2>&1; then
        if printf 'a\0' | xargs -0 echo >/dev/null 2>&1; then
            printf '%s\0' "$@" | xargs -0 stat -c '%f %s %Y %n' -- 2>/dev/null
        else
            for f in "$@"; do stat -c '%f %s %Y %n' -- "$f" 2>/dev/null; done
        fi
        return
    fi
    for f in "$@"; do
        a=$(ls -ldn -- "$f" 2>/dev/null) || continue
        m=$(date -r "$f" +%s 2>/dev/null) || m=0
        set -f
        printf '%s %s\n' "$(set -- $a && case $5 in *[!0-9]*) echo "$1 0" ;; *) echo "$1 $5" ;; esac)" "$m $f"
        set +f
    done
}
# The names of "$@", their attributes, and the targets of those that are links.
entries() {
    printf '%s\0' "$@" ''
    attributes "$@"
    printf '\0'
    for f in "$@"; do
        [ -L "$f" ] || continue
        t=$(readlink -- "$f" 2>/dev/null && echo x) || continue
        t=${t%?x}
        printf '%s\0%s\0' "$f" "$t"
    done
    printf '\0'
}
