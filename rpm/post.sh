if command -v systemd-tmpfiles >/dev/null; then
    systemd-tmpfiles --create recodex-monitor.conf || :
else
    mkdir -p -m 0750 /var/log/recodex
fi
# Files that were there before too, such as the Python monitor's.
for file in /etc/recodex/monitor/config.yml /var/log/recodex /var/log/recodex/monitor.log*; do
    [ ! -e "$file" ] || chown -h recodex:recodex "$file" || :
done
# %systemd_post
if [ "$1" -eq 1 ]; then
    if [ -x /usr/lib/systemd/systemd-update-helper ]; then
        /usr/lib/systemd/systemd-update-helper install-system-units recodex-monitor.service || :
    elif command -v systemctl >/dev/null; then
        systemctl --no-reload preset recodex-monitor.service || :
    fi
fi
