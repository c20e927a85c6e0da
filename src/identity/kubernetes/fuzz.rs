//! A service-account token, bare or in a `Proxy-Authorization`.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a target fails loudly"
)]

use serde_json::json;

use super::presented::token;
use super::token::{Demands, ServiceAccount};
use crate::clock::Timestamp;
use crate::jose::fuzz::{NOW, issuer, signed_part};

/// A field's value, and a token as [`Issuer::presented`](crate::jose::fuzz::Issuer::presented) makes it.
pub(crate) fn service_account(data: &[u8]) {
    if let Ok(found) = token(data) {
        assert!(found.len() <= data.len(), "a token is no longer than what carries it");
    }
    let issuer = issuer();
    let claims = json!({
        "iss": "https://cluster", "aud": ["exeat"], "sub": "system:serviceaccount:billing:app", "iat": NOW, "nbf": NOW, "exp": NOW + 3600, "jti": "j",
        "kubernetes.io": {
            "namespace": "billing", "serviceaccount": { "name": "app", "uid": "u-1" },
            "pod": { "name": "app-0", "uid": "u-2" }, "node": { "name": "n1", "uid": "u-3" },
        },
    });
    let (presented, only) = issuer.presented(data, (&issuer.header("JWT"), &claims));
    let carried = [b"Bearer ", &presented[..]].concat();
    assert!(
        token(&carried).is_ok_and(|found| *found == presented.trim_ascii())
            || carried.len() > 24 * 1024
            || presented.trim_ascii().is_empty()
    );
    for node in [None, Some("n1")] {
        let demands = Demands { issuer: "https://cluster".into(), audience: "exeat".into(), pod: true, node: node.map(Into::into) };
        let Ok(account) = ServiceAccount::verify(&presented, &issuer.keys, &demands, Timestamp::from_second(NOW).unwrap()) else {
            continue;
        };
        assert!(only.as_ref().is_none_or(|only| *only == signed_part(&presented)), "believed what was not signed");
        assert!(account.pod.is_some() && account.expires.as_second() > NOW && account.expires.as_second() <= NOW + 60 + 24 * 3600);
        assert!(node.is_none_or(|node| account.node.as_ref().is_some_and(|bound| &*bound.name == node)));
        assert!(!account.namespace.contains(':') && !account.name.contains(':'));
    }
}
