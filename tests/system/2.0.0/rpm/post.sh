# The Python monitor's package replaces a configuration that was never changed along with itself; rpm/pre.sh has kept it.
if [ -e /etc/recodex/monitor/config.yml.upgrade ]; then
    mv -f /etc/recodex/monitor/config.yml.upgrade /etc/recodex/monitor/config.yml
fi
# Files that were there before too. Nothing may lead elsewhere on the way: a directory that was the user's could have been
# made a link to anything.
for directory in /etc/recodex /etc/recodex/monitor; do
    [ ! -L "$directory" ] || { echo "$directory is a link; expected a directory" >&2; exit 1; }
    chown root:root "$directory" || :
done
for file in /etc/recodex/monitor/config.yml /var/log/recodex/monitor.log*; do
    if [ -f "$file" ] && [ ! -L "$file" ] && [ "$(stat -c %h "$file")" = 1 ]; then
        chown -h recodex:recodex "$file" || :
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
