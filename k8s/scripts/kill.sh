# use: get nap tree
# Parameters: process, its start time.
get && p=$v
get && end_tree "$p" "$v"
if [ -z "$live" ]; then echo +gone; else echo "+left$live"; fi
