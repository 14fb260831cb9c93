//! The `recodex-monitor` program; all of it is in the library.

fn main() -> std::process::ExitCode {
    recodex_monitor::main()
}
