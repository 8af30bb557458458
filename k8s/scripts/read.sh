# use: get plain missing kernel
# Parameters: path, first byte, number of bytes ("" = to the end). "+MODE SIZE MTIME REST" (REST changes with the
# content), then the bytes. The file is opened once, so all of it is of one file.
get && p=$_v
get && first=$_v
get && length=$_v
present "$p"
[ -d "$p" ] && fail not_a_file
[ -f "$p" ] || {
    [ -e "$p" ] || present "$p/."
    fail not_a_file
}
case $p in */*) ours "${p%/*}/" ;; esac
exec 3<"$p" || exit 1
a=$(stat -L -c '%f %s %Y %d.%i.%y.%z' -- /proc/self/fd/3 2>/dev/null) ||
    a=$(stat -L -c '%f %s %Y %d.%i.%y.%z' -- "$p" 2>/dev/null) || {
    n=$(wc -c <"$p") || exit 1
    a=$(ls -lLdn -- "$p") || exit 1
    m=$(date -r "$p" +%s 2>/dev/null) || m=0
    a="${a%% *} $((n)) $m $(ls -lLdin -- "$p")"
}
printf '+%s\n' "$a"
if [ "$first" = 0 ] && [ -z "$length" ]; then
    cat <&3
elif [ -z "$length" ]; then
    tail -c "+$((first + 1))" <&3
elif [ "$first" = 0 ]; then
    head -c "$length" <&3
else
    tail -c "+$((first + 1))" <&3 | head -c "$length"
fi
