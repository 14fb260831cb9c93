# The files belong to this user. Fedora's rpm has made the user by now, because the package provides it. The rpm of EL9 has not.
getent group recodex >/dev/null || groupadd -r recodex || exit 1
getent passwd recodex >/dev/null ||
    useradd -r -M -g recodex -d /etc/recodex -s /sbin/nologin -c "ReCodEx Code Examiner" recodex || exit 1
# If nobody changed the configuration, rpm sets the package's owner and mode. It replaces the configuration of the Python monitor,
# whose program is a script. rpm/post.sh restores what is saved here. The directory may belong to recodex, who could put another
# file or a link in its place at any time. So an open file is checked and copied.
config=/etc/recodex/monitor/config.yml kept=/var/lib/rpm-state/recodex-monitor
rm -rf $kept
if [ -f $config ] && [ ! -L $config ] && mkdir -p $kept && chmod 700 $kept; then
    {
        [ "$(readlink /proc/self/fd/3)" = $config ] &&
            [ "$(LC_ALL=C stat -L -c '%F %h' /proc/self/fd/3)" = "regular file 1" ] &&
            stat -L -c '%u:%g %a' /proc/self/fd/3 >$kept/owner &&
            if [ "$1" -ge 2 ] && [ "$(head -c 2 /usr/bin/recodex-monitor)" = "#!" ]; then cat <&3 >$kept/config.yml; fi
    } 3<$config
fi
exit 0
