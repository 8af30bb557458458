# use: get plain missing kernel attributes
# Parameters: path of a directory. "+", then its entries.
get && p=$_v
present "$p"
[ -d "$p" ] || fail not_a_directory
ours "$p"
[ -r "$p" ] || fail permission_denied
CDPATH='' cd -- "$p" || exit 1
# The names are found once, so that all three parts are of the same. A pattern that matches nothing stands for
# itself, and goes as a name without attributes does.
set -- ./.[!.]* ./..?* ./*
echo +
for f in "$@"; do printf '%s\0' "$f"; done
printf '\0'
attributes "$@"
printf '\0'
for f in "$@"; do
    [ -L "$f" ] || continue
    t=$(readlink -- "$f" 2>/dev/null && echo x) || continue
    t=${t%?x}
    printf '%s\0%s\0' "$f" "$t"
done
printf '\0'
