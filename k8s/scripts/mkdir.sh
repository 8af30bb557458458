# use: get plain kernel
# Parameters: path. "+CREATED".
get && p=$_v
if [ -d "$p" ]; then
    echo +0
    exit 0
fi
if [ -e "$p" ] || [ -L "$p" ]; then fail not_a_directory_409; fi
mkdir -p -- "$p" || exit 1
echo +1
