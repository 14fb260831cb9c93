# The files belong to this user and group. The macro sysusers_create_compat before this has made them, or rpm itself from the file in
# sysusers.d.
{ getent passwd recodex && getent group recodex; } >/dev/null || {
    echo "recodex-monitor: there must be a user and a group recodex, and they could not be made; nothing was installed. To make them:" \
        "groupadd -r recodex; useradd -r -g recodex -d /etc/recodex -s /sbin/nologin recodex" >&2
    exit 1
}
# If nobody changed the configuration, rpm sets the package's owner and mode. It replaces the configuration of the Python monitor,
# whose program is a script. rpm/post.sh restores what is saved here. The directory may belong to recodex, who could put another
# file or a link in its place at any time. So an open file is checked and copied.
config=/etc/recodex/monitor/config.yml kept=/var/lib/rpm-state/recodex-monitor
rm -rf $kept
# What a link leads to may change at any time, too.
for link in /etc/recodex /etc/recodex/monitor; do
    [ ! -L $link ] || echo "recodex-monitor: $link is a link, so this package cannot keep owner and mode of $config: if nobody changed" \
        "the file, it gets the package's text, owner and mode. Look at it afterwards: ls -lL $config" >&2
done
[ ! -L /var/log/recodex ] || echo "recodex-monitor: /var/log/recodex is a link, and this package does not make or change what it leads to" >&2
if [ -f $config ] && [ ! -L $config ] && mkdir -p $kept && chmod 700 $kept; then
    {
        [ "$(readlink /proc/self/fd/3)" = $config ] &&
            [ "$(LC_ALL=C stat -L -c '%F %h' /proc/self/fd/3)" = "regular file 1" ] &&
            stat -L -c '%u:%g %a' /proc/self/fd/3 >$kept/owner &&
            if [ "$1" -ge 2 ] && [ "$(head -c 2 /usr/bin/recodex-monitor)" = "#!" ]; then cat <&3 >$kept/config.yml; fi
    } 3<$config
fi
exit 0
