# use: get nap tree started
# Parameters: nonce of a terminal. Says "+PID START" of a watch, which is there as long as the Router holds this
# input: lines keep it, an empty one or the end ends it. Then the terminal is hung up; "+gone" when all of it is.
# The session of the terminal's script $1 in $live, but what ignores hangups, as nohup has it. That cannot be asked of
# the shell itself, which has inherited it then.
session() {
    scan
    live=
    for e in $all; do
        p=${e%%:*}
        r=${e#*:}
        case ${r#*:} in "$1:"[ZX]:*) continue ;; "$1:"*) ;; *) continue ;; esac
        if [ "$p" != "$1" ] && [ "${r%%:*}" != "$1" ]; then
            m=
            while read -r k v; do case $k in SigIgn:) m=$v && break ;; esac done 2>/dev/null <"/proc/$p/status"
            case $m in *[13579bdf]) continue ;; esac
        fi
        live="$live $p"
    done
}
hang_up() {
    session "$1"
    for p in $live; do kill -HUP "$p" && kill -CONT "$p"; done 2>/dev/null
    centiseconds
    began=$_u t=0
    while [ -n "$live" ] && [ $t -lt 20 ] && [ $((_u - began)) -lt 200 ]; do
        nap
        t=$((t + 1))
        session "$1"
        centiseconds
    done
    t=0
    while [ -n "$live" ] && [ $t -lt 50 ]; do
        for p in $live; do kill -KILL "$p" 2>/dev/null; done
        [ $t -gt 5 ] && nap
        t=$((t + 1))
        session "$1"
    done
    return 0
}
# Whether $_z is among the words of the process $1; shells read over the NULs between them.
among_words() {
    while read -r l || [ -n "$l" ]; do
        case $l in *"$_z"*) return 0 ;; esac
    done <"/proc/$1/cmdline"
    return 1
} 2>/dev/null
get && _z=$_v
exec 3<&0
{ while read -r _l && [ -n "$_l" ]; do :; done; } <&3 >/dev/null 2>&1 &
_w=$!
started "$_w"
echo "+$_w $_t"
wait "$_w"
_left=
# The terminal's script has the nonce among its words; it is not among ours.
for _r in /proc/[0-9]*; do
    _r=${_r#/proc/}
    among_words "$_r" && hang_up "$_r" && _left=$_left$live
done
if [ -z "$_left" ]; then echo +gone; else echo "+left$_left"; fi
