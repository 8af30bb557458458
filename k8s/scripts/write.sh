# use: get plain missing kernel feed
# Parameters: path, nonce, how the input ends ("5": with the stream, "4": in pieces). The input is the content and
# then 53 bytes "NONCE LENGTH" that say that it is whole. It goes into a file beside the target, which takes the
# target's place only when the length is right. "+LENGTH CREATED ATTRIBUTES".
get && p=$_v
get && nonce=$_v
get && input=$_v
created=1
if [ -L "$p" ]; then
    [ -f "$p" ] || fail not_a_file
    p=$(readlink -f -- "$p" && echo x) || exit 1
    p=${p%?x}
fi
case $p in */ | */. | */..) fail not_a_file ;; esac
dir=${p%/*}/
[ -d "$p" ] && fail not_a_file
[ -e "$p" ] && created=0
[ $created = 1 ] || [ -f "$p" ] || fail not_a_file
mkdir -p -- "$dir" || exit 1
ours "$dir"
tmp=$dir.agenttier-$nonce.part
trap 'rm -f -- "$tmp"' EXIT
trap 'exit 1' HUP INT TERM PIPE
# noclobber: whatever has that name already is not written to.
set -C
: >"$tmp" || exit 1
set +C
feed "$input" >>"$tmp" || exit 1
whole=$(wc -c <"$tmp") || exit 1
[ "$whole" -ge 53 ] && last=$(tail -c 53 <"$tmp") || fail cut
case $last in "$nonce "*) ;; *) fail cut ;; esac
n=${last#* }
n=${n#"${n%%[!0]*}"}
n=${n:-0}
[ $((n + 53)) = $((whole)) ] || fail cut
dd if=/dev/null of="$tmp" bs=1 seek="$n" count=0 2>/dev/null || exit 1
[ $(($(wc -c <"$tmp"))) = "$n" ] || fail kept_less
if [ $created = 0 ] && m=$(stat -c %a -- "$p" 2>/dev/null); then chmod "$m" "$tmp" || exit 1; fi
mv -f -- "$tmp" "$p" || exit 1
trap - EXIT
a=$(stat -L -c '%f %s %Y %d.%i.%y.%z' -- "$p" 2>/dev/null) || a="- $n 0 $(ls -ldin -- "$p")"
echo "+$n $created $a"
