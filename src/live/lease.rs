//! `Lease`: time-boxed access for one task of one workload, with its uses.
//!
//! A lease by itself allows nothing: a rule with `lease:` says which kind it wants, and the lease says that the task is under way. Uses are
//! counted in memory and reserved in the state ahead of time: what was not reserved is never given out, so a crash can lose uses and
//! never gives one back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::HeaderName;

use crate::clock::Timestamp;
use crate::identity::{SpiffeId, SpiffeIdError};
use crate::secret::random;

/// In this header a caller names the lease that it means. It never leaves.
pub const HEADER: HeaderName = HeaderName::from_static("exeat-lease");

/// Longest life of a lease, renewals and all.
pub const CEILING: Duration = Duration::from_hours(24);
/// Shortest life that a task could use.
const SHORTEST: Duration = Duration::from_secs(1);
const MOST_ATTRIBUTES: usize = 16;
const LONGEST_NAME: usize = 64;
const LONGEST_TEXT: usize = 256;
/// Most uses of one lease.
pub const MOST_USES: u32 = 1_000_000_000;
/// Most uses that a crash can lose at a time.
const LARGEST_CHUNK: u32 = 256;

/// Why a lease cannot be opened, renewed or ended. Each message names the next step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// The workload is no SPIFFE ID.
    #[error("a lease belongs to a workload: {0}")]
    Workload(#[from] SpiffeIdError),
    /// The kind.
    #[error("a kind has 1 to 64 of a-z, A-Z, 0-9, `.`, `-` and `_`")]
    Kind,
    /// The time.
    #[error("a lease lives 1 s to 24 h, counted from its opening: open another one for a longer task")]
    Ttl,
    /// The uses.
    #[error("a lease has 1 to {MOST_USES} uses; leave them out for as many as its time allows")]
    Uses,
    /// The attributes.
    #[error(
        "a lease has at most 16 attributes: names of 1 to 64 of a-z, A-Z, 0-9, `.`, `-` and `_`, texts of at most 256 bytes in one line"
    )]
    Attributes,
    /// The pod.
    #[error("the uid of a pod is 32 to 36 of 0-9, a-f and `-`; `kubectl get pod NAME -o jsonpath={{.metadata.uid}}` prints it")]
    Pod,
    /// The reason.
    #[error("a reason is one line of at most 256 bytes")]
    Reason,
    /// A word that no identity source proves yet.
    #[error("a lease cannot be bound to `{word}`: it comes with {what}")]
    Later {
        /// As written.
        word: String,
        /// What will bring it.
        what: &'static str,
    },
    /// Not here.
    #[error("there is no lease `{0}`; `exeat lease list` shows those that are")]
    Unknown(String),
    /// Over already.
    #[error("lease `{0}` has ended: open another one")]
    Ended(String),
    /// Too many leases of one workload.
    #[error("this workload has 64 live leases already; end one, `exeat lease list` shows them")]
    TooManyOfOne,
    /// Too many leases.
    #[error("exeat holds 4096 live leases already; end some, `exeat lease list` shows them")]
    TooMany,
    /// The state cannot be written.
    #[error("{done}: {why}")]
    NotDurable {
        /// What holds although it is not written.
        done: &'static str,
        /// Of the state.
        why: String,
    },
}

/// What a lease is bound to, beside its workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// The SPIFFE ID: always.
    Identity,
    /// The uid of the caller's process, as the kernel tells it.
    Uid,
    /// The uid of the caller's Kubernetes pod, where its identity proves one.
    Pod,
}

/// Every word for a binding, and what proves it; `Err` names what will bring the proof. The one table to extend with a new identity.
#[must_use = "a table"]
pub const fn bindings() -> &'static [(&'static str, Result<Binding, &'static str>)] {
    &[("identity", Ok(Binding::Identity)), ("uid", Ok(Binding::Uid)), ("pod_uid", Ok(Binding::Pod)), ("session", Err("tool calls"))]
}

/// What a rule wants of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LeaseTerms {
    /// Of this kind.
    pub kind: Arc<str>,
    /// Of no use to this rule longer than this after its opening.
    pub max_ttl: Option<Duration>,
    /// This rule lets no more passages through under one lease.
    pub max_uses: Option<u32>,
    /// Bound to the caller's uid.
    pub uid: bool,
    /// Bound to the caller's pod.
    pub pod: bool,
}

/// A lease as it is asked for.
#[derive(Debug, Clone, Default)]
pub struct Opening {
    /// For whom.
    pub workload: String,
    /// Which task: a word that rules name.
    pub kind: String,
    /// How long.
    pub ttl: Duration,
    /// How often; `None` as often as its time allows.
    pub uses: Option<u32>,
    /// Only for processes of this uid.
    pub uid: Option<u32>,
    /// Only for processes of the Kubernetes pod of this uid.
    pub pod_uid: Option<String>,
    /// What conditions read as `lease.attrs`.
    pub attributes: BTreeMap<String, String>,
    /// Why, in the opener's words.
    pub reason: String,
}

/// How a lease ended before or at its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// When.
    pub at: Timestamp,
    /// Who: `uid 0`, or `its time`.
    pub by: Arc<str>,
}

/// The most passages of one rule under one lease.
#[derive(Debug, Clone, Copy)]
pub struct MaxUses<'a> {
    /// `policy/rule`.
    pub rule: &'a str,
    /// At most.
    pub most: u32,
}

/// What became of one use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is taken; so many are left, if they are counted.
    Left(Option<u32>),
    /// None is left.
    Spent,
    /// Some are left and none of them is reserved yet.
    Unreserved,
}

/// Why a request has no lease, each with its refusal code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// There is none, or not for this workload, kind or process.
    None,
    /// It is over.
    Ended,
    /// It has no uses left.
    Spent,
}

/// Uses of one kind, shared by all versions of a lease.
#[derive(Debug, Default)]
pub(super) struct Counter {
    used: AtomicU32,
    /// Uses below this are written down as taken already.
    pub(super) reserved: AtomicU32,
    /// The twin, for rules that only rehearse.
    would: AtomicU32,
}

impl Counter {
    pub(super) fn starting_at(used: u32) -> Self {
        Self { used: AtomicU32::new(used), reserved: AtomicU32::new(used), would: AtomicU32::new(0) }
    }

    pub(super) fn used(&self) -> u32 {
        self.used.load(Ordering::Acquire)
    }

    fn look(&self, most: u32) -> Taken {
        let used = self.used();
        if used >= most {
            Taken::Spent
        } else if used >= self.reserved.load(Ordering::Acquire) {
            Taken::Unreserved
        } else {
            Taken::Left(Some(most - used))
        }
    }

    fn take(&self, most: u32) -> Taken {
        let reserved = self.reserved.load(Ordering::Acquire);
        let mut used = self.used();
        loop {
            if used >= most {
                return Taken::Spent;
            }
            if used >= reserved {
                return Taken::Unreserved;
            }
            match self.used.compare_exchange_weak(used, used + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Taken::Left(Some(most - used - 1)),
                Err(now) => used = now,
            }
        }
    }

    /// Whether the reserve runs low and can be raised.
    pub(super) fn is_low(&self, most: u32) -> bool {
        let (used, reserved) = (self.used(), self.reserved.load(Ordering::Acquire));
        reserved < most && reserved.saturating_sub(used) <= chunk(most) / 2
    }

    /// What to reserve next.
    pub(super) fn next_reserve(&self, most: u32) -> u32 {
        self.used().max(self.reserved.load(Ordering::Acquire)).saturating_add(chunk(most)).min(most)
    }
}

/// An eighth of all, so that a crash loses little of few and a file is written seldom for many.
pub(super) fn chunk(most: u32) -> u32 {
    most.div_ceil(8).clamp(1, LARGEST_CHUNK)
}

/// One lease. Immutable but for its counters, which its later versions share.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Its name, in records and in the header `exeat-lease`.
    pub id: Arc<str>,
    /// Which task.
    pub kind: Arc<str>,
    /// For whom.
    pub workload: SpiffeId,
    /// Only for processes of this uid.
    pub uid: Option<u32>,
    /// Only for processes of the Kubernetes pod of this uid.
    pub pod_uid: Option<Arc<str>>,
    /// What conditions read.
    pub attributes: Arc<BTreeMap<String, String>>,
    /// Why.
    pub reason: Arc<str>,
    /// Who opened it.
    pub by: Arc<str>,
    /// When.
    pub opened: Timestamp,
    /// Its time is over then.
    pub until: Timestamp,
    /// How it ended, once it has.
    pub ended: Option<End>,
    /// How often in all.
    pub uses: Option<u32>,
    pub(super) total: Arc<Counter>,
    pub(super) rules: Vec<RuleUses>,
}

/// Uses of one rule with `max_uses` under one lease.
#[derive(Debug, Clone)]
pub(super) struct RuleUses {
    pub(super) rule: Arc<str>,
    /// The rule's `max_uses` when it was last asked for.
    pub(super) most: u32,
    pub(super) counter: Arc<Counter>,
}

impl Lease {
    /// A checked lease with nothing reserved.
    ///
    /// # Errors
    /// What is wrong with the opening.
    pub(super) fn open(opening: Opening, by: &str, now: Timestamp) -> Result<Self, LeaseError> {
        let Opening { workload, kind, ttl, uses, uid, pod_uid, attributes, reason } = opening;
        let workload = SpiffeId::parse(&workload)?;
        if !is_name(&kind) {
            return Err(LeaseError::Kind);
        }
        if ttl < SHORTEST || ttl > CEILING {
            return Err(LeaseError::Ttl);
        }
        if uses.is_some_and(|uses| uses == 0 || uses > MOST_USES) {
            return Err(LeaseError::Uses);
        }
        if pod_uid.as_deref().is_some_and(|uid| !is_pod_uid(uid)) {
            return Err(LeaseError::Pod);
        }
        if attributes.len() > MOST_ATTRIBUTES || attributes.iter().any(|(name, text)| !is_name(name) || !is_line(text)) {
            return Err(LeaseError::Attributes);
        }
        if !is_line(&reason) {
            return Err(LeaseError::Reason);
        }
        let until = now.checked_add(ttl).map_err(|_| LeaseError::Ttl)?;
        let mut bytes = [0; 8];
        random(&mut bytes);
        Ok(Self {
            id: format!("{kind}-{:016x}", u64::from_be_bytes(bytes)).into(),
            kind: kind.into(),
            workload,
            uid,
            pod_uid: pod_uid.map(Into::into),
            attributes: Arc::new(attributes),
            reason: reason.into(),
            by: by.into(),
            opened: now,
            until,
            ended: None,
            uses,
            total: Arc::default(),
            rules: Vec::new(),
        })
    }

    /// The same lease for longer.
    ///
    /// # Errors
    /// It has ended, or would live longer than the ceiling since its opening.
    pub(super) fn renewed(&self, ttl: Duration, now: Timestamp) -> Result<Self, LeaseError> {
        if !self.is_live(now) {
            return Err(LeaseError::Ended(self.id.to_string()));
        }
        let until = now.checked_add(ttl).map_err(|_| LeaseError::Ttl)?;
        let ceiling = self.opened.checked_add(CEILING).map_err(|_| LeaseError::Ttl)?;
        if ttl < SHORTEST || until > ceiling {
            return Err(LeaseError::Ttl);
        }
        Ok(Self { until, ..self.clone() })
    }

    /// Neither ended nor over.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.ended.is_none() && now < self.until
    }

    /// When it is over for a rule with this `max_ttl`.
    #[must_use]
    pub fn until_under(&self, max_ttl: Option<Duration>) -> Timestamp {
        max_ttl.and_then(|most| self.opened.checked_add(most).ok()).map_or(self.until, |end| end.min(self.until))
    }

    /// Uses left in all, if they are counted.
    #[must_use]
    pub fn uses_left(&self) -> Option<u32> {
        self.uses.map(|uses| uses.saturating_sub(self.total.used()))
    }

    /// Uses left for a rule: of the lease, and of the rule's own under it.
    #[must_use]
    pub fn uses_left_under(&self, max: Option<MaxUses<'_>>) -> Option<u32> {
        let rule = max.map(|max| max.most.saturating_sub(self.counter(max.rule).map_or(0, |counter| counter.used())));
        [rule, self.uses_left()].into_iter().flatten().min()
    }

    /// What [`Lease::take`] would say; takes nothing.
    #[must_use]
    pub fn look(&self, max: Option<MaxUses<'_>>) -> Taken {
        if self.uses_left_under(max) == Some(0) {
            return Taken::Spent;
        }
        let rule = max.map(|max| self.counter(max.rule).map_or(Taken::Unreserved, |counter| counter.look(max.most)));
        let total = self.uses.map(|uses| self.total.look(uses));
        if [rule, total].contains(&Some(Taken::Unreserved)) { Taken::Unreserved } else { Taken::Left(self.uses_left_under(max)) }
    }

    /// Takes one use. The rule's own first: when the lease has none left after it, nothing of the rule's is worth anything either.
    #[must_use]
    pub fn take(&self, max: Option<MaxUses<'_>>) -> Taken {
        if let Some(max) = max {
            match self.counter(max.rule).map_or(Taken::Unreserved, |counter| counter.take(max.most)) {
                Taken::Left(_) => {}
                refused @ (Taken::Spent | Taken::Unreserved) => return refused,
            }
        }
        match self.uses.map(|uses| self.total.take(uses)) {
            Some(refused @ (Taken::Spent | Taken::Unreserved)) => refused,
            Some(Taken::Left(_)) | None => Taken::Left(self.uses_left_under(max)),
        }
    }

    /// One use of the twin: what would be if the rule were in force. `false` when none would be left. One twin stands for the lease and for
    /// the rule's own bound.
    #[must_use]
    pub fn would_take(&self, max: Option<MaxUses<'_>>) -> bool {
        let Some(most) = self.would_most(max) else { return true };
        let next = |used: u32| (used < most).then(|| used + 1);
        self.total.would.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// What [`Lease::would_take`] would say; takes nothing.
    #[must_use]
    pub fn would_look(&self, max: Option<MaxUses<'_>>) -> bool {
        self.would_most(max).is_none_or(|most| self.total.would.load(Ordering::Relaxed) < most)
    }

    fn would_most(&self, max: Option<MaxUses<'_>>) -> Option<u32> {
        [max.map(|max| max.most), self.uses].into_iter().flatten().min()
    }

    /// Whether a reserve of it should be raised soon.
    #[must_use]
    pub fn runs_low(&self, max: Option<MaxUses<'_>>) -> bool {
        let rule = max.is_some_and(|max| self.counter(max.rule).is_none_or(|counter| counter.is_low(max.most)));
        rule || self.uses.is_some_and(|uses| self.total.is_low(uses))
    }

    pub(super) fn counter(&self, rule: &str) -> Option<&Arc<Counter>> {
        self.rules.iter().find(|uses| *uses.rule == *rule).map(|uses| &uses.counter)
    }
}

/// Whether this can name a kind or an attribute.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

/// As the API server gives them, and the kubelet to static pods; identities prove nothing else.
fn is_pod_uid(text: &str) -> bool {
    (32..=36).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'))
}

fn is_line(text: &str) -> bool {
    text.len() <= LONGEST_TEXT && !text.chars().any(char::is_control)
}
