# %systemd_preun
if [ "$1" -eq 0 ]; then
    # All instances of the template unit. A unit is disabled by its file, and stopped by its name.
    [ ! -d /run/systemd/system ] || systemctl stop 'recodex-monitor@*.service' || :
    ! command -v systemctl >/dev/null || systemctl --no-reload --quiet disable recodex-monitor@.service || :
    if [ -x /usr/lib/systemd/systemd-update-helper ]; then
        /usr/lib/systemd/systemd-update-helper remove-system-units recodex-monitor.service || :
    elif [ -d /run/systemd/system ]; then
        systemctl --no-reload disable --now recodex-monitor.service || :
    elif command -v systemctl >/dev/null; then
        systemctl --no-reload disable recodex-monitor.service || :
    fi
fi
