if [ "$1" -eq 0 ]; then
    [ ! -d /run/systemd/system ] || systemctl daemon-reload || :
    # cargo-generate-rpm cannot package a directory. Other ReCodEx services may have files in these directories.
    rmdir /usr/share/doc/recodex-monitor/docs /usr/share/doc/recodex-monitor/examples /usr/share/doc/recodex-monitor \
        /usr/share/licenses/recodex-monitor /var/log/recodex /etc/recodex/monitor /etc/recodex 2>/dev/null || :
elif [ -d /run/systemd/system ] && [ "$(head -c 2 /usr/bin/recodex-monitor)" = "#!" ]; then
    # This is a downgrade to the Python monitor, whose program is a script and whose %posttrans does nothing.
    systemctl daemon-reload || :
    systemctl try-restart recodex-monitor.service || :
fi
