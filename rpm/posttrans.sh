config=/etc/recodex/monitor/config.yml logs=/var/log/recodex
[ ! -d $logs/.upgrade ] || rmdir $logs/.upgrade || :
# A directory that exists keeps its owner, mode and content.
[ -e $logs ] || [ -L $logs ] || install -d -o recodex -g recodex -m 0755 $logs || :
as_recodex() {
    timeout 10 setpriv --reuid recodex --regid recodex --init-groups "$@"
}
if ! as_recodex test -r "$config"; then
    echo "recodex-monitor: user recodex cannot read $config; \`recodex-monitor check\` says what is in the way" >&2
elif as_recodex grep -Eq "^[^#]*($logs/|output:[^#]*file)" "$config" && ! as_recodex test -w "$logs" -a -x "$logs"; then
    echo "recodex-monitor: user recodex cannot write logs to $logs, so the service does not start; give that user the directory:" \
        "install -d -o recodex -g recodex -m 0755 $logs" >&2
fi
# This is not in %postun, because at the first upgrade that is the Python monitor's. A service that does not run stays stopped.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    systemctl try-restart recodex-monitor.service 'recodex-monitor@*.service' || :
fi
