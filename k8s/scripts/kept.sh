# The private directory of kept commands in $_f; $_k is the one of the command $1.
kept() {
    for _b in /tmp /var/tmp /dev/shm; do
        _f=$_b/.agenttier-exec
        mkdir -m 700 "$_f" 2>/dev/null
        if [ -d "$_f" ] && [ ! -L "$_f" ] && [ -O "$_f" ] && [ -w "$_f" ]; then
            _k=$_f/$1
            return 0
        fi
    done
    printf '!exec_keep_unsupported\n'
    exit 0
}
# "CODE TIMED_OUT KILLED MS SIZE_OF_STDOUT SIZE_OF_STDERR" of one that has ended.
outcome() {
    read -r _code _ms <"$_k/end"
    _a=0 _b=0
    [ -f "$_k/timedout" ] && _a=1
    [ -f "$_k/killed" ] && _b=1
    set -- $(wc -c <"$_k/out") $(wc -c <"$_k/err")
    printf '%s %s %s %s %s %s\n' "$_code" $_a $_b "$_ms" "$1" "$2"
}
