# This package owns no directory. Other ReCodEx services may have files in these.
[ "$1" -ne 0 ] || rmdir /usr/share/doc/recodex-monitor/docs /usr/share/doc/recodex-monitor/examples /usr/share/doc/recodex-monitor \
    /usr/share/licenses/recodex-monitor /var/log/recodex /etc/recodex/monitor /etc/recodex 2>/dev/null || :
