//! The user and the groups as which a check looks at files: those of the service.

use super::report::Finding;
use super::service::{UNIT, Unit};
use crate::config::Settings;
use crate::error::{Exit, Failure};
use crate::server::privileges;
use nix::unistd::{
    Gid, Group, Uid, User, getegid, geteuid, getgrouplist, getresgid, getresuid, getuid, setgid, setgroups, setuid,
};
use std::ffi::CString;
use std::path::Path;

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
    /// Looks up a user by name or id. `group` takes the place of its own group; `more` come in addition.
    ///
    /// # Errors
    /// With the reason, if something is not there.
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

    /// The user who started the check.
    pub(super) fn current() -> Self {
        let uid = geteuid();
        let name = User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
        Self { name, uid, gid: getegid(), groups: Vec::new() }
    }

    /// Makes the process this user's, if it is root's; else it stays as it is.
    ///
    /// # Errors
    /// [`Exit::NoPermission`] if the system does not let it.
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
        if gone { Ok(()) } else { Err(refused(&"it is still another")) }
    }

    /// True if this is its user id.
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

/// The user as whom the check judges.
#[derive(Debug)]
pub(super) struct Judge {
    /// The first line of the output.
    pub(super) line: String,
    /// The finding about this user.
    pub(super) finding: Finding,
    /// The user and its groups; none if there is no such user.
    pub(super) account: Option<Account>,
    /// True if the service manager starts the monitor as this user. Else root starts it, and it reads its configuration as root.
    pub(super) by_unit: bool,
}

/// Finds the user to judge as: the installed unit's or, without one, the configuration's. `config` is where the settings come from.
pub(super) fn judge(unit: Result<&Unit, &str>, settings: &Settings, config: Option<&Path>) -> Judge {
    let units_user = unit.ok().and_then(|unit| unit.user().map(|user| (unit, user)));
    let (found, why) = match (units_user, unit) {
        (Some((unit, user)), _) => {
            let group = Some(unit.get("Group")).filter(|group| !group.is_empty());
            let found = Account::find(user, group, &unit.list("SupplementaryGroups"));
            let found = found.map_err(|what| {
                if unit.is_on("DynamicUser") {
                    let what = "the unit has DynamicUser=yes, so that its user is there only while it runs; files are not looked at";
                    return Finding::Warning(what.into());
                }
                Finding::Failed(Exit::NoPermission, format!("{UNIT} cannot start (216/GROUP, 217/USER): {what}"))
            });
            (found, format!("as {UNIT} runs"))
        }
        (None, unit) => {
            let refused = privileges::identity(settings, config).err();
            let found = refused.map_or(Ok(()), |failure| Err(Finding::from(&failure))).and_then(|()| {
                Account::find(&settings.user, settings.group.as_deref(), &[])
                    .map_err(|what| Finding::Failed(Exit::NoPermission, what))
            });
            let why = match unit {
                Ok(_) => format!("{UNIT} starts the monitor as root, which then becomes the user of the configuration"),
                Err(why) => format!("the user of the configuration, as {why}"),
            };
            (found, why)
        }
    };
    let by_unit = units_user.is_some();
    if geteuid().is_root() {
        return match found {
            Ok(account) => Judge {
                line: format!("judged as user {}, {why}", account.name),
                finding: Finding::Good(format!("{}, with the groups {}", account.name, account.groups())),
                account: Some(account),
                by_unit,
            },
            Err(finding) => Judge {
                line: format!("judged as root: the user is not there ({why})"),
                finding,
                account: None,
                by_unit,
            },
        };
    }
    let wanted = match &found {
        Ok(account) if account.is_me() => {
            let line = format!("judged as user {}, {why}", account.name);
            return Judge {
                line,
                finding: Finding::Good(format!("{} is you", account.name)),
                account: found.ok(),
                by_unit,
            };
        }
        Ok(account) => account.name.clone(),
        Err(_) => units_user.map_or(&*settings.user, |(_, user)| user).to_owned(),
    };
    let me = Account::current();
    let line = format!("judged as user {}, who started this; only root can judge as {wanted} ({why})", me.name);
    let finding = match found {
        Err(finding) if by_unit => finding,
        Err(_) => Finding::Warning(format!("there is no user {wanted}; whoever starts the monitor as root needs one")),
        Ok(_) => Finding::Warning(format!("files are looked at as {}, not as {wanted}; run this as root", me.name)),
    };
    Judge { line, finding, account: Some(me), by_unit }
}
