# use: get plain missing kernel
# Parameters: path, "1" for all below it too.
get && p=$_v
get && all=$_v
present "$p"
if [ -d "$p" ] && [ ! -L "$p" ]; then
    ours "$p"
    case $w in / | // | /workspace) fail permission_denied ;; esac
    while read -r s m s; do
        case $m in "$w") fail permission_denied ;; esac
    done 2>/dev/null </proc/self/mounts
    if [ "$all" = 1 ]; then rm -rf -- "$p"; else rmdir -- "$p"; fi || exit 1
else
    case $p in */*) ours "${p%/*}/" ;; esac
    rm -f -- "$p" || exit 1
fi
echo +
