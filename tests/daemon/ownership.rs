//! The scripts of the packages and `packaging/install` on machines with files and directories from earlier, each in a mount
//! namespace of its own (as root).

use std::process::Command;

use crate::common;

/// A machine with user and group recodex, without systemd, and without rpm's records.
const MACHINE: &str = r#"
set -eu
umask 022
work=$(mktemp -d) && mount -t tmpfs tmpfs "$work"
over() {
    mkdir -p "$work/upper$1" "$work/work$1"
    mount -t overlay overlay -o "lowerdir=$1,upperdir=$work/upper$1,workdir=$work/work$1" "$1"
}
over /etc && over /usr/bin && over /usr/share
for at in /usr/lib/sysusers.d /var/lib /var/log /usr/local /run; do mount -t tmpfs -o mode=755 tmpfs $at; done
cp packaging/usr/lib/sysusers.d/* /usr/lib/sysusers.d
rm -rf /etc/recodex /usr/bin/recodex-monitor
sed -i '/^recodex:/d' /etc/passwd /etc/group
echo 'recodex:x:64001:64001::/etc/recodex:/bin/false' >>/etc/passwd
echo 'recodex:x:64001:' >>/etc/group
shipped=packaging/etc/recodex/monitor/config.yml config=/etc/recodex/monitor/config.yml logs=/var/log/recodex

# dpkg makes directories and leaves the configuration alone; what rpm does with it is in unpack.
unpack() { :; }
deb() {
    mkdir -p /etc/recodex/monitor /usr/share/recodex-monitor
    cp $shipped /usr/share/recodex-monitor
    sh debian/postinst configure "$@"
}
rpm_() {
    cat rpm/generate-rpm/sysusers_create_compat.sh rpm/pre.sh | sh -s $1
    unpack
    cat rpm/generate-rpm/systemd_post.sh rpm/post.sh | sh -s $1
    sh rpm/posttrans.sh $1
}
by_hand() {
    [ -d "$work/source" ] || {
        mkdir -p "$work/source/target/release/completions"
        cp -r packaging man docs README.md CHANGELOG.md LICENSE debian "$work/source"
        cp /bin/true "$work/source/target/release/recodex-monitor"
        (cd "$work/source/target/release/completions" && touch recodex-monitor _recodex-monitor recodex-monitor.fish)
    }
    "$work/source/packaging/install"
}
new() { install -D -m 640 $shipped $config; }
is() { [ "$(stat -c '%U:%G %a' "$1")" = "$2 $3" ] || { echo "$1: $(stat -c '%U:%G %a' "$1"), expected $2 $3"; exit 1; }; }
state() { find /etc/recodex $logs -printf '%p %u:%g %m\n' -type f -exec md5sum {} + | sort; }
"#;

/// Runs a script there, and returns what was said; `None`, and said, where that is not possible.
fn run(script: &str) -> Option<String> {
    let machine = |script: &str| {
        let script = format!("exec 2>&1\n{MACHINE}\n{script}");
        let words = ["-m", "--propagation", "private", "bash", "-c", &script];
        Command::new("unshare")
            .args(words)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("it is util-linux's")
    };
    if !machine("").status.success() {
        common::skipped("overlays in a mount namespace are not allowed here");
        return None;
    }
    let output = machine(script);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    Some(said)
}

#[test]
#[ignore = "needs root"]
fn what_exists_keeps_owner_mode_and_content() {
    run(r##"
for how in "deb" "deb 2.0.0" "rpm_ 1" "rpm_ 2" by_hand; do
    for etc in "recodex:recodex 755" "recodex:recodex 750" "recodex:recodex 700" "root:recodex 750"; do
        for file in "recodex:recodex 600" "root:recodex 640" "root:root 600"; do
            mkdir -p /etc/recodex/monitor /etc/recodex/broker $logs/core-api
            echo "# ours" >$config
            touch /etc/recodex/broker/config.yml $logs/core-api/log $logs/monitor.log
            chown -R recodex:recodex /etc/recodex
            for at in /etc/recodex /etc/recodex/monitor; do chown ${etc% *} $at; chmod ${etc#* } $at; done
            chown ${file% *} $config && chmod ${file#* } $config
            chown nobody:adm $logs/core-api $logs/core-api/log && chgrp adm $logs && chmod 2770 $logs
            state >"$work/before"
            $how
            state >"$work/after"
            diff "$work/before" "$work/after" || { echo "$how: $etc, $file"; exit 1; }
            rm -r /etc/recodex $logs
        done
    done
done"##);
}

#[test]
#[ignore = "needs root"]
fn a_new_configuration_and_a_new_log_directory_are_given_to_recodex() {
    run(r#"
for how in "deb" by_hand; do
    said=$($how 2>&1)
    case $said in *"cannot"*) echo "$said"; exit 1 ;; esac
    is $config recodex:recodex 640
    cmp $shipped $config
    is /etc/recodex root:root 755
    is $logs recodex:recodex 755
    rm -r /etc/recodex $logs
done
# rpm gives the file the owner that the package names.
unpack() { new; chown recodex:recodex $config; }
rpm_ 1
is $config recodex:recodex 640
is $logs recodex:recodex 755"#);
}

#[test]
#[ignore = "needs root"]
fn dpkg_gives_a_new_configuration_the_owner_and_mode_that_an_administrator_set() {
    run(r##"
printf '#!/bin/sh\necho root "#64001" 644 "$2"\n' >/usr/bin/dpkg-statoverride
chmod 755 /usr/bin/dpkg-statoverride
deb && is $config root:recodex 644"##);
}

#[test]
#[ignore = "needs root"]
fn dpkg_makes_no_configuration_where_recodex_has_put_something_meanwhile() {
    run(r#"
for trick in "mkfifo $config" "ln -s /etc/victim $config" "ln -s /dev/full $config"; do
    rm -rf /etc/recodex
    # postinst asks for an override after its look at what is there.
    printf '#!/bin/sh\n%s\nexit 1\n' "$trick" >/usr/bin/dpkg-statoverride
    chmod 755 /usr/bin/dpkg-statoverride
    timeout 60 env -u HOME sh -c 'mkdir -p /etc/recodex/monitor /usr/share/recodex-monitor
        cp $0 /usr/share/recodex-monitor; sh debian/postinst configure' $shipped
    [ ! -f $config ] && [ ! -e /etc/victim ]
    [ -z "$(ls -d /etc/recodex-monitor.*)" ]
done 2>&1"#);
}

#[test]
#[ignore = "needs root"]
fn dpkg_follows_no_link_in_the_place_of_a_directory() {
    run(r#"
mkdir -p /etc/recodex /etc/victim
ln -s /etc/victim /etc/recodex/monitor
deb 2>&1 | grep -F "there is no $config"
[ -z "$(ls /etc/victim)" ]
for victim in config.yml monitor.log; do echo secret >/etc/victim/$victim; done
rm -r $logs && ln -s /etc/victim $logs
sh debian/postrm purge
[ -f /etc/victim/config.yml ]
[ -f /etc/victim/monitor.log ]"#);
}

#[test]
#[ignore = "needs root"]
fn dpkg_makes_a_configuration_only_at_the_first_installation() {
    run(r#"
mkdir -p ${config%/*}
deb 2.0.0 2>&1 | grep -F "there is no $config"
[ ! -e $config ]
new
deb
is $config root:root 640
sh debian/postrm remove
[ -e $config ]
sh debian/postrm purge
[ ! -e /etc/recodex ]
[ ! -e $logs ]"#);
}

#[test]
#[ignore = "needs root"]
fn nothing_beyond_a_link_is_given_away() {
    run(r"
mkdir /etc/victim && install -m 600 $shipped /etc/victim/config.yml
mkdir /etc/recodex && ln -s /etc/victim /etc/recodex/monitor
deb && by_hand
is /etc/victim/config.yml root:root 600
rm /etc/recodex/monitor && mkdir /etc/recodex/monitor
ln -s /etc/victim/config.yml $config && deb && by_hand
is /etc/victim/config.yml root:root 600
rm $config && ln /etc/victim/config.yml $config && deb && by_hand
is /etc/victim/config.yml root:root 600
# rpm: what is put back goes nowhere else either.
rm $config && new && chmod 604 $config
unpack() { rm $config; ln /etc/victim/config.yml $config; chown recodex:recodex /etc/victim/config.yml; }
printf '#!/bin/sh\n' >/usr/bin/recodex-monitor
rpm_ 2
is /etc/victim/config.yml recodex:recodex 600
unpack() { rm $config; ln -s /etc/victim/config.yml $config; rm -f /etc/victim/config.yml; install -o recodex -g recodex -m 600 $shipped /etc/victim/config.yml; }
rm $config && new && rpm_ 2
is /etc/victim/config.yml recodex:recodex 600
# The log directory.
rm -rf $logs
mkdir -p /etc/logs && chmod 700 /etc/logs && ln -s /etc/logs $logs
deb && by_hand && rpm_ 2
[ -L $logs ] && is /etc/logs root:root 700
rm $logs && ln -s /nowhere $logs && deb && by_hand && rpm_ 2
[ -L $logs ] && [ ! -e /nowhere ]");
}

#[test]
#[ignore = "needs root"]
fn a_link_in_place_of_a_directory_is_said_and_nothing_is_made_behind_it() {
    run(r#"
mkdir -p /etc/behind /var/log/recodex
said() { grep -F "$1" "$work/said" || { echo "$how, $link:"; cat "$work/said"; exit 1; }; }
for how in deb by_hand; do
    for link in /etc/recodex /etc/recodex/monitor $config; do
        mkdir -p "${link%/*}"
        ln -s /etc/behind/$how $link
        [ $link = $config ] || mkdir /etc/behind/$how
        $how >"$work/said" 2>&1
        said "$link is a link"
        said "there is no $config"
        [ -z "$(find /etc/behind -type f)" ]
        [ -z "$(ls -d /etc/recodex-monitor.* 2>/dev/null)" ]
        # What is made by hand afterwards serves.
        if [ $link = /etc/recodex/monitor ]; then
            install -o recodex -g recodex -m 640 $shipped $config
            $how >"$work/said" 2>&1
            ! grep -E "is a link|there is no|cannot" "$work/said" || exit 1
        fi
        rm -rf $link /etc/recodex /etc/behind/$how
    done
    rm -r $logs && ln -s /etc/behind/logs $logs
    $how >"$work/said" 2>&1
    said "$logs is a link to nothing"
    said "install -d -o recodex -g recodex -m 0755 /etc/behind/logs"
    [ -z "$(ls /etc/behind)" ]
    rm -r $logs /etc/recodex
    mkdir $logs
done"#);
}

#[test]
#[ignore = "needs root"]
fn rpm_puts_back_owner_and_mode_and_the_python_monitors_content() {
    run(r#"
unpack() { install -o recodex -g recodex -m 640 $shipped $config; }
for before in "root:recodex 640" "root:recodex 644" "recodex:recodex 600"; do
    new && chown ${before% *} $config && chmod ${before#* } $config
    rpm_ 2
    is $config $before
done
for before in "root:recodex 640" "recodex:recodex 600"; do
    printf '#!/bin/sh\n' >/usr/bin/recodex-monitor
    printf -- '---\nlogger:\n    level: debug\n' >$config
    chown ${before% *} $config && chmod ${before#* } $config
    md5sum $config >"$work/sum"
    rpm_ 2
    md5sum -c "$work/sum"
    is $config $before
done
[ ! -e /var/lib/rpm-state/recodex-monitor ]"#);
}

#[test]
#[ignore = "needs root"]
fn rpm_puts_back_a_link_in_place_of_the_configurations_directory() {
    run(r#"
mkdir -p /etc/behind /etc/victim /etc/recodex
chown recodex:recodex /etc/recodex && chmod 750 /etc/recodex
ln -s ../behind /etc/recodex/monitor
# What rpm removes if another package does not own the directories, or does not follow.
for removed in monitor "monitor ."; do
    sh rpm/preun.sh 1
    rm /etc/recodex/monitor && [ "$removed" = monitor ] || rmdir /etc/recodex
    sh rpm/postun.sh 1
    [ "$(readlink /etc/recodex/monitor)" = ../behind ]
    is /etc/recodex recodex:recodex 750
done
# What recodex has put there meanwhile stays, and nothing is made behind it.
sh rpm/preun.sh 1
ln -sfT /etc/victim /etc/recodex/monitor
sh rpm/postun.sh 1
[ "$(readlink /etc/recodex/monitor)" = /etc/victim ]
# Nothing is made behind a link on the way, but it is said.
mv /etc/recodex /etc/other && ln -s /etc/other /etc/recodex
sh rpm/preun.sh 1
rm /etc/other/monitor
sh rpm/postun.sh 1 2>&1 | grep -F "the files behind it stay: /etc/victim"
[ -z "$(ls /etc/other /etc/victim | grep -v :)" ]
[ ! -e /var/lib/rpm-state/recodex-monitor ]"#);
}

/// The administrator's terminal would obey them. Some shells' echo also makes one out of `\033`.
#[test]
#[ignore = "needs root"]
fn nothing_but_text_is_said_of_where_a_link_leads() {
    run(r#"
behind=$(printf '/etc/be\033[31mhind\302\233\\033[0m')
mkdir -p "$behind" /etc/recodex && ln -s "$behind" /etc/recodex/monitor
rm -rf $logs && ln -s "$behind/logs" $logs
for how in "sh debian/prerm remove" "sh debian/postrm purge" deb by_hand; do
    $how >"$work/said" 2>&1
    grep -F "/etc/be[31mhind\\033[0m" "$work/said" || { echo "$how: nothing said"; exit 1; }
    ! LC_ALL=C grep '[^[:print:]]' "$work/said" || exit 1
done
mv /etc/recodex /etc/other && ln -s /etc/other /etc/recodex
sh rpm/preun.sh 1
rm /etc/other/monitor
sh rpm/postun.sh 1 >"$work/said" 2>&1
grep -F "/etc/be[31mhind\\033[0m" "$work/said"
! LC_ALL=C grep '[^[:print:]]' "$work/said" || exit 1"#);
}

#[test]
#[ignore = "needs root"]
fn a_log_directory_that_recodex_cannot_write_to_is_said_with_the_command() {
    run(r#"
command="install -d -o recodex -g recodex -m 0755 $logs"
for how in "deb" "rpm_ 1" by_hand; do
    for setting in "file: $logs/monitor.log" "output: file"; do
        mkdir -p ${config%/*} $logs && chown root:root $logs
        printf 'logger:\n    %s\n' "$setting" >$config
        $how 2>&1 | grep -qF "$command" || { echo "$how: nothing said"; exit 1; }
        $command
        ! $how 2>&1 | grep -F "cannot" || exit 1
        chown root:root $logs
        printf 'logger:\n    #%s\n    level: info\n' "$setting" >$config
        ! $how 2>&1 | grep -F "cannot" || exit 1
    done
    chmod 600 $config
    $how 2>&1 | grep -F "cannot read $config" || { echo "$how: nothing said"; exit 1; }
    rm -r /etc/recodex $logs
done"#);
}

#[test]
#[ignore = "needs root"]
fn a_user_without_a_group_of_its_name_gets_one() {
    run(r#"
for how in "deb" "rpm_ 1" by_hand; do
    sed -i '/^recodex:/d' /etc/group /etc/gshadow
    sed -i 's/^recodex:.*/recodex:x:64001:100::\/etc\/recodex:\/bin\/false/' /etc/passwd
    unpack() { new; chown recodex:recodex $config; }
    $how
    is $config recodex:recodex 640
    is $logs recodex:recodex 755
    rm -r /etc/recodex $logs
done
# Where that cannot be, nothing is changed.
sed -i '/^recodex:/d' /etc/group
mkdir "$work/bin" && printf '#!/bin/sh\nexit 1\n' >"$work/bin/groupadd" && chmod 755 "$work/bin/groupadd"
rm -rf /usr/local/*
! PATH=$work/bin:$PATH by_hand || exit 1
[ ! -e /etc/recodex ] && [ -z "$(ls /usr/local)" ]"#);
}
