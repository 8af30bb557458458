# use: get nap tree kept
# Parameters: id.
get && kept "$v"
[ -d "$k" ] || {
    echo '!exec_not_found'
    exit 0
}
if [ ! -f "$k/end" ] && read -r p s <"$k/pid"; then
    : >"$k/killed"
    end_tree "$p" "$s"
    [ -f "$k/code" ] || echo 137 >"$k/code"
    t=0
    while [ ! -f "$k/end" ] && [ $t -lt 30 ]; do nap && t=$((t + 1)); done
    [ -n "$live" ] && echo "+left$live" && exit 0
fi
echo +gone
