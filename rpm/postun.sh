if [ "$1" -eq 0 ]; then
    [ ! -d /run/systemd/system ] || systemctl daemon-reload || :
    # cargo-generate-rpm cannot package a directory. Other ReCodEx services may have files in these.
    rmdir /var/log/recodex /etc/recodex/monitor /etc/recodex 2>/dev/null || :
fi
