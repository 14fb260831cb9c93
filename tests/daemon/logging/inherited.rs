//! Standard output and standard error as the log file.

use super::{Daemon, free_ports, lines, listening_at, output_of, read_lines};
use crate::common::{PROGRAM, open_directory, until};
use std::fs::{self, File, OpenOptions, Permissions, read_to_string, set_permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Output, Stdio};

/// Returns all bytes that the program wrote to its inherited standard error until it ended; `read` returns the bytes so far.
fn stderr_of(logger: &str, wrapper: &[&str], stderr: Stdio, read: impl Fn() -> String) -> String {
    let mut daemon = Daemon::prepare(|_| {}).on_ports(wrapper, logger, stderr);
    daemon.has_viewers(20);
    daemon.signal("HUP");
    let wait = |words: &str| until(words, || Some(read()).filter(|text| text.contains(words)));
    wait("SIGHUP: the configuration is taken up");
    daemon.relays();
    daemon.stop();
    let text = wait("] stopped: ");
    assert!(text.contains("] listening for viewers on "), "{text}");
    assert_eq!(text.matches(" subscribed to channel job-").count(), 20, "{text}");
    text
}

/// With a size at which a file of its own would be rotated several times.
fn logger_to(name: &str) -> String {
    format!("output: file, file: {name}, level: debug, max-size: 1024, rotations: 1")
}

#[test]
fn standard_output_and_error_are_written_as_they_were_inherited() {
    let to_stderr = ["sh", "-c", "exec \"$@\" 1>&2", "sh"];
    for (name, wrapper) in [
        ("/dev/stderr", &[][..]),
        ("/dev/fd/2", &[]),
        ("/proc/self/fd/2", &[]),
        ("/dev/stdout", &to_stderr),
        ("/dev/fd/1", &to_stderr),
        ("/proc/self/fd/1", &to_stderr),
        ("/proc/thread-self/fd/1", &to_stderr),
    ] {
        // A pipe that belongs to the user who starts it, as root.
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let text = read_lines(|| Ok(reader));
        let text = stderr_of(&logger_to(name), wrapper, writer.into(), || text.lock().expect("no panic").clone());
        lines(&text);
    }
}

#[test]
fn an_inherited_file_is_neither_rotated_nor_cut_nor_opened_anew() {
    let directory = open_directory();
    let path = directory.path().join("private");
    fs::write(&path, "of an earlier run\n").expect("it is ours");
    set_permissions(&path, Permissions::from_mode(0o600)).expect("it is ours");
    let file = OpenOptions::new().append(true).open(&path).expect("it is ours");
    let text = stderr_of(&logger_to("/dev/stderr"), &[], file.into(), || read_to_string(&path).expect("UTF-8"));
    assert!(text.len() > 2048, "it would have been rotated");
    lines(text.strip_prefix("of an earlier run\n").expect("it is kept"));
    assert_eq!(fs::read_dir(directory.path()).expect("it is ours").count(), 1);
}

#[test]
fn an_inherited_socket_or_terminal_is_written_to() {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let text = read_lines(|| Ok(ours));
    stderr_of(&logger_to("/dev/stderr"), &[], OwnedFd::from(theirs).into(), || text.lock().expect("no panic").clone());
    let nix::pty::OpenptyResult { master, slave } = nix::pty::openpty(None, None).expect("a terminal");
    let text = read_lines(|| Ok(File::from(master)));
    stderr_of(&logger_to("/dev/stderr"), &[], slave.into(), || text.lock().expect("no panic").clone());
}

#[test]
fn standard_output_that_is_closed_or_cannot_be_written_is_refused_78() {
    for (redirection, says) in [(">&-", "it is closed"), ("</dev/null 1<&0", "it is open for reading only")] {
        let directory = open_directory();
        let config = directory.path().join("config.yml");
        fs::write(&config, format!("{}logger: {{output: file, file: /dev/stdout}}\n", listening_at(free_ports())))
            .expect("it is ours");
        let script = format!("exec \"$@\" {redirection}");
        let words = ["sh", "-c", &script, "sh", PROGRAM, "-c", &config.display().to_string()].map(str::to_owned);
        let Output { status, stderr, .. } = output_of(&words);
        let stderr = String::from_utf8(stderr).expect("UTF-8");
        assert_eq!(status.code(), Some(78), "{stderr}");
        assert!(stderr.contains("logger.file: cannot write to /dev/stdout: ") && stderr.contains(says), "{stderr}");
    }
}
