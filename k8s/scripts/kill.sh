# use: get nap tree
# Parameters: process, its start time.
get && p=$_v
get && end_tree "$p" "$_v"
if [ -z "$live" ]; then echo +gone; else echo "+left$live"; fi
