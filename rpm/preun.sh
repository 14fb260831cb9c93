kept=/var/lib/rpm-state/recodex-monitor
if [ "$1" -eq 0 ]; then
    # All instances of the template unit. A unit is disabled by its file, and stopped by its name.
    [ ! -d /run/systemd/system ] || systemctl stop 'recodex-monitor@*.service' || :
    ! command -v systemctl >/dev/null || systemctl --no-reload --quiet disable recodex-monitor@.service || :
fi
# rpm removes a link that is in the place of a directory of the package, also when it is replaced by a package that does not own the
# directory. rpm/postun.sh makes it again. /etc/recodex may belong to recodex, so a link in it is not made as root.
rm -rf $kept
for link in /etc/recodex /var/log/recodex; do
    [ ! -L $link ] || { mkdir -p $kept && cp -P --parents $link $kept; } || :
done
