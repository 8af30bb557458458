# use: get feed nap tree kept
# Parameters: nonce, id, digest, "start" or "attach", most seconds (0 = any), most blocks of 512 bytes of each
# output, then from kind of input on as in command.sh. Starts a command that outlives this stream, or finds it by
# its id; says "NONCE PID START" when it was started; after its end gives its output, then "\0NONCE OUTCOME".
c=${LC_ALL-} h=${LC_ALL+y} LC_ALL=C
get && nonce=$v
get && id=$v
get && digest=$v
get && how=$v
get && most=$v
get && blocks=$v
kept "$id"
now=$(date +%s)
running=0 there=0
for d in "$base"/*; do
    [ -d "$d" ] || continue
    there=$((there + 1))
    if [ -f "$d/end" ]; then
        at=0
        read -r at <"$d/at" 2>/dev/null
        [ $((now - at)) -gt 600 ] && rm -rf "$d" && there=$((there - 1))
    else
        running=$((running + 1))
    fi
done
if [ "$how" = attach ]; then
    [ -d "$k" ] || {
        echo '!exec_not_found'
        exit 0
    }
elif [ -d "$k" ] || { [ $running -lt 64 ] && [ $there -lt 64 ] && ! mkdir -m 700 "$k"; }; then
    exec 4<&0
    cat <&4 >/dev/null &
    t=0
    while [ -d "$k" ] && [ ! -f "$k/pid" ] && [ $t -lt 50 ]; do nap && t=$((t + 1)); done
    [ -d "$k" ] || exit 1
    d=
    read -r d <"$k/digest" 2>/dev/null
    [ "$d" = "$digest" ] || {
        echo '!exec_id_reused'
        exit 0
    }
elif [ ! -d "$k" ]; then
    echo '!too_many_execs'
    exit 0
else
    printf '%s\n' "$digest" >"$k/digest"
    get && input=$v
    get && dir=$v
    set --
    get && n=$v
    while [ "$n" -gt 0 ]; do get && set -- "$@" "$v" && n=$((n - 1)); done
    get && n=$v
    while [ "$n" -gt 0 ]; do get && set -- "$@" "$v" && n=$((n - 1)); done
    in=/dev/null
    if [ "$input" != 0 ]; then
        in=$k/in
        feed "$input" >"$in" || {
            rm -rf "$k"
            exit 1
        }
    fi
    : >"$k/out" && : >"$k/err" || {
        rm -rf "$k"
        exit 1
    }
    if [ -n "$dir" ]; then
        CDPATH='' cd -- "$dir" || {
            rm -rf "$k"
            printf '%s !\n' "$nonce"
            exit 0
        }
    fi
    if [ -n "$h" ]; then LC_ALL=$c; else unset LC_ALL; fi
    own=
    command -v setsid >/dev/null && own=setsid
    (
        trap '' HUP
        limit() {
            (ulimit -f "$blocks" && exec cat >"$1")
            cat >/dev/null
        }
        centiseconds
        t0=$u
        {
            {
                {
                    $own sh -c 'k=$1; shift; read -r s <"/proc/$$/stat"; a=${s##*) }
                        a=$(set -f; set -- $a; echo "${20-0}"); echo "$$ $a" >"$k/pid.new"; mv "$k/pid.new" "$k/pid"
                        exec env "$@"' sh "$k" "$@" <"$in" 3>&-
                    echo $? >"$k/code"
                } 2>&1 >&3 | limit "$k/err"
            } 3>&1 | limit "$k/out"
        } &
        n=0
        while [ ! -f "$k/code" ]; do
            if [ $n -lt 20 ]; then nap; else sleep 1; fi
            n=$((n + 1))
            centiseconds
            if [ "$most" -gt 0 ] && [ $((u - t0)) -ge $((most * 100)) ] && [ ! -f "$k/code" ]; then
                : >"$k/timedout"
                read -r p s <"$k/pid"
                end_tree "$p" "$s"
                t=0
                while [ ! -f "$k/code" ] && [ $t -lt 10 ]; do nap && t=$((t + 1)); done
                [ -f "$k/code" ] || echo 137 >"$k/code"
            fi
        done
        centiseconds
        nap
        read -r n <"$k/code"
        rm -f "$k/in"
        date +%s >"$k/at"
        echo "$n $(((u - t0) * 10))" >"$k/end.new"
        mv "$k/end.new" "$k/end"
    ) </dev/null >/dev/null 2>&1 &
    t=0
    while [ ! -f "$k/pid" ] && [ ! -f "$k/code" ] && [ $t -lt 50 ]; do nap && t=$((t + 1)); done
fi
p=0 s=0
read -r p s <"$k/pid" 2>/dev/null
printf '%s %s %s\n' "$nonce" "${p:-0}" "${s:-0}"
n=0
while [ -d "$k" ] && [ ! -f "$k/end" ]; do
    if [ $n -lt 20 ]; then nap; else sleep 1; fi
    n=$((n + 1))
done
[ -f "$k/end" ] || exit 1
cat "$k/out"
cat "$k/err" >&2
e=$(outcome)
printf '\000%s %s\n' "$nonce" "$e" >&2
printf '\000%s %s\n' "$nonce" "$e"
