# The private directory of kept commands in $base; $k is the one of the command $1.
kept() {
    for b in /tmp /var/tmp /dev/shm; do
        base=$b/.agenttier-exec
        mkdir -m 700 "$base" 2>/dev/null
        if [ -d "$base" ] && [ ! -L "$base" ] && [ -O "$base" ] && [ -w "$base" ]; then
            k=$base/$1
            return 0
        fi
    done
    printf '!exec_keep_unsupported\n'
    exit 0
}
centiseconds() {
    read -r u u1 </proc/uptime 2>/dev/null || u=0.00
    u=${u%.*}${u#*.}
}
# "CODE TIMED_OUT KILLED MS SIZE_OF_STDOUT SIZE_OF_STDERR" of one that has ended.
outcome() {
    read -r code ms <"$k/end"
    a=0 b=0
    [ -f "$k/timedout" ] && a=1
    [ -f "$k/killed" ] && b=1
    set -- $(wc -c <"$k/out") $(wc -c <"$k/err")
    printf '%s %s %s %s %s %s\n' "$code" $a $b "$ms" "$1" "$2"
}
