# The processes of a command as far as /proc tells: what has one of them as its parent or its session,
# and what still has its output (lessons I2). $set is their numbers, $root the first, which is not
# taken for one of them when it began at another time than $start (0: any).
scan() {
    all= part=
    list=$(cat /proc/[0-9]*/stat 2>/dev/null)
    set -f
    IFS='
'
    for s in $list; do
        s=$part$s
        case $s in
        *") "*) part= ;;
        *)
            part=$s
            continue
            ;;
        esac
        IFS=' '
        set -- ${s##*) }
        all="$all ${s%% *}:$2:$4:$1:$5:${20-0}"
    done
    unset IFS
    set +f
}
grow() {
    more=1
    while [ $more = 1 ]; do
        more=0
        for e in $all; do
            p=${e%%:*}
            r=${e#*:}
            q=${r%%:*}
            r=${r#*:}
            case $set in
            *" $p "*) continue ;;
            *" $q "* | *" ${r%%:*} "*)
                set="$set$p "
                more=1
                ;;
            esac
        done
    done
}
# By their standard output or error, when it is a pipe that only the command had.
holders() {
    case $out in pipe:* | socket:*) ;; *) return ;; esac
    list=$(ls -l /proc/[0-9]*/fd/1 /proc/[0-9]*/fd/2 2>/dev/null)
    while IFS= read -r e; do
        case $e in
        *" -> $out")
            p=${e#*/proc/}
            p=${p%%/*}
            case $set in *" $p "*) ;; *) set="$set$p " ;; esac
            ;;
        esac
    done <<LIST
$list
LIST
}
living() {
    live=
    for e in $all; do
        p=${e%%:*}
        case $set in *" $p "*) ;; *) continue ;; esac
        case $e in *:[ZX]:*) continue ;; esac
        [ "$p" = "$root" ] && [ "$start" != 0 ] && [ "${e##*:}" != "$start" ] && continue
        [ "$p" = $$ ] && continue
        live="$live $p"
    done
}
look() {
    scan
    grow
    holders
    grow
    living
}
# TERM, 2 s, KILL until none is left; says what is left.
end_tree() {
    root=$1 start=$2 out=
    set=" $root "
    scan
    for e in $all; do
        case $e in "$root:"*)
            [ "$start" = 0 ] || [ "${e##*:}" = "$start" ] && out=$(readlink "/proc/$root/fd/1" 2>/dev/null)
            ;;
        esac
    done
    look
    for p in $live; do kill -TERM "$p" 2>/dev/null; done
    t=0
    centiseconds
    began=$_u
    while [ -n "$live" ] && [ $t -lt 20 ] && [ $((_u - began)) -lt 200 ]; do
        if sleep 0.1 2>/dev/null; then t=$((t + 1)); else sleep 1 && t=$((t + 10)); fi
        look
        centiseconds
    done
    t=0
    while [ -n "$live" ] && [ $t -lt 50 ]; do
        for p in $live; do kill -KILL "$p" 2>/dev/null; done
        [ $t -gt 5 ] && nap
        t=$((t + 1))
        look
    done
}
