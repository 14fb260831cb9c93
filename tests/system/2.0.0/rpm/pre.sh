# Fedora's rpm has made the user by now, from what the package provides; that of EL9 has not. The files belong to it.
getent group recodex >/dev/null || groupadd -r recodex || exit 1
getent passwd recodex >/dev/null ||
    useradd -r -M -g recodex -d /etc/recodex -s /sbin/nologin -c "ReCodEx Code Examiner" recodex || exit 1
# The Python monitor, whose program is a script: rpm would replace its configuration if that was never changed. rpm/post.sh
# puts back what is kept here. Nobody but root may have a hand in it.
if [ "$1" -ge 2 ] && [ "$(head -c 2 /usr/bin/recodex-monitor)" = "#!" ] && [ ! -L /etc/recodex ] &&
    [ ! -L /etc/recodex/monitor ]; then
    chown root:root /etc/recodex /etc/recodex/monitor
    if [ -f /etc/recodex/monitor/config.yml ] && [ ! -L /etc/recodex/monitor/config.yml ]; then
        rm -rf /etc/recodex/monitor/config.yml.upgrade
        cp -p /etc/recodex/monitor/config.yml /etc/recodex/monitor/config.yml.upgrade
    fi
fi
exit 0
