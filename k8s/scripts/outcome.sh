# use: get nap kept
# Parameters: id, tenths of seconds to wait.
get && kept "$v"
get && n=$v
[ -d "$k" ] || {
    echo '!exec_not_found'
    exit 0
}
if [ ! -f "$k/end" ] && ! sleep 0.1 2>/dev/null; then n=$(((n + 9) / 10)); fi
while [ "$n" -gt 0 ] && [ ! -f "$k/end" ]; do
    nap
    n=$((n - 1))
done
if [ -f "$k/end" ]; then echo "+$(outcome)"; else echo +running; fi
