# Fedora's rpm has made the user by now, from the sysusers.d file; that of EL9 has not. The files belong to it.
getent group recodex >/dev/null || groupadd -r recodex || exit 1
getent passwd recodex >/dev/null ||
    useradd -r -M -g recodex -d /etc/recodex -s /sbin/nologin -c "ReCodEx Code Examiner" recodex || exit 1
