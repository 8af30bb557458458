# use: get plain missing kernel within feed
# Parameters: path, directory that it must be in ("" = any), kind of input. Then a tar. "+" when all of it was unpacked.
get && p=$_v
get && in=$_v
get && input=$_v
command -v tar >/dev/null || fail no_tar
d=$p
while [ -n "$in" ] && [ ! -e "$d" ] && [ "$d" != / ]; do
    [ -L "$d" ] && fail bad_path
    d=${d%/*}
    d=${d:-/}
done
[ -d "$d" ] && within "$d" "$in"
if [ ! -d "$p" ] && [ -e "$p" ]; then fail not_a_directory; fi
mkdir -p -- "$p" || exit 1
ours "$p"
CDPATH='' cd -- "$p" || exit 1
feed "$input" | tar -x -o -f - || exit 1
echo +
