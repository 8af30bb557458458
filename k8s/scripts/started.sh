# The time at which the process $1 began in $_t, "" when it is not there.
started() {
    _t=
    read -r _t <"/proc/$1/stat" || return
    set -f
    set -- ${_t##*) }
    set +f
    _t=${20-}
} 2>/dev/null
