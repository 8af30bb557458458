# use: get nap kept
# Parameters: id, tenths of seconds to wait.
get && kept "$_v"
get && _n=$_v
[ -d "$_k" ] || {
    echo '!exec_not_found'
    exit 0
}
if [ ! -f "$_k/end" ] && ! sleep 0.1 2>/dev/null; then _n=$(((_n + 9) / 10)); fi
while [ "$_n" -gt 0 ] && [ ! -f "$_k/end" ]; do
    nap
    _n=$((_n - 1))
done
if [ -f "$_k/end" ]; then echo "+$(outcome)"; else echo +running; fi
