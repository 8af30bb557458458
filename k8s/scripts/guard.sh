# use: get nap tree started
# Parameters: nonce of a terminal. Says "+PID START" of a watch, which is there as long as the Router holds this
# input: lines keep it, an empty one or the end ends it. Then the terminal is hung up, and all that came of it ended;
# "+gone" when it is. What has no tie to it any more, as tmux's server has none, stays.
# Adds those whose output is the terminal of $root, by its device and inode. Once only: freed, it may be another's.
on_terminal() {
    of=$(stat -L -c %d.%i "/proc/$root/fd/1") || return
    list=$(stat -L -c %d.%i:%n /proc/[0-9]*/fd/1 /proc/[0-9]*/fd/2)
    [ "$(stat -L -c %d.%i "/proc/$root/fd/1")" = "$of" ] || return
    for e in $list; do
        case $e in "$of:"*) ;; *) continue ;; esac
        p=${e#*/proc/}
        p=${p%%/*}
        case $set in *" $p "*) ;; *) set="$set$p " ;; esac
    done
} 2>/dev/null
# Which of $live still are, without looking at all the others: many terminals may end at once.
still() {
    l=
    for p in $live; do
        s=
        read -r s <"/proc/$p/stat"
        case ${s##*) } in '' | [ZX]*) ;; *) l="$l $p" ;; esac
    done
    live=$l
} 2>/dev/null
# Begins with the scan that has found $1.
hang_up() {
    root=$1 start=0 out=
    set=" $root "
    on_terminal
    grow
    living
    for p in $live; do kill -HUP "$p" && kill -CONT "$p"; done 2>/dev/null
    centiseconds
    began=$_u t=0
    while [ -n "$live" ] && [ $t -lt 20 ] && [ $((_u - began)) -lt 200 ]; do
        nap
        t=$((t + 1))
        still
        centiseconds
    done
    look
    t=0
    while [ -n "$live" ] && [ $t -lt 50 ]; do
        for p in $live; do
            # The script last: it waits for the shell.
            [ "$p" = "$root" ] && [ "$live" != " $p" ] || kill -KILL "$p" 2>/dev/null
        done
        [ $t -gt 5 ] && nap
        t=$((t + 1))
        look
    done
    return 0
}
# The script of the terminal in $_r, "" when there is none: it leads the session of a terminal, and has the nonce among its
# first words (shells read over the NULs between them).
find_root() {
    scan
    for _r in $all; do
        case ${_r#*:*:*:*:} in 0:*) continue ;; esac
        p=${_r%%:*}
        l=${_r#*:*:}
        [ "${l%%:*}" = "$p" ] || continue
        _r=$p l=
        read -r l <"/proc/$p/cmdline"
        case $l in *"$_z"*) return ;; esac
    done
    _r=
} 2>/dev/null
get && _z=$_v
exec 3<&0
{ while read -r _l && [ -n "$_l" ]; do :; done; } <&3 >/dev/null 2>&1 &
_w=$!
started "$_w"
echo "+$_w $_t"
wait "$_w"
live=
find_root
[ -z "$_r" ] || hang_up "$_r"
if [ -z "$live" ]; then echo +gone; else echo "+left$live"; fi
