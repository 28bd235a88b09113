# Four processes; the last one is the slowest, so data waits in all three pipes.
seq 1 "$1" | sort -n | awk '{ print $1 * 7 }' | while read -r n; do
    echo "$n"
done > progress
echo "${PIPESTATUS[*]}" > draft
mv draft done
