//! `Guard`: who may come in at the admin door.

use std::sync::Arc;

use crate::secret::Secret;

/// Who may ask the admin server.
pub enum Guard {
    /// Nobody is asked: the status server.
    Open,
    /// Peers with one of these uids (`SO_PEERCRED`).
    Uids(Vec<u32>),
    /// Holders of the token, as `Authorization: Bearer`.
    Token(Secret),
}

impl Guard {
    /// Who an admitted caller is, for the record: `uid 0`, `token`.
    #[must_use]
    pub fn name(&self, uid: Option<u32>) -> Arc<str> {
        match (self, uid) {
            (Self::Token(_), _) => "token".into(),
            (Self::Open | Self::Uids(_), None) => "anybody".into(),
            (Self::Open | Self::Uids(_), Some(uid)) => format!("uid {uid}").into(),
        }
    }

    /// Whether this caller may come in.
    #[must_use]
    pub fn admits(&self, uid: Option<u32>, authorization: Option<&[u8]>) -> bool {
        match self {
            Self::Open => true,
            Self::Uids(uids) => uid.is_some_and(|uid| uids.contains(&uid)),
            Self::Token(token) => authorization.and_then(|value| value.strip_prefix(b"Bearer ")).is_some_and(|shown| token.same_as(shown)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_unless_proven() {
        assert!(Guard::Open.admits(None, None));
        let uids = Guard::Uids(vec![0, 1001]);
        assert!(uids.admits(Some(1001), None));
        assert!(!uids.admits(Some(1002), None));
        assert!(!uids.admits(None, Some(b"Bearer t")));
        let token = Guard::Token(Secret::new(b"t0k3n".to_vec()));
        assert!(token.admits(None, Some(b"Bearer t0k3n")));
        for shown in [None, Some(&b"t0k3n"[..]), Some(b"Bearer t0k3"), Some(b"Bearer t0k3n "), Some(b"Basic t0k3n")] {
            assert!(!token.admits(Some(0), shown));
        }
    }
}
