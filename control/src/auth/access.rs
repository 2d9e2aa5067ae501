//! Roles, and what each may do. One table, and one question to it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// In rising order: each may what those before it may. A PoP is beside the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    Viewer,
    Developer,
    Admin,
    Owner,
    /// The key a PoP was given when it joined.
    Pop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// See everything that is no secret.
    Read,
    /// Upload blobs, make, activate and roll back deployments.
    Deploy,
    /// Change flags, settings, environment and domains.
    Configure,
    Purge,
    /// Make and remove apps.
    Apps,
    /// Invite and remove PoPs.
    Pops,
    /// Make and revoke keys.
    Keys,
    /// Read the audit log.
    Audit,
    /// Make and remove webhooks, and see what they were told.
    Webhooks,
    /// What only a PoP does: report, and fetch blobs.
    Report,
}

impl Role {
    fn actions(self) -> &'static [Action] {
        use Action::*;
        match self {
            Role::Viewer => &[Read],
            Role::Developer => &[Read, Deploy, Configure, Purge],
            Role::Admin | Role::Owner => &[Read, Deploy, Configure, Purge, Apps, Pops, Keys, Audit, Webhooks],
            Role::Pop => &[Report],
        }
    }
}

/// What a key may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) role: Role,
    /// The one app it reaches; `None` for all.
    pub(crate) app: Option<String>,
    /// What it is confined to; `None` for all its role has.
    pub(crate) actions: Option<Vec<Action>>,
}

impl Access {
    /// Whether it may do this to one app; or, with `None`, to what belongs to no app.
    pub(crate) fn may(&self, action: Action, app: Option<&str>) -> bool {
        let confined = self.actions.as_ref().is_none_or(|actions| actions.contains(&action));
        let reaches = self.app.as_deref().is_none_or(|own| app == Some(own));
        self.role.actions().contains(&action) && confined && reaches
    }

    /// Whether it may make a key with that access: nobody gives what they do not have.
    pub(crate) fn may_give(&self, other: &Access) -> bool {
        let reaches = self.app.is_none() || self.app == other.app;
        let wanted = other.actions.as_deref().unwrap_or_else(|| other.role.actions());
        let has = |action: &Action| {
            self.role.actions().contains(action) && self.actions.as_ref().is_none_or(|own| own.contains(action))
        };
        other.role != Role::Pop && other.role <= self.role && reaches && wanted.iter().all(has)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(role: Role, app: Option<&str>, actions: Option<&[Action]>) -> Access {
        Access {
            role,
            app: app.map(str::to_owned),
            actions: actions.map(<[Action]>::to_vec),
        }
    }

    #[test]
    fn what_a_key_may() {
        for (role, app, actions, action, of, expected) in [
            (Role::Viewer, None, None, Action::Read, Some("shop"), true),
            (Role::Viewer, None, None, Action::Deploy, Some("shop"), false),
            (Role::Developer, None, None, Action::Deploy, Some("shop"), true),
            (Role::Developer, Some("shop"), None, Action::Deploy, Some("shop"), true),
            (Role::Developer, Some("shop"), None, Action::Deploy, Some("blog"), false),
            (Role::Developer, Some("shop"), None, Action::Purge, None, false),
            (
                Role::Developer,
                None,
                Some(&[Action::Read][..]),
                Action::Deploy,
                Some("shop"),
                false,
            ),
            (
                Role::Viewer,
                None,
                Some(&[Action::Deploy]),
                Action::Deploy,
                Some("shop"),
                false,
            ),
            (Role::Admin, None, None, Action::Keys, None, true),
            (Role::Owner, None, None, Action::Report, None, false),
            (Role::Pop, None, None, Action::Report, None, true),
            (Role::Pop, None, None, Action::Read, None, false),
        ] {
            let access = access(role, app, actions);
            assert_eq!(access.may(action, of), expected, "{access:?} {action:?} {of:?}");
        }
    }

    #[test]
    fn nobody_gives_what_they_do_not_have() {
        let admin = access(Role::Admin, None, None);
        let confined = access(Role::Admin, Some("shop"), Some(&[Action::Keys, Action::Read]));
        for (giver, given, expected) in [
            (&admin, access(Role::Admin, None, None), true),
            (&admin, access(Role::Owner, None, None), false),
            (&admin, access(Role::Pop, None, None), false),
            (&admin, access(Role::Developer, Some("shop"), None), true),
            (&confined, access(Role::Viewer, Some("shop"), None), true),
            (&confined, access(Role::Viewer, None, None), false),
            (&confined, access(Role::Developer, Some("shop"), None), false),
            (
                &confined,
                access(Role::Developer, Some("shop"), Some(&[Action::Read])),
                true,
            ),
        ] {
            assert_eq!(giver.may_give(&given), expected, "{giver:?} {given:?}");
        }
    }
}
