# A configuration that existed before the transaction keeps its owner and mode. A configuration of the Python monitor also keeps its
# content. rpm/pre.sh has saved them. If rpm has touched the file, it has given it to recodex. Only such a file is written, through an
# open descriptor, because recodex could put another file or a link in its place at any time.
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
# The Python monitor's package removes the log directory if it is empty, and then restarts the service, which needs the directory. rpm
# does not remove a directory that is not empty. rpm/posttrans.sh removes what is made here.
[ ! -d /var/log/recodex ] || [ -L /var/log/recodex ] || mkdir -p /var/log/recodex/.upgrade || :
for unit in /etc/systemd/system /run/systemd/system /usr/local/lib/systemd/system; do
    unit=$unit/recodex-monitor.service
    # A link to nothing masks the service. That is intended.
    if [ -f "$unit" ] && [ ! "$unit" -ef "/usr/lib/systemd/system/${unit##*/}" ] && [ ! "$unit" -ef "/lib/systemd/system/${unit##*/}" ]; then
        echo "recodex-monitor: systemd uses $unit, and not this package's; if it is left from another installation:" \
            "rm $unit && systemctl daemon-reload && systemctl restart recodex-monitor" >&2
    fi
done
