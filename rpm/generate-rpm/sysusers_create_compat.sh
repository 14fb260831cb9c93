# %sysusers_create_compat
getent group 'recodex' >/dev/null || groupadd -r 'recodex'
getent passwd 'recodex' >/dev/null || \
    useradd -r -g 'recodex' -d '/etc/recodex' -s '/sbin/nologin' -c 'ReCodEx Code Examiner' 'recodex'
