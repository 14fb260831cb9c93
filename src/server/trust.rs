//! The check of the user and the group in a configuration that others than root can change.

use crate::config::{DEFAULT_USER, MAX_FILE, Settings, Source, Who, writers};
use crate::error::{Exit, Failure};
use crate::fs::{Accept, read_bounded};
use nix::unistd::{Group, User};

/// Refuses a configuration that others than root can change and that names a user other than `recodex` or the file's owner, or another
/// group than the user's own.
///
/// The owner may be named only if nobody else can change the file. All directories on the way to the file are checked, and those on the
/// way of symbolic links.
///
/// # Errors
/// [`Exit::NoPermission`] with the user and the path that they can write; [`Exit::Config`] if the file cannot be read any more.
pub(super) fn check(config: &Source, settings: &Settings) -> Result<(), Failure> {
    let path = config.path();
    if settings.user == DEFAULT_USER && settings.group.as_deref().is_none_or(|group| group == DEFAULT_USER) {
        return Ok(());
    }
    let refused = |what: String| Failure::new(Exit::NoPermission, format!("user, group: {what}"));
    // The file is read again: the checked file must be the one with these settings, even if it was replaced meanwhile.
    let unknown = |what: String| refused(format!("cannot tell who can write {}: {what}", path.display()));
    let read = read_bounded(path, MAX_FILE, Accept::File).map_err(unknown)?;
    if config.parse(&read)? != *settings {
        return Err(refused(format!("{} changed while it was read; start the monitor again", path.display())));
    }
    let (writers, owner) = writers(path, read.id()).map_err(unknown)?;
    let Some(writer) = writers.first() else { return Ok(()) };
    let alone = writers.iter().all(|writer| writer.who == Who::User(owner));
    let owner = User::from_uid(owner).ok().flatten().filter(|_| alone);
    let group = settings.group.as_deref();
    let is_group = |name: &str, gid| Group::from_name(name).ok().flatten().is_some_and(|group| group.gid == gid);
    // The user `recodex` with the owner's group, or the other way round, is not allowed: neither of them has both.
    let may_be = |owner: &User| owner.name == settings.user && group.is_none_or(|name| is_group(name, owner.gid));
    if owner.as_ref().is_some_and(may_be) {
        return Ok(());
    }
    let named = match group {
        Some(group) => format!("user {:?} and group {group:?}", settings.user),
        None => format!("user {:?}", settings.user),
    };
    let owner = owner.filter(|owner| owner.name != DEFAULT_USER);
    let allowed = owner.map_or_else(String::new, |owner| format!(", or {:?} with its own group", owner.name));
    Err(refused(format!(
        "{} names {named}, but others than root can change it: {writer}. Such a configuration may name only {DEFAULT_USER:?}{allowed}; \
         let only root write the file and every directory on the way to it (`chown root`, `chmod go-w`), or leave out user and group",
        path.display(),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_replaced_is_not_judged() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.yml");
        let named = |user: &str| format!("user: {user}\n");
        std::fs::write(&path, named("alice")).unwrap();
        let config = Source::new(&path, None);
        let alice = config.load().unwrap();
        std::fs::write(&path, named("bob")).unwrap();
        assert!(check(&config, &alice).unwrap_err().to_string().contains("changed while it was read"));
    }
}
