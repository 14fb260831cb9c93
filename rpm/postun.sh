kept=/var/lib/rpm-state/recodex-monitor
# The package that follows, and other ReCodEx services, may use what these links lead to.
for link in /etc/recodex /var/log/recodex; do
    [ ! -L $kept$link ] || [ -L $link ] || [ -e $link ] || cp -P $kept$link $link || :
done
# /etc/recodex may belong to recodex, who could put another link in its place at any time. So this link is made only in the real
# directory, by its name there.
if [ -s $kept/target ] && [ ! -e /etc/recodex/monitor ] && [ ! -L /etc/recodex/monitor ]; then
    (
        # shellcheck disable=SC2046
        [ -e /etc/recodex ] || [ -L /etc/recodex ] || install -d $(cat $kept/directory) /etc/recodex
        cd -P /etc/recodex && [ "$(pwd -P)" = /etc/recodex ] && ln -s -T -- "$(cat $kept/target)" monitor
    ) 2>/dev/null || printf 'recodex-monitor: /etc/recodex/monitor was a link, which rpm has removed, and there is a link in place of %s\n' \
        "/etc/recodex, so the package does not make it again as root; the files behind it stay: $(tr -cd '[:print:]' <$kept/target)" >&2
fi
rm -rf $kept
if [ "$1" -eq 0 ]; then
    [ ! -d /run/systemd/system ] || systemctl daemon-reload || :
elif [ -d /run/systemd/system ] && [ "$(head -c 2 /usr/bin/recodex-monitor)" = "#!" ]; then
    # This is a downgrade to the Python monitor, whose program is a script and whose %posttrans does nothing.
    systemctl daemon-reload || :
    systemctl try-restart recodex-monitor.service || :
fi
