//! Viewers through a Unix socket.

use crate::common::{self, Broker, Monitor, Viewer, command, open_directory, run, temporary, unique};
use std::fs::{metadata, write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// A directory for a socket, and the socket's path.
fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = open_directory();
    let path = directory.path().join("monitor.sock");
    (directory, path)
}

fn relays(monitor: &Monitor, path: &Path) {
    let channel = unique("job");
    let broker = Broker::connect(monitor.brokers);
    broker.send(&[&channel[..], "STARTED"]);
    let mut viewer = Viewer::connected_to(path).upgrade(&[]);
    viewer.send_text(&channel);
    viewer.texts(&[command("STARTED")]);
    broker.send(&[&channel[..], "FINISHED"]);
    viewer.texts(&[command("FINISHED")]);
    viewer.closes(1000);
}

#[test]
fn viewers_come_through_a_unix_socket_with_its_mode_and_it_goes_with_a_stop() {
    let (_directory, path) = place();
    for (config, mode) in [("", 0o660), ("websocket_mode: \"0606\"\n", 0o606), ("websocket_mode: 0666\n", 0o666)] {
        let mut monitor = Monitor::start_unix(&path, config);
        let found = metadata(&path).expect("it is there");
        assert!(found.file_type().is_socket());
        assert_eq!(found.permissions().mode() & 0o7777, mode);
        if common::is_root() {
            let nobody = nix::unistd::User::from_name("nobody").expect("it can be asked").expect("it is there");
            assert_eq!((found.uid(), found.gid()), (nobody.uid.as_raw(), nobody.gid.as_raw()));
        }
        relays(&monitor, &path);
        let mut viewer = Viewer::connected_to(&path).upgrade(&[]).subscribe("job");
        monitor.signal("TERM");
        viewer.is_ended_with(1001);
        assert_eq!(monitor.wait_exit().code(), Some(0));
        assert!(!path.exists());
    }
}

#[test]
fn a_socket_that_a_killed_monitor_left_is_replaced() {
    let (_directory, path) = place();
    let mut monitor = Monitor::start_unix(&path, "");
    monitor.signal("KILL");
    monitor.wait_exit();
    assert!(path.exists());
    let monitor = Monitor::start_unix(&path, "");
    let mut check = Viewer::connected_to(&path);
    check.send_raw(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(check.raw_to_end().starts_with(b"HTTP/1.1 200 "));
    relays(&monitor, &path);
}

#[test]
fn a_stop_removes_no_other_than_the_socket_of_this_process() {
    let (_directory, path) = place();
    let mut monitor = Monitor::start_unix(&path, "");
    std::fs::remove_file(&path).expect("it is ours");
    write(&path, "mine").expect("it is ours");
    monitor.signal("TERM");
    assert_eq!(monitor.wait_exit().code(), Some(0));
    assert_eq!(std::fs::read_to_string(&path).expect("it stays"), "mine");
    std::fs::remove_file(&path).expect("it is ours");
    let mut monitor = Monitor::start_unix(&path, "");
    std::fs::remove_file(&path).expect("it is ours");
    let next = Monitor::start_unix(&path, "");
    monitor.signal("TERM");
    assert_eq!(monitor.wait_exit().code(), Some(0));
    relays(&next, &path);
}

#[test]
fn a_unix_socket_may_have_as_long_a_path_as_the_system_allows() {
    let directory = open_directory();
    let room = 107 - directory.path().as_os_str().len() - 1;
    let path = directory.path().join("s".repeat(room));
    for _ in 0..2 {
        let mut monitor = Monitor::start_unix(&path, "");
        relays(&monitor, &path);
        monitor.signal("KILL");
        monitor.wait_exit();
        assert_eq!(std::fs::read_dir(directory.path()).expect("it is ours").count(), 1);
    }
    let (_other, config) = temporary("config.yml", format!("websocket_uri: \"unix:{}s\"\n", path.display()));
    let output = run(&["-c", config.to_str().expect("UTF-8"), "--check"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("expected at most 107 bytes"), "{output:?}");
}

#[test]
fn a_configuration_in_the_place_of_the_sockets_temporary_name_is_refused_and_stays() {
    let (directory, path) = place();
    let config = directory.path().join("monitor.sock.new");
    let text = format!("websocket_uri: \"unix:{}\"\nzeromq_uri: [127.0.0.1, 0]\nuser: nobody\n", path.display());
    write(&config, &text).expect("it is ours");
    let named = config.to_str().expect("UTF-8");
    for arguments in [&["-c", named][..], &["check", "-c", named]] {
        let output = run(arguments);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains("the configuration both use"), "{said}");
        assert_eq!(std::fs::read_to_string(&config).expect("it stays"), text);
    }
}

#[test]
fn what_is_in_the_way_of_a_unix_socket_is_left_alone_and_said() {
    let (_directory, path) = place();
    let (_other, config) = temporary(
        "config.yml",
        format!("websocket_uri: \"unix:{}\"\nzeromq_uri: [127.0.0.1, 0]\nuser: nobody\n", path.display()),
    );
    let start = || run(&["-c", config.to_str().expect("UTF-8")]);
    write(&path, "mine").expect("it is ours");
    let output = start();
    assert_eq!(output.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is there already, and no socket"));
    std::fs::remove_file(&path).expect("it is ours");
    let listener = UnixListener::bind(&path).expect("nobody is there");
    common::open_up(&path);
    let output = start();
    assert_eq!(output.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&output.stderr).contains("another program"), "{output:?}");
    listener.set_nonblocking(true).expect("a socket");
    assert!(listener.accept().is_ok(), "it listens still, and was asked");
    drop(listener);
    std::fs::remove_file(&path).expect("it is ours");
    let nowhere = path.join("below");
    let (_other, config) = temporary(
        "config.yml",
        format!("websocket_uri: \"unix:{}\"\nzeromq_uri: [127.0.0.1, 0]\nuser: nobody\n", nowhere.display()),
    );
    let output = run(&["-c", config.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&output.stderr).contains("websocket_uri: cannot listen on unix:"));
}

#[test]
fn behind_a_unix_socket_the_proxy_is_believed_if_it_is_trusted() {
    let (_directory, path) = place();
    for (config, name) in [("trusted_proxies: [\"unix:\"]\n", "192.0.2.1"), ("", "unix:")] {
        let monitor = Monitor::start_unix(&path, &format!("logger: {{level: debug}}\n{config}"));
        let channel = unique("job");
        drop(Viewer::connected_to(&path).upgrade(&[("X-Forwarded-For", "192.0.2.1")]).subscribe(&channel));
        assert_eq!(monitor.viewer_of(&channel), name);
    }
}
