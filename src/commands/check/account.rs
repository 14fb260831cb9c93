//! The user of the service with its groups: the check tests files as this user.

use super::report::Finding;
use super::unit::Unit;
use crate::config::{Settings, Source};
use crate::error::{Exit, Failure};
use crate::server::privileges;
use nix::unistd::{
    Gid, Group, Uid, User, getegid, geteuid, getgrouplist, getresgid, getresuid, getuid, setgid, setgroups, setuid,
};
use std::ffi::CString;

/// A user with groups.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: Uid,
    gid: Gid,
    /// All of its groups.
    groups: Vec<Gid>,
}

impl Account {
    /// Looks up a user by name or id. `group` replaces the user's own group; the groups `more` are added.
    fn find(user: &str, group: Option<&str>, more: &[String]) -> Result<Self, String> {
        let found = match user.parse() {
            Ok(id) => User::from_uid(Uid::from_raw(id)),
            Err(_) => User::from_name(user),
        };
        let found = found.map_err(|e| format!("user {user:?} cannot be looked up: {e}"))?;
        let found = found.ok_or_else(|| format!("there is no user {user:?}; create it"))?;
        let gid = group.map_or(Ok(found.gid), group_id)?;
        let name = CString::new(found.name.as_str()).map_err(|e| format!("user {user:?}: {e}"))?;
        let mut groups =
            getgrouplist(&name, gid).map_err(|e| format!("the groups of user {user:?} cannot be looked up: {e}"))?;
        for group in more {
            groups.push(group_id(group)?);
        }
        groups.sort_unstable_by_key(|gid| gid.as_raw());
        groups.dedup();
        Ok(Self { name: found.name, uid: found.uid, gid, groups })
    }

    /// Returns the user who runs the check.
    pub(super) fn current() -> Self {
        let uid = geteuid();
        let name = User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
        Self { name, uid, gid: getegid(), groups: Vec::new() }
    }

    /// Changes the process to this user and its groups, if it runs as root.
    pub(super) fn enter(&self) -> Result<(), Failure> {
        if !geteuid().is_root() {
            return Ok(());
        }
        let refused = |e: &dyn std::fmt::Display| {
            Failure::new(Exit::NoPermission, format!("cannot become user {}: {e}", self.name))
        };
        setgroups(&self.groups).map_err(|e| refused(&e))?;
        setgid(self.gid).map_err(|e| refused(&e))?;
        setuid(self.uid).map_err(|e| refused(&e))?;
        let gone = getresuid().is_ok_and(|ids| [ids.real, ids.effective, ids.saved] == [self.uid; 3])
            && getresgid().is_ok_and(|ids| [ids.real, ids.effective, ids.saved] == [self.gid; 3]);
        if gone { Ok(()) } else { Err(refused(&"the ids did not change")) }
    }

    /// Returns true if this is the user's id.
    pub(super) fn owns(&self, uid: u32) -> bool {
        self.uid.as_raw() == uid
    }

    fn is_me(&self) -> bool {
        self.uid == getuid()
    }

    fn groups(&self) -> String {
        let name = |gid: &Gid| Group::from_gid(*gid).ok().flatten().map_or_else(|| gid.to_string(), |group| group.name);
        self.groups.iter().map(name).collect::<Vec<_>>().join(", ")
    }
}

fn group_id(group: &str) -> Result<Gid, String> {
    let found = match group.parse() {
        Ok(id) => return Ok(Gid::from_raw(id)),
        Err(_) => Group::from_name(group).map_err(|e| format!("group {group:?} cannot be looked up: {e}"))?,
    };
    found.map(|group| group.gid).ok_or_else(|| format!("there is no group {group:?}; create it"))
}

/// The user that the check runs as.
#[derive(Debug)]
pub(super) struct CheckedAs {
    /// The first line of the output.
    pub(super) line: String,
    /// The finding about the user.
    pub(super) finding: Finding,
    /// The user and its groups; `None` if there is no such user.
    pub(super) account: Option<Account>,
    /// True if the service manager starts the monitor as this user. Otherwise root starts it, and it reads its configuration as root.
    pub(super) by_unit: bool,
}

/// Finds the user to check as: that of the installed unit or, without one, that of the settings. `config` is the file of the settings.
pub(super) fn checked_as(unit: Result<&Unit, &str>, settings: &Settings, config: Option<&Source>) -> CheckedAs {
    let units_user = unit.ok().and_then(|unit| unit.user().map(|user| (unit, user)));
    let by_unit = units_user.is_some();
    let (wanted, found) = match units_user {
        Some((unit, user)) => (user, of_unit(unit, user)),
        None => (&*settings.user, of_settings(settings, config)),
    };
    let why = match unit {
        Ok(unit) if by_unit => format!("the user of {}", unit.name),
        Ok(unit) => {
            let name = &unit.name;
            format!("the user in the configuration: {name} starts the monitor as root, which then becomes this user")
        }
        Err(why) => format!("the user in the configuration: {why}"),
    };
    let (line, finding, account) = match found {
        Ok(account) if geteuid().is_root() => {
            let groups = format!("{}, with the groups {}", account.name, account.groups());
            (format!("checked as user {}, {why}", account.name), Finding::Good(groups), Some(account))
        }
        Err(finding) if geteuid().is_root() => {
            (format!("checked as root, since the user does not exist ({why})"), finding, None)
        }
        Ok(account) if account.is_me() => {
            let is_you = format!("{} is you", account.name);
            (format!("checked as user {}, {why}", account.name), Finding::Good(is_you), Some(account))
        }
        found => {
            let me = Account::current();
            let wanted = found.as_ref().map_or(wanted, |account| &account.name);
            let line =
                format!("checked as user {}, who runs this command; only root can check as {wanted} ({why})", me.name);
            let finding = match found {
                Ok(_) => {
                    Finding::Warning(format!("files are checked as {}, not as {wanted}; run this as root", me.name))
                }
                Err(finding) if by_unit => finding,
                Err(_) => Finding::Warning(format!("there is no user {wanted}; create it if root starts the monitor")),
            };
            (line, finding, Some(me))
        }
    };
    CheckedAs { line, finding, account, by_unit }
}

/// Looks up the user of the installed unit.
fn of_unit(unit: &Unit, user: &str) -> Result<Account, Finding> {
    let group = Some(unit.get("Group")).filter(|group| !group.is_empty());
    Account::find(user, group, &unit.list("SupplementaryGroups")).map_err(|what| {
        if unit.is_on("DynamicUser") {
            let what =
                "the unit has DynamicUser=yes, so that its user exists only while it runs; files are not checked";
            return Finding::Warning(what.into());
        }
        Finding::Failed(Exit::NoPermission, format!("{} cannot start (216/GROUP, 217/USER): {what}", unit.name))
    })
}

/// Looks up the user of the settings, if the monitor would become this user.
fn of_settings(settings: &Settings, config: Option<&Source>) -> Result<Account, Finding> {
    privileges::identity(settings, config).map_err(|failure| Finding::from(&failure))?;
    Account::find(&settings.user, settings.group.as_deref(), &[])
        .map_err(|what| Finding::Failed(Exit::NoPermission, what))
}
