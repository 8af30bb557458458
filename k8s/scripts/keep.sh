# use: get feed nap tree kept
# Parameters: nonce, id, digest, "start" or "attach", most seconds (0 = any), most blocks of 512 bytes of each
# output, then from kind of input on as in command.sh. Starts a command that outlives this stream, or finds it by
# its id, and by its digest unless that is "none" (attach); says "NONCE PID START" when it was started; after its
# end gives its output, then "\0NONCE OUTCOME".
_c=${LC_ALL-} _h=${LC_ALL+y} LC_ALL=C
get && _z=$_v
get && _id=$_v
get && _g=$_v
get && _how=$_v
get && _m=$_v
get && _o=$_v
kept "$_id"
_now=$(date +%s)
_r=0 _q=0
for _d in "$_f"/*; do
    [ -d "$_d" ] || continue
    _q=$((_q + 1))
    if [ -f "$_d/end" ]; then
        _at=0
        read -r _at <"$_d/at" 2>/dev/null
        [ $((_now - _at)) -gt 600 ] && rm -rf "$_d" && _q=$((_q - 1))
    else
        _r=$((_r + 1))
    fi
done
[ "$_how" = start ] || [ -d "$_k" ] || {
    echo '!exec_not_found'
    exit 0
}
if [ "$_how" = attach ] || [ -d "$_k" ] || { [ $_r -lt 64 ] && [ $_q -lt 64 ] && ! mkdir -m 700 "$_k"; }; then
    exec 4<&0
    [ "$_g" = none ] || cat <&4 >/dev/null &
elif [ ! -d "$_k" ]; then
    echo '!too_many_execs'
    exit 0
else
    printf '%s\n' "$_g" >"$_k/digest"
    get && _i=$_v
    get && _dir=$_v
    set --
    get && _n=$_v
    while [ "$_n" -gt 0 ]; do get && set -- "$@" "$_v" && _n=$((_n - 1)); done
    get && _n=$_v
    while [ "$_n" -gt 0 ]; do get && set -- "$@" "$_v" && _n=$((_n - 1)); done
    if [ "$_i" = 0 ]; then _in=/dev/null; else _in=$_k/in; fi
    { [ "$_i" = 0 ] || feed "$_i" >"$_in"; } && : >"$_k/out" && : >"$_k/err" || {
        rm -rf "$_k"
        exit 1
    }
    if [ -n "$_dir" ]; then
        CDPATH='' cd -- "$_dir" || {
            rm -rf "$_k"
            printf '%s !\n' "$_z"
            exit 0
        }
    fi
    if [ -n "$_h" ]; then LC_ALL=$_c; else unset LC_ALL; fi
    _own=
    command -v setsid >/dev/null && _own=setsid
    (
        trap '' HUP
        limit() {
            (ulimit -f "$_o" && exec cat >"$1")
            cat >/dev/null
        }
        centiseconds
        _t0=$_u
        {
            {
                {
                    $_own sh -c '_k=$1; shift; read -r _s <"/proc/$$/stat"; _a=${_s##*) }
                        _a=$(set -f; set -- $_a; echo "${20-0}"); echo "$$ $_a" >"$_k/pid.new"; mv "$_k/pid.new" "$_k/pid"
                        exec env "$@"' sh "$_k" "$@" <"$_in" 3>&-
                    echo $? >"$_k/code"
                } 2>&1 >&3 | limit "$_k/err"
            } 3>&1 | limit "$_k/out"
        } &
        _n=0 _w=$_t0
        while [ ! -f "$_k/code" ]; do
            if [ $_n -lt 20 ]; then nap; else sleep 1; fi
            _n=$((_n + 1))
            centiseconds
            # Its time begins when its processes can be found.
            [ -f "$_k/pid" ] || _w=$_u
            if [ "$_m" -gt 0 ] && [ $((_u - _w)) -ge $((_m * 100)) ] && [ ! -f "$_k/code" ]; then
                : >"$_k/timedout"
                read -r _p _s <"$_k/pid"
                end_tree "$_p" "$_s"
                _t=0
                while [ ! -f "$_k/code" ] && [ $_t -lt 10 ]; do nap && _t=$((_t + 1)); done
                [ -f "$_k/code" ] || echo 137 >"$_k/code"
            fi
        done
        centiseconds
        nap
        read -r _n <"$_k/code"
        rm -f "$_k/in"
        date +%s >"$_k/at"
        echo "$_n $(((_u - _t0) * 10))" >"$_k/end.new"
        mv "$_k/end.new" "$_k/end"
    ) </dev/null >/dev/null 2>&1 &
fi
_t=0
while [ -d "$_k" ] && [ ! -f "$_k/pid" ] && [ ! -f "$_k/code" ] && [ $_t -lt 50 ]; do nap && _t=$((_t + 1)); done
[ -d "$_k" ] || exit 1
_d=
read -r _d <"$_k/digest" 2>/dev/null
[ "$_g" = none ] || [ "$_d" = "$_g" ] || {
    echo '!exec_id_reused'
    exit 0
}
_p=0 _s=0
read -r _p _s <"$_k/pid" 2>/dev/null
printf '%s %s %s\n' "$_z" "${_p:-0}" "${_s:-0}"
_n=0
while [ -d "$_k" ] && [ ! -f "$_k/end" ]; do
    if [ $_n -lt 20 ]; then nap; else sleep 1; fi
    _n=$((_n + 1))
done
[ -f "$_k/end" ] || exit 1
cat "$_k/out"
cat "$_k/err" >&2
_e=$(outcome)
printf '\000%s %s\n' "$_z" "$_e" >&2
printf '\000%s %s\n' "$_z" "$_e"
