//! Ports that a running monitor holds.

use super::{Machine, PORTS, make_program};
use crate::common::{self, Monitor, PROGRAM, is_root, open_directory};
use std::fs::{rename, write};

/// A copy of the program.
fn copy_of_the_program(machine: &Machine, name: &str) -> String {
    let path = machine.path(name);
    let path = path.to_str().expect("UTF-8").to_owned();
    make_program(&["cp", PROGRAM, &path]);
    path
}

/// Starts a monitor from a copy of the program.
fn start_copy(program: &str, config: &str) -> (Monitor, String) {
    const SCRIPT: &str = "shift; exec \"$0\" \"$@\"";
    let monitor = Monitor::start_through(&["sh", "-c", SCRIPT, program], common::Host::default(), config);
    let ports = format!(
        "websocket_uri: [\"127.0.0.1\", {}]\nzeromq_uri: [\"127.0.0.1\", 0]\nuser: nobody\n",
        monitor.viewers.port()
    );
    (monitor, ports)
}

#[test]
#[ignore = "needs root"]
fn a_process_that_only_calls_itself_the_monitor_is_a_stranger() {
    let machine = Machine::new();
    // Its name is the monitor's, and its user too; but its program is another file.
    let (monitor, config) = start_copy(&copy_of_the_program(&machine, "recodex-monitor"), "");
    let process = format!("is held by recodex-monitor (process {})", monitor.pid());
    machine.fails(&config, 69, &["websocket_uri: ", &process, "end it, or name another port"]);
    // This is the monitor's program, but another user's.
    let monitor = Monitor::start("user: daemon\n");
    let config = format!(
        "websocket_uri: [\"127.0.0.1\", {}]\n{}",
        monitor.viewers.port(),
        &PORTS[PORTS.find("zeromq").expect("it is there")..]
    );
    machine.fails(&config, 69, &["websocket_uri: ", &format!("(process {})", monitor.pid()), "end it"]);
}

#[test]
#[ignore = "needs root"]
fn a_monitor_whose_program_was_replaced_is_known() {
    let machine = Machine::new();
    let program = copy_of_the_program(&machine, "recodex-monitor");
    let (monitor, config) = start_copy(&program, "");
    rename(copy_of_the_program(&machine, "new"), &program).expect("it is ours");
    write(machine.config(), config).expect("it is ours");
    let (status, out, err) = machine.check_by(&program);
    assert_eq!(status, 0, "{out}{err}");
    assert!(out.contains(&format!("is held by the monitor that runs (process {})", monitor.pid())), "{out}");
}

#[test]
#[ignore = "needs root"]
fn with_a_unit_only_its_main_process_is_the_monitor() {
    let (monitor, config) = start_copy(PROGRAM, "");
    let machine = Machine::with_unit(&[("MainPID=0", &format!("MainPID={}", monitor.pid()))]);
    let held = format!("is held by the monitor that runs (process {})", monitor.pid());
    machine.passes(&config, "ok", &["websocket_uri: ", &held]);
    let words = ["websocket_uri: ", "not the main process of recodex-monitor.service", "end it"];
    Machine::with_unit(&[]).fails(&config, 69, &words);
}

#[test]
fn a_unix_socket_that_the_monitor_holds_is_as_it_should_be() {
    let directory = open_directory();
    let path = directory.path().join("monitor.sock");
    let monitor = Monitor::start_unix(&path, "");
    let config = format!("websocket_uri: \"unix:{}\"\nzeromq_uri: [\"127.0.0.1\", 0]\nuser: nobody\n", path.display());
    let held = format!("is held by the monitor that runs (process {})", monitor.pid());
    if is_root() {
        Machine::new().passes(&config, "ok", &["websocket_uri: unix:", &held]);
        Machine::with_unit(&[("ReadWritePaths=", &format!("ReadWritePaths={}", directory.path().display()))]).fails(
            &config,
            69,
            &["websocket_uri: unix:", "not the main process"],
        );
    }
}
