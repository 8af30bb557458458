# use: get plain missing kernel attributes
# Parameters: path of a directory. "+", then its entries.
get && p=$v
present "$p"
[ -d "$p" ] || fail not_a_directory
ours "$p"
[ -r "$p" ] || fail permission_denied
CDPATH='' cd -- "$p" || exit 1
one() {
    [ $# -eq 1 ] && [ ! -e "$1" ] && [ ! -L "$1" ] && return
    while [ $# -gt 0 ]; do
        printf '%s\0' "$1"
        shift
    done
}
echo +
one ./.[!.]*
one ./..?*
one ./*
printf '\0'
two() {
    [ $# -eq 1 ] && [ ! -e "$1" ] && [ ! -L "$1" ] && return
    attributes "$@"
}
two ./.[!.]*
two ./..?*
two ./*
printf '\0'
links() {
    for f in "$@"; do
        [ -L "$f" ] || continue
        t=$(readlink -- "$f" 2>/dev/null && echo x) || continue
        t=${t%?x}
        printf '%s\0%s\0' "$f" "$t"
    done
}
links ./.[!.]* ./..?* ./*
printf '\0'
