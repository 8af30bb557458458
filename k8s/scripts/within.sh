# Refuses a directory that leaves another one, also by a link on the way.
within() {
    [ -z "$2" ] && return
    a=$(cd -P -- "$1" && pwd -P) || exit 1
    b=$(cd -P -- "$2" && pwd -P) || exit 1
    case ${a%/}/ in "${b%/}"/*) ;; *) fail bad_path ;; esac
}
