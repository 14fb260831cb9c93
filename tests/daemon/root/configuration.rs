//! The users that a configuration may name.

use super::{Place, configure, make, text};
use crate::common::PROGRAM;
use crate::common::users::{ALICE, RECODEX, SECRETS, give};
use std::fs::{Permissions, hard_link, read_to_string, remove_file, set_permissions, write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
#[ignore = "needs root"]
fn a_configuration_that_recodex_can_write_names_nobody_else() {
    let Some(place) = Place::new() else { return };
    let config = make(&place.path("etc")).join("config.yml");
    let file = text(&config);
    for settings in ["", "user: recodex\n", "group: recodex\n", "user: recodex\ngroup: recodex\n"] {
        configure(&config, RECODEX, settings);
        place.becomes(file, [RECODEX, RECODEX]);
    }
    for (settings, named) in [
        ("group: secrets\n", r#"user "recodex" and group "secrets""#),
        ("user: alice\n", r#"user "alice""#),
        ("user: alice\ngroup: recodex\n", r#"user "alice" and group "recodex""#),
        ("user: recodex\ngroup: alice\n", r#"group "alice""#),
    ] {
        configure(&config, RECODEX, settings);
        let why = format!("{file} can be changed by user recodex");
        place.refuses(file, 77, &["user, group: ", file, named, &why, r#"may name only "recodex";"#, "chown root"]);
        let output = place.users.run(&[PROGRAM, "check", "-c", file]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.code() == Some(77) && said.contains(&why), "{output:?}");
    }
    // The same in a file of root's is as it was.
    configure(&config, 0, "user: alice\ngroup: secrets\n");
    place.becomes(file, [ALICE, SECRETS]);
    // But no user comes with root's group.
    for settings in ["user: admin\n", "user: alice\ngroup: root\n"] {
        configure(&config, 0, settings);
        place.refuses(file, 77, &["would be in root's group"]);
    }
}

#[test]
#[ignore = "needs root"]
fn a_configuration_that_its_owner_alone_can_write_may_name_the_owner() {
    let Some(place) = Place::new() else { return };
    let config = make(&place.path("etc")).join("config.yml");
    let file = text(&config);
    for (settings, ids) in
        [("", [RECODEX, RECODEX]), ("user: alice\n", [ALICE, ALICE]), ("user: alice\ngroup: alice\n", [ALICE, ALICE])]
    {
        configure(&config, ALICE, settings);
        place.becomes(file, ids);
    }
    // She has not that group, and `recodex` has not hers.
    for settings in ["user: alice\ngroup: recodex\n", "user: recodex\ngroup: alice\n"] {
        configure(&config, ALICE, settings);
        place.refuses(file, 77, &[r#"may name only "recodex", or "alice" with its own group"#]);
    }
    configure(&config, ALICE, "user: nobody\n");
    place.refuses(file, 77, &[r#"may name only "recodex", or "alice" with its own group"#]);
    configure(&config, ALICE, "user: alice\ngroup: secrets\n");
    place.refuses(file, 77, &[r#"group "secrets""#]);
    // Her group, or everybody, can write it as well.
    for mode in [0o660, 0o646] {
        configure(&config, ALICE, "user: alice\n");
        set_permissions(&config, Permissions::from_mode(mode)).expect("it is ours");
        place.refuses(file, 77, &["can be changed by user alice", r#"may name only "recodex";"#]);
    }
    // And so can he whose directory it is in.
    give(config.parent().expect("it has one"), RECODEX);
    configure(&config, ALICE, "user: alice\n");
    place.refuses(file, 77, &["/etc can be changed by user recodex"]);
}

#[test]
#[ignore = "needs root"]
fn permissions_to_write_count_even_in_roots_group() {
    let Some(place) = Place::new() else { return };
    let config = make(&place.path("etc")).join("config.yml");
    for (mode, who) in [(0o660, "group root"), (0o602, "everybody")] {
        configure(&config, 0, "user: alice\n");
        set_permissions(&config, Permissions::from_mode(mode)).expect("it is ours");
        place.refuses(text(&config), 77, &["can be changed by", who]);
    }
    let Ok(status) = Command::new("setfacl").args(["-m", "u:recodex:rw"]).arg(&config).status() else { return };
    if status.success() {
        place.refuses(text(&config), 77, &["its access control list"]);
    }
}

#[test]
#[ignore = "needs root"]
fn every_directory_on_the_way_to_the_configuration_counts() {
    let Some(place) = Place::new() else { return };
    let at = |name: &str| place.path(name);
    let settings = "user: alice\n";
    let (safe, theirs) = (make(&at("safe")), make(&at("theirs")));
    configure(&safe.join("config.yml"), 0, settings);
    make(&theirs.join("below"));
    configure(&theirs.join("below/config.yml"), 0, settings);
    give(&theirs, RECODEX);
    symlink(at("safe"), theirs.join("link")).expect("it is ours");
    symlink(at("theirs/link/config.yml"), safe.join("through.yml")).expect("it is ours");
    symlink("../theirs/below/config.yml", safe.join("relative.yml")).expect("it is ours");
    symlink("config.yml", safe.join("beside.yml")).expect("it is ours");
    let whole = |name: &str| text(&at(name)).to_owned();

    for good in ["safe/config.yml", "safe/beside.yml", "safe/../safe/config.yml"] {
        place.becomes(&whole(good), [ALICE, ALICE]);
        place.becomes(good, [ALICE, ALICE]);
    }
    let reason = format!("{} can be changed by user recodex", theirs.display());
    for bad in [
        "theirs/below/config.yml",
        "theirs/../safe/config.yml",
        "theirs/link/config.yml",
        "theirs/link/../safe/config.yml",
        "safe/through.yml",
        "safe/relative.yml",
        "safe/../theirs/link/config.yml",
    ] {
        // By an absolute path, and by one from the working directory.
        place.refuses(&whole(bad), 77, &[&reason]);
        place.refuses(bad, 77, &[&reason]);
    }
    // A group that may write, and everybody.
    give(&theirs, 0);
    for (mode, who) in [(0o775, "by group root"), (0o757, "by everybody")] {
        set_permissions(&theirs, Permissions::from_mode(mode)).expect("it is ours");
        place.refuses(&whole("theirs/below/config.yml"), 77, &[who]);
    }
}

/// A link or a hard link, to anything that looks like a configuration only to its parser.
#[test]
#[ignore = "needs root"]
fn an_error_of_root_has_nothing_of_a_file_that_others_put_in_the_place_of_the_configuration() {
    let Some(place) = Place::new() else { return };
    let (theirs, hidden) = (make(&place.path("theirs")), make(&place.path("hidden")));
    give(&theirs, RECODEX);
    let (config, own) = (theirs.join("config.yml"), make(&place.path("etc")).join("config.yml"));
    let key = format!("-----BEGIN PRIVATE KEY-----\n{}\n", "SECRET".repeat(5000));
    let secrets = [
        ("root:$y$SECRET$hash:19000:0:99999:7:::\nbin:*:19000:0:99999:7:::\n", 78),
        (&*key, 78),
        ("user: SECRET\nuser: SECRET\n", 78),
        ("SECRET: [\n", 78),
        ("logger: {file: /SECRET, output: [file]}\n", 78),
        ("logger: {file: '/SECRET/%i'}\n", 78),
    ];
    let from = text(&config);
    for (secret, code) in secrets {
        // A file of root's that only root can read, one that all could read but in a directory of root's, and one of another user's.
        for (owner, mode) in [(0, 0o600), (0, 0o644), (ALICE, 0o600)] {
            set_permissions(&hidden, Permissions::from_mode(0o700)).expect("it is ours");
            write(hidden.join("secret"), secret).expect("it is ours");
            set_permissions(hidden.join("secret"), Permissions::from_mode(mode)).expect("it is ours");
            give(&hidden.join("secret"), owner);
            for put in [|at: &Path, to: &Path| symlink(at, to), |at: &Path, to: &Path| hard_link(at, to)] {
                put(&hidden.join("secret"), &config).expect("it is ours");
                let why = format!("{} can be changed by user recodex", theirs.display());
                let said = place.refuses(from, code, &[from, "Root shows nothing of its text", &why]);
                assert!(!said.contains("SECRET"), "{said}");
                for words in [
                    &["check", "-c", from][..],
                    &["check", "--config-only", "-c", from],
                    &["status", "-c", from],
                    &["-c", from, "--check"],
                    &["-c", from, "--check-reload"],
                ] {
                    let output = place.users.run(&[&[PROGRAM], words].concat());
                    let said = [&*output.stdout, &*output.stderr].concat();
                    let said = String::from_utf8_lossy(&said);
                    assert!(
                        said.contains("Root shows nothing of its text") && !said.contains("SECRET"),
                        "{words:?}: {said}"
                    );
                    assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
                }
                remove_file(&config).expect("it is ours");
            }
        }
        // In the packages' layout the mistake is shown.
        write(&own, secret).expect("it is ours");
        give(&own, RECODEX);
        let said = place.refuses(text(&own), code, &[text(&own)]);
        assert!(!said.contains("Root shows nothing"), "{said}");
    }
}

#[test]
#[ignore = "needs root"]
fn in_a_directory_like_tmp_the_owner_of_the_entry_counts() {
    let Some(place) = Place::new() else { return };
    let config = place.path("config.yml");
    configure(&config, 0, "user: alice\n");
    place.becomes(text(&config), [ALICE, ALICE]);
    place.becomes("config.yml", [ALICE, ALICE]);
    // Two names on the way are links, the second of which somebody else owns.
    symlink(&config, place.path("of-root.yml")).expect("it is ours");
    symlink(&config, place.path("of-recodex.yml")).expect("it is ours");
    std::os::unix::fs::lchown(place.path("of-recodex.yml"), Some(RECODEX), Some(RECODEX)).expect("root may");
    place.becomes("of-root.yml", [ALICE, ALICE]);
    // Linux itself may refuse to follow such a link (fs.protected_symlinks).
    let protected = read_to_string("/proc/sys/fs/protected_symlinks").is_ok_and(|value| value.trim() == "1");
    place.refuses("of-recodex.yml", if protected { 78 } else { 77 }, &["of-recodex.yml"]);
    // The owner of the directory can put anything in its place.
    give(place.directory.path(), RECODEX);
    place.refuses("config.yml", 77, &["can be changed by user recodex"]);
    give(place.directory.path(), 0);
}

#[test]
#[ignore = "needs root"]
fn a_configuration_by_the_number_of_a_descriptor_is_judged_where_it_is() {
    let Some(place) = Place::new() else { return };
    let (safe, theirs) = (make(&place.path("safe")).join("c.yml"), make(&place.path("theirs")).join("c.yml"));
    for path in [&safe, &theirs] {
        configure(path, 0, "user: alice\n");
    }
    give(theirs.parent().expect("it has one"), RECODEX);
    let words = place.users.wrapper();
    let start = |path: &Path| {
        let script = "exec \"$@\" < \"$CONFIG\"";
        let mut command = Command::new("timeout");
        command.args(["-s", "TERM", "20"]).args(&words).args(["sh", "-c", script, "sh", PROGRAM, "-c", "/dev/stdin"]);
        command.env("CONFIG", path).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().expect("it starts").wait_with_output().expect("our child")
    };
    let output = start(&theirs);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{said}");
    assert!(said.contains("can be changed by user recodex"), "{said}");
}
