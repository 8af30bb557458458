# use: get plain missing kernel within
# Parameters: path, directory that it must be in ("" = any). "+", then a tar.
get && p=$_v
get && in=$_v
present "$p"
[ -d "$p" ] || fail not_a_directory
ours "$p"
within "$p" "$in"
command -v tar >/dev/null || fail no_tar
CDPATH='' cd -- "$p" || exit 1
[ -r . ] || fail permission_denied
h=
tar -c --hard-dereference -f - -- /dev/null >/dev/null 2>&1 && h=--hard-dereference
echo +
tar -c $h -f - .
c=$?
if [ -z "$h" ] && [ $c = 0 ]; then
    find . -type f -links +1 -exec tar -c -f - {} \; || c=$?
fi
exit $c
