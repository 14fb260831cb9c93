kept=/var/lib/rpm-state/recodex-monitor
# The package that follows, and other ReCodEx services, may use what these links lead to.
for link in /etc/recodex /var/log/recodex; do
    [ ! -L $kept$link ] || [ -L $link ] || [ -e $link ] || cp -P $kept$link $link || :
done
rm -rf $kept
if [ "$1" -eq 0 ]; then
    [ ! -d /run/systemd/system ] || systemctl daemon-reload || :
elif [ -d /run/systemd/system ] && [ "$(head -c 2 /usr/bin/recodex-monitor)" = "#!" ]; then
    # This is a downgrade to the Python monitor, whose program is a script and whose %posttrans does nothing.
    systemctl daemon-reload || :
    systemctl try-restart recodex-monitor.service || :
fi
