# Only now, or it would go with the Python monitor's package if it is empty.
systemd-tmpfiles --create recodex-monitor.conf || :
# Here and not in %postun: at the first upgrade, that is the Python monitor's. A service that does not run is left alone.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    systemctl try-restart recodex-monitor.service || :
fi
