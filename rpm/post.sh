# A configuration that was there before the transaction keeps its owner and mode, and one of the Python monitor's its content:
# rpm/pre.sh has kept them. rpm has given the file to recodex, if it has touched it at all. Only such a file is written, and only
# one that is open, since recodex could put another one or a link in its place at any time.
config=/etc/recodex/monitor/config.yml kept=/var/lib/rpm-state/recodex-monitor
if [ -s $kept/owner ] && [ -f $config ] && [ ! -L $config ]; then
    {
        read -r owner mode <$kept/owner
        if [ "$(readlink /proc/self/fd/3)" = $config ] &&
            [ "$(LC_ALL=C stat -L -c '%F %h %U:%G' /proc/self/fd/3)" = "regular file 1 recodex:recodex" ]; then
            [ ! -e $kept/config.yml ] || cat $kept/config.yml >/proc/self/fd/3
            chown "$owner" /proc/self/fd/3
            chmod "$mode" /proc/self/fd/3
        fi
    } 3<$config
fi
rm -rf $kept
# The Python monitor's package takes the log directory with it if that is empty, and then restarts the service, which needs it. rpm
# does not remove a directory with something in it; rpm/posttrans.sh takes this away.
[ ! -d /var/log/recodex ] || [ -L /var/log/recodex ] || mkdir -p /var/log/recodex/.upgrade || :
for unit in /etc/systemd/system /run/systemd/system /usr/local/lib/systemd/system; do
    unit=$unit/recodex-monitor.service
    # A link to nothing masks the service, which is meant.
    if [ -f "$unit" ] && [ ! "$unit" -ef "/usr/lib/systemd/system/${unit##*/}" ] && [ ! "$unit" -ef "/lib/systemd/system/${unit##*/}" ]; then
        echo "recodex-monitor: systemd uses $unit, and not this package's; if it is left from another installation:" \
            "rm $unit && systemctl daemon-reload && systemctl restart recodex-monitor" >&2
    fi
done
# %systemd_post
if [ "$1" -eq 1 ]; then
    if [ -x /usr/lib/systemd/systemd-update-helper ]; then
        /usr/lib/systemd/systemd-update-helper install-system-units recodex-monitor.service || :
    elif command -v systemctl >/dev/null; then
        systemctl --no-reload preset recodex-monitor.service || :
    fi
fi
