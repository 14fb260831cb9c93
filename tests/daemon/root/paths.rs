//! Paths that other users than root can write, and root ids that cannot be given up.

use super::{Place, configure, make, start, stop, text};
use crate::common::users::{RECODEX, give};
use crate::common::{Manager, PROGRAM, Viewer, kill, until, with_descriptors};
use std::fs::{Permissions, read_dir, read_to_string, remove_dir, remove_file, rename, set_permissions, write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

/// A file for its owner only.
fn private(path: &Path, owner: u32) {
    write(path, "private\n").expect("it is ours");
    set_permissions(path, Permissions::from_mode(0o600)).expect("it is ours");
    give(path, owner);
}

/// The properties of a file or directory that must not change: owner, group, mode, and the content or the names in it.
fn state(path: &Path) -> (u32, u32, u32, Vec<String>) {
    let found = path.symlink_metadata().expect("it is there");
    let mut content = Vec::new();
    if found.is_dir() {
        let names = read_dir(path).expect("root may");
        content.extend(names.map(|entry| entry.expect("it can be read").file_name().into_string().expect("UTF-8")));
        content.sort();
    } else {
        content.push(read_to_string(path).expect("root may"));
    }
    (found.uid(), found.gid(), found.mode(), content)
}

#[test]
#[ignore = "needs root"]
fn a_log_that_names_a_file_of_roots_gains_nothing() {
    let Some(place) = Place::new() else { return };
    let config = make(&place.path("etc")).join("config.yml");
    let (alone, shared) = (make(&place.path("alone")), make(&place.path("shared")));
    for path in [alone.join("shadow"), shared.join("shadow"), shared.join("other")] {
        private(&path, 0);
    }
    let logs = make(&place.path("logs"));
    give(&logs, RECODEX);
    symlink(&shared, logs.join("sub")).expect("it is ours");
    symlink(shared.join("shadow"), logs.join("soft")).expect("it is ours");
    symlink(shared.join("made"), logs.join("dangling")).expect("it is ours");
    std::fs::hard_link(shared.join("shadow"), logs.join("hard")).expect("it is ours");
    let before = [&alone, &alone.join("shadow"), &shared, &shared.join("shadow")].map(|path| state(path));
    for (log, says) in [
        ("alone/shadow", "expected a file that user recodex can write to"),
        ("alone/new", "and user recodex must be able to write to it"),
        ("shared/shadow", "expected a file that user recodex can write to"),
        ("logs/sub/shadow", "expected a file that user recodex can write to"),
        ("logs/sub/new", "and user recodex must be able to write to it"),
        ("logs/soft", "it is a link to a path that user recodex cannot write to"),
        ("logs/dangling", "it is a link to a path that user recodex cannot write to"),
        ("logs/hard", "expected a file that user recodex can write to"),
    ] {
        let log = place.path(log);
        let path = log.display();
        configure(&config, RECODEX, &format!("logger: {{output: file, file: '{path}'}}\n"));
        let said = place.refuses(text(&config), 78, &["logger.file: cannot write", text(&log), says]);
        assert!(!said.contains('`') && !said.contains("chown"), "{said}");
        let after = [&alone, &alone.join("shadow"), &shared, &shared.join("shadow")].map(|path| state(path));
        assert_eq!(after, before, "{path}");
    }
}

#[test]
#[ignore = "needs root"]
fn other_paths_of_roots_gain_nothing_either() {
    let Some(place) = Place::new() else { return };
    let config = make(&place.path("etc")).join("config.yml");
    let secret = make(&place.path("secret"));
    private(&secret.join("key"), 0);
    write(secret.join("taken"), "somebody's\n").expect("it is ours");
    let before = state(&secret);
    let secret_path = secret.display();
    for (settings, code, says) in [
        (
            format!(
                "websocket_uri: [127.0.0.1, 0]\ntls: {{certificate: '{secret_path}/key', key: '{secret_path}/key'}}\n"
            ),
            78,
            "LoadCredential=",
        ),
        (format!("websocket_uri: 'unix:{secret_path}/new'\n"), 77, "and user recodex must be able to write to it"),
        (format!("websocket_uri: 'unix:{secret_path}/taken'\n"), 69, "is there already, and no socket"),
        (format!("websocket_uri: 'unix:{secret_path}/none/new'\n"), 69, "and user recodex must be able to write to it"),
        (format!("websocket_uri: [127.0.0.1, 0]\nhistory: {{state: '{secret_path}/key'}}\n"), 78, "it cannot be read"),
    ] {
        configure(&config, RECODEX, "");
        write(&config, format!("zeromq_uri: [127.0.0.1, 0]\n{settings}")).expect("root may");
        place.refuses(text(&config), code, &[says]);
        assert_eq!(state(&secret), before, "{settings}");
    }
    assert_eq!(state(&secret.join("key")).3, ["private\n"]);
}

/// A command with a path of the configuration in it would be led elsewhere by those who can write on the way to that path.
#[test]
#[ignore = "needs root"]
fn a_command_is_named_for_the_directories_of_the_packages_alone() {
    let Some(place) = Place::new() else { return };
    let config = make(&place.path("etc")).join("config.yml");
    let theirs = make(&place.path("theirs"));
    give(&theirs, RECODEX);
    private(&theirs.join("unwritable"), RECODEX);
    set_permissions(theirs.join("unwritable"), Permissions::from_mode(0o400)).expect("it is ours");
    for log in ["theirs/below/monitor.log", "theirs/unwritable", "none/monitor.log", "none/below/monitor.log"] {
        let log = place.path(log);
        configure(&config, RECODEX, &format!("logger: {{file: '{}'}}\n", log.display()));
        let said = place.refuses(text(&config), 78, &["logger.file: cannot write", "user recodex"]);
        assert!(!said.contains('`') && !said.contains("install -d"), "{said}");
    }
    assert!(!place.path("none").exists(), "nothing is made as root");
    let (logs, run) = (make(&place.path("log")), make(&place.path("run")));
    for (usual, at, key, code, mode) in [
        ("/var/log", &logs, "logger: {file: /var/log/recodex/monitor.log}\n", 78, 0o755),
        ("/run", &run, "websocket_uri: 'unix:/run/recodex/monitor.sock'\nzeromq_uri: [127.0.0.1, 0]\n", 69, 0o755),
    ] {
        let made = at.join("recodex");
        for is_missing in [true, false] {
            let code = if is_missing || code == 78 { code } else { 77 };
            configure(&config, RECODEX, key);
            if usual == "/run" {
                write(&config, key).expect("root may");
            }
            let at = text(at);
            let script = format!("mount --bind '{at}' {usual} && exec '{PROGRAM}' -c '{}'", config.display());
            let output = place.users.run(&["sh", "-c", &script]);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{said}");
            let command = said.split('`').nth(1).expect("a command");
            assert_eq!(command, format!("install -d -o recodex -g recodex -m 0{mode:o} {usual}/recodex"));
            let output = place.users.run(&["sh", "-c", &format!("mount --bind '{at}' {usual} && {command}")]);
            assert!(output.status.success(), "{output:?}");
            let found = made.metadata().expect("it is made");
            assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (RECODEX, RECODEX, mode));
            // The next time it is there, and root's.
            give(&made, 0);
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_log_that_is_a_link_to_standard_output_names_the_setting_for_it() {
    let Some(place) = Place::new() else { return };
    let config = make(&place.path("etc")).join("config.yml");
    for target in ["/dev/stdout", "/proc/self/fd/1"] {
        let log = place.path("monitor.log");
        symlink(target, &log).expect("it is ours");
        configure(&config, RECODEX, &format!("logger: {{file: '{}'}}\n", log.display()));
        let output = place.users.run(&[PROGRAM, "-c", text(&config)]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains(&format!("write `logger.file: {target}` instead")), "{said}");
        remove_file(&log).expect("it is ours");
    }
}

#[test]
#[ignore = "needs root"]
fn a_unix_socket_is_made_as_the_user_and_never_replaces_what_that_user_cannot() {
    let Some(place) = Place::new() else { return };
    let config = make(&place.path("etc")).join("config.yml");
    let run = make(&place.path("run"));
    give(&run, RECODEX);
    // No other test's: a socket of this name whose directory is gone would count.
    let name = place.name();
    let socket = run.join(&name);
    configure(&config, RECODEX, "");
    let settings = format!("zeromq_uri: [127.0.0.1, 0]\nwebsocket_uri: 'unix:{}'\n", socket.display());
    write(&config, settings).expect("root may");
    let starts = || {
        let child = start(&place.users, place.directory.path(), text(&config)).expect("it starts");
        let found = socket.symlink_metadata().expect("it is made");
        assert!(found.file_type().is_socket());
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (RECODEX, RECODEX, 0o660));
        child
    };
    // What is in the place of its temporary name: a link, a FIFO, a file of root's, a socket that nobody listens at.
    let secret = place.path("secret");
    private(&secret, 0);
    let new = run.join(format!("{name}.new"));
    let obstacles: [&dyn Fn(); 3] = [
        &|| symlink(&secret, &new).expect("it is ours"),
        &|| {
            nix::unistd::mkfifo(&new, nix::sys::stat::Mode::from_bits_truncate(0o666)).expect("it is ours");
        },
        &|| std::fs::hard_link(&secret, &new).expect("it is ours"),
    ];
    for obstacle in obstacles {
        obstacle();
        let before = new.symlink_metadata().expect("it is there").ino();
        place.refuses(text(&config), 69, &[text(&new), "is there already, and no socket; remove it"]);
        assert_eq!(new.symlink_metadata().expect("it stays").ino(), before);
        assert_eq!(state(&secret), (0, 0, 0o100_600, vec!["private\n".into()]));
        remove_file(&new).expect("it is ours");
    }
    drop(UnixListener::bind(&new).expect("nobody is there"));
    stop(starts());
    assert!(!socket.exists() && !new.exists());
    // A socket of somebody else's, which this user may not connect to, stays as long as it listens.
    let bind = |path: &Path| {
        let listener = UnixListener::bind(path).expect("nobody is there");
        set_permissions(path, Permissions::from_mode(0o600)).expect("it is ours");
        listener
    };
    let listener = bind(&socket);
    place.refuses(text(&config), 69, &["another program"]);
    assert_eq!(socket.symlink_metadata().expect("it stays").uid(), 0);
    drop(listener);
    stop(starts());
    // One whose path at the bind leads nowhere now may be anybody's.
    let elsewhere = make(&place.path("elsewhere"));
    let listener = bind(&elsewhere.join(&name));
    rename(elsewhere.join(&name), &socket).expect("it is ours");
    remove_dir(&elsewhere).expect("it is empty");
    place.refuses(text(&config), 69, &[text(&socket), "perhaps nobody listens there any more: if so, remove it"]);
    drop(listener);
    stop(starts());
}

/// The mode says who may connect, and its owner may not be among them.
#[test]
#[ignore = "needs root"]
fn a_unix_socket_that_its_owner_may_not_connect_to_is_replaced_after_a_kill() {
    let Some(place) = Place::new() else { return };
    let config = make(&place.path("etc")).join("config.yml");
    let run = make(&place.path("run"));
    give(&run, RECODEX);
    let socket = run.join(place.name());
    configure(&config, RECODEX, "");
    let settings = "zeromq_uri: [127.0.0.1, 0]\nwebsocket_mode: \"0060\"\n";
    write(&config, format!("{settings}websocket_uri: 'unix:{}'\n", socket.display())).expect("root may");
    let inode = || socket.symlink_metadata().expect("it is there").ino();
    let mut child = start(&place.users, place.directory.path(), text(&config)).expect("it starts");
    place.refuses(text(&config), 69, &["another program"]);
    let before = inode();
    assert!(kill(child.id(), "KILL").success());
    child.wait().expect("our child");
    let child = start(&place.users, place.directory.path(), text(&config)).expect("it starts");
    assert_ne!(inode(), before);
    stop(child);
}

#[test]
#[ignore = "needs root"]
fn a_log_that_is_exchanged_while_it_runs_is_opened_as_the_user() {
    let Some(place) = Place::new() else { return };
    let config = make(&place.path("etc")).join("config.yml");
    let secret = make(&place.path("secret"));
    private(&secret.join("file"), 0);
    let logs = make(&place.path("logs"));
    give(&logs, RECODEX);
    let log = logs.join("monitor.log");
    let settings = format!("logger: {{file: '{}', level: debug, max-size: 1024, rotations: 1}}\n", log.display());
    configure(&config, RECODEX, &settings);
    let before = [state(&secret), state(&secret.join("file"))];
    let child = start(&place.users, place.directory.path(), text(&config)).expect("it starts");
    let viewers: SocketAddr = until("the log says where viewers connect", || {
        let text = read_to_string(&log).ok()?;
        let (address, _) = text.split_once("listening for viewers on ")?.1.split_once('\n')?;
        Some(address.parse().expect("an address"))
    });
    for target in [secret.join("file"), secret.join("new")] {
        symlink(&target, logs.join("link")).expect("it is ours");
        rename(logs.join("link"), &log).expect("it is ours");
        assert!(kill(child.id(), "HUP").success());
        for _ in 0..20 {
            Viewer::subscribed(viewers, "job");
        }
        // The log cannot be written now; a moment later it is there again.
        remove_file(&log).expect("it is ours");
        until("the log goes on", || {
            Viewer::subscribed(viewers, "job");
            read_to_string(&log).ok().filter(|text| text.contains(" subscribed to channel job"))
        });
        assert_eq!([state(&secret), state(&secret.join("file"))], before);
    }
    stop(child);
}

/// This is not a start as root, but the process could become root again.
#[test]
#[ignore = "needs root"]
fn a_process_that_could_become_root_again_is_refused_77() {
    let Some(place) = Place::new() else { return };
    let (program, config) = (place.path("program"), place.path("config.yml"));
    // The program must be within reach of that user.
    assert!(Command::new("cp").arg(PROGRAM).arg(&program).status().is_ok_and(|status| status.success()), "a copy");
    configure(&config, RECODEX, "");
    let output = place.users.run(&["setpriv", "--euid=recodex", "--clear-groups", text(&program), "-c", text(&config)]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{said}");
    assert!(said.contains("cannot give up root"), "{said}");
}

#[test]
#[ignore = "needs root"]
fn a_start_that_fails_tells_viewers_only_after_root_is_given_up() {
    let Some(place) = Place::new() else { return };
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("it is bound").port();
    let typo = "clients: {mux: 1}\n".to_owned();
    let on_taken = format!("status_uri: [127.0.0.1, {port}]\n");
    let no_log = "logger: {file: /nonexistent/monitor.log}\n".to_owned();
    for (settings, code, known) in
        [(typo.clone(), 78, true), (on_taken, 69, true), (no_log, 78, true), (typo, 78, false)]
    {
        let manager = Manager::new();
        let mut monitor = manager.starts(&[], "");
        let mut viewer = Viewer::subscribed(monitor.viewers, "job");
        monitor.signal("USR2");
        assert_eq!(monitor.wait_exit().code(), Some(0));
        let config = place.path("config.yml");
        configure(&config, 0, &settings);
        let mut words = manager.wrapper(&[]);
        // Without a user `recodex` it becomes the user of the previous process.
        if known {
            words.extend(place.users.wrapper());
        }
        let mut command = Command::new(&words[0]);
        let output = with_descriptors(&mut command, &manager.descriptors())
            .args(&words[1..])
            .args([PROGRAM, "-c", text(&config)])
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        // It holds copies of the descriptors.
        drop(command);
        manager.forgets();
        viewer.is_ended_with(1001);
    }
}
