kept=/var/lib/rpm-state/recodex-monitor
if [ "$1" -eq 0 ]; then
    # All instances of the template unit. A unit is disabled by its file, and stopped by its name.
    [ ! -d /run/systemd/system ] || systemctl stop 'recodex-monitor@*.service' || :
    ! command -v systemctl >/dev/null || systemctl --no-reload --quiet disable recodex-monitor@.service || :
fi
# rpm removes a link that is in the place of a directory of the package, also when it is replaced by a package that does not own the
# directory. It also removes a directory that is empty without the link. rpm/postun.sh makes them again.
rm -rf $kept
for link in /etc/recodex /var/log/recodex; do
    [ ! -L $link ] || { mkdir -p $kept && cp -P --parents $link $kept; } || :
done
if [ -L /etc/recodex/monitor ]; then
    mkdir -p $kept && readlink -n /etc/recodex/monitor >$kept/target && stat -L -c '-o %u -g %g -m %a' /etc/recodex >$kept/directory || :
fi
