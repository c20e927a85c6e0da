//! What the admin server is asked: a body says one thing or is refused with the next step.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a target fails loudly"
)]

use std::time::Duration;

use serde_json::Value;

use super::leases;
use super::revocations::Wish;
use crate::admin::{Question, Reply};
use crate::clock::Timestamp;
use crate::fuzz::Input;
use crate::live::{LeaseBook, Target};

/// A JSON body: an opening of a lease, its renewal, or a revocation; the first byte says which.
pub fn admin(data: &[u8]) {
    let mut input = Input(data);
    let which = input.byte() % 3;
    let Ok(body) = serde_json::from_slice::<Value>(input.0) else { return };
    let mut question = Question::default();
    question.body.clone_from(&body);
    match which {
        0 => refused_or(&body, leases::opening(&question), |opening| {
            let now = Timestamp::from_second(1_800_000_000).unwrap();
            assert_eq!(Some(opening.workload.as_str()), body["workload"].as_str());
            assert_eq!((opening.uses, opening.uid), (number(&body["uses"]), number(&body["uid"])));
            let book = LeaseBook::default();
            let Ok(lease) = book.open_lease(opening, &[], "uid 0", now) else { return };
            assert!(lease.is_live(now) && lease.until <= now + Duration::from_hours(24));
            assert_eq!(
                (lease.uses, lease.uid, lease.pod_uid.as_deref()),
                (number(&body["uses"]), number(&body["uid"]), body["pod_uid"].as_str())
            );
        }),
        1 => refused_or(&body, leases::longer(&question), |longer| {
            let text = body["ttl"].as_str().expect("a text");
            assert!(text.starts_with(|first: char| first.is_ascii_digit()), "{text} is read as {longer:?}");
        }),
        _ => refused_or(&body, Wish::of(&question), |(target, reason)| {
            assert_eq!(target.to_string().parse::<Target>().as_ref(), Ok(&target));
            assert_eq!(reason, body["reason"].as_str().unwrap_or_default());
        }),
    }
}

fn number(value: &Value) -> Option<u32> {
    value.as_u64().map(|number| u32::try_from(number).expect("a number that fits"))
}

/// A refusal says what is wrong and what to do, and is no longer than what was asked.
fn refused_or<T>(body: &Value, read: Result<T, Reply>, sound: impl FnOnce(T)) {
    match read {
        Ok(read) => {
            assert!(body.is_object(), "{body}");
            sound(read);
        }
        Err(reply) => {
            assert!(reply.status.is_client_error());
            let said = |name: &str| reply.body[name].as_str().is_some_and(|text| !text.is_empty());
            assert!(said("error") && said("next_step"), "{}", reply.body);
            assert!(reply.body.to_string().len() < 1_000 + 8 * body.to_string().len(), "{}", reply.body);
        }
    }
}
