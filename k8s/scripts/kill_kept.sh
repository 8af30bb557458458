# use: get nap tree kept
# Parameters: id.
get && kept "$_v"
[ -d "$_k" ] || {
    echo '!exec_not_found'
    exit 0
}
# It may be just beginning.
_t=0
while [ -d "$_k" ] && [ ! -f "$_k/pid" ] && [ ! -f "$_k/code" ] && [ $_t -lt 15 ]; do nap && _t=$((_t + 1)); done
if [ ! -f "$_k/end" ] && read -r _p _s <"$_k/pid"; then
    : >"$_k/killed"
    end_tree "$_p" "$_s"
    [ -f "$_k/code" ] || echo 137 >"$_k/code"
    _t=0
    while [ ! -f "$_k/end" ] && [ $_t -lt 30 ]; do nap && _t=$((_t + 1)); done
    [ -n "$live" ] && echo "+left$live" && exit 0
fi
echo +gone
