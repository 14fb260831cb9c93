if [ "$1" -eq 0 ]; then
    # All instances of the template unit. A unit is disabled by its file, and stopped by its name.
    [ ! -d /run/systemd/system ] || systemctl stop 'recodex-monitor@*.service' || :
    ! command -v systemctl >/dev/null || systemctl --no-reload --quiet disable recodex-monitor@.service || :
fi
