# use: get plain missing attributes
# Parameters: path. "+", then its entry.
get && p=$v
present "$p"
echo +
entries "$p"
