//! Log files that cannot be opened.

use super::{free_ports, listening_at, output_of};
use crate::common::{PROGRAM, is_root, make_open, open_directory};
use std::fs::{self, Permissions, set_permissions};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

/// Runs the monitor until it exits, as user nobody if `as_nobody` is true, and asserts that it refuses the log file.
fn refuses(log: &Path, as_nobody: bool) {
    let directory = open_directory();
    let addresses = free_ports();
    let config = directory.path().join("config.yml");
    let text = format!("{}logger: {{output: file, file: \"{}\"}}\n", listening_at(addresses), log.display());
    fs::write(&config, text).expect("it is ours");
    let mut words = vec![PROGRAM.to_owned(), "-c".into(), config.display().to_string()];
    if as_nobody && is_root() {
        // The program must be within reach of that user.
        let program = directory.path().join("recodex-monitor");
        // By another process: what a test started meanwhile would else hold the copy open for writing for a moment.
        assert!(Command::new("cp").arg(PROGRAM).arg(&program).status().is_ok_and(|status| status.success()), "a copy");
        words[0] = program.display().to_string();
        let before = ["setpriv", "--reuid=nobody", "--clear-groups", "--inh-caps=-all"];
        words.splice(0..0, before.map(str::to_owned));
    }
    let Output { status, stderr, .. } = output_of(&words);
    let stderr = String::from_utf8(stderr).expect("UTF-8");
    assert_eq!(status.code(), Some(78), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "one line: {stderr}");
    assert!(stderr.ends_with('\n') && stderr.starts_with("recodex-monitor: logger.file: "), "{stderr}");
    // The file, or the directory it cannot be in.
    let parent = log.parent().expect("it is absolute").display().to_string();
    assert!(stderr.contains(&parent), "{} is not named: {stderr}", log.display());
    for address in addresses {
        assert!(TcpStream::connect(address).is_err(), "{address} is still open");
        TcpListener::bind(address).expect("the port is free");
    }
}

#[test]
fn a_log_in_a_directory_that_is_missing_is_refused_78() {
    let directory = open_directory();
    for as_nobody in [true, false] {
        refuses(&directory.path().join("missing/monitor.log"), as_nobody);
        refuses(&directory.path().join("missing/too/monitor.log"), as_nobody);
    }
    assert!(!directory.path().join("missing").exists(), "nothing is made as root");
}

#[test]
fn a_log_that_is_a_directory_is_refused_78() {
    let directory = open_directory();
    make_open(&directory.path().join("monitor.log"));
    refuses(&directory.path().join("monitor.log"), true);
    refuses(&directory.path().join("monitor.log"), false);
}

#[test]
fn a_log_below_a_file_is_refused_78() {
    let directory = open_directory();
    fs::write(directory.path().join("file"), "").expect("it is ours");
    for as_nobody in [true, false] {
        refuses(&directory.path().join("file/monitor.log"), as_nobody);
    }
}

#[test]
#[ignore = "needs root"]
fn a_log_that_others_own_is_refused_78() {
    let directory = open_directory();
    let log = directory.path().join("monitor.log");
    fs::write(&log, "").expect("it is ours");
    set_permissions(&log, Permissions::from_mode(0o600)).expect("it is ours");
    refuses(&log, true);
    assert_eq!(fs::metadata(&log).expect("it is there").uid(), 0);
}
