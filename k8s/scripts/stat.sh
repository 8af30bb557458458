# use: get plain missing attributes
# Parameters: path. "+", then its entry.
get && p=$_v
present "$p"
echo +
entries "$p"
