//! Recalling: grants of what was revoked go out of use here at once, and their issuers are asked to revoke them, behind it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde::Serialize;

use crate::audit::{Event, GrantChange, Ledger};
use crate::clock::Timestamp;
use crate::credentials::{Broker, Cause, CredentialProvider, Discarded, Recall};
use crate::live::{Block, Blocks, Target, Touched};
use crate::snapshot::Snapshot;
use crate::telemetry::Metrics;

/// An issuer has this long for one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Issuers that are asked at one time.
const AT_ONCE: usize = 16;

/// What became of the grants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Recalled {
    /// Taken out of use here.
    pub discarded: u64,
    /// Of these, how many the issuer is asked to revoke; the audit tells how that went.
    pub issuer_asked: u64,
    /// Of these, how many no issuer takes back: they end by themselves.
    pub issuer_cannot: u64,
    /// When the last of those ends that no issuer takes back; absent where one tells no end of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_ends: Option<Timestamp>,
}

/// Who is asked to take back what.
type Ask = (Arc<dyn CredentialProvider>, Discarded);

/// Discards every grant that these blocks stand against.
pub(super) fn discard(blocks: &[&Block], broker: &Broker, snapshot: &Snapshot) -> Vec<Discarded> {
    let mut doomed = Blocks::default();
    let mut terms = Vec::new();
    for block in blocks {
        doomed.add(Block::clone(block));
        // What a rule has granted bears no rule's name; whoever else shares its terms gets another at the next request.
        if let Target::Rule(name) = &block.target {
            terms.extend(snapshot.policies.rule(name).flatten());
        }
    }
    broker.discard_where(Cause::Revoked, |grant| {
        let touched = Touched {
            workload: grant.workload,
            upstream: grant.upstream,
            credential: Some(&grant.terms.profile.name),
            rule: None,
            lease: grant.lease,
            grant: Some(&grant.id.0),
        };
        doomed.on(&touched).is_some() || terms.iter().any(|terms| ***terms == *grant.terms)
    })
}

/// Has the issuers asked, and tells what will become of the grants.
pub(super) fn recall(discarded: Vec<Discarded>, snapshot: &Snapshot, ledger: &Ledger, metrics: &Metrics) -> Recalled {
    let mut told = Recalled { discarded: discarded.len() as u64, ..Recalled::default() };
    let (mut asked, mut endless): (Vec<Ask>, bool) = (Vec::new(), false);
    for one in discarded {
        let definition = snapshot.definitions.get(&one.credential.terms.profile.name);
        if let Some(definition) = definition.filter(|definition| definition.digest == one.definition && definition.provider.revokes()) {
            asked.push((Arc::clone(&definition.provider), one));
        } else {
            told.issuer_cannot += 1;
            endless |= one.credential.not_after.is_none();
            told.last_ends = told.last_ends.max(one.credential.not_after);
        }
    }
    told.last_ends = told.last_ends.filter(|_| !endless);
    told.issuer_asked = asked.len() as u64;
    if !asked.is_empty() {
        drop(tokio::spawn(ask_issuers(asked, ledger.clone(), metrics.clone())));
    }
    told
}

async fn ask_issuers(asked: Vec<Ask>, ledger: Ledger, metrics: Metrics) {
    futures_util::stream::iter(asked)
        .for_each_concurrent(AT_ONCE, |(provider, one)| {
            let (ledger, metrics) = (ledger.clone(), metrics.clone());
            async move {
                let recall =
                    Recall { credential: Arc::clone(&one.credential), workload: one.workload.clone(), upstream: Arc::clone(&one.upstream) };
                let (change, detail) = match tokio::time::timeout(PATIENCE, provider.revoke(recall)).await {
                    Ok(Ok(())) => (GrantChange::Revoked, "its issuer took it back".to_owned()),
                    Ok(Err(error)) => (GrantChange::RevocationFailed, error.to_string()),
                    Err(_) => (GrantChange::RevocationFailed, "its issuer did not answer within 5 s".to_owned()),
                };
                let credential = Arc::clone(&one.credential.terms.profile.name);
                metrics.grant(&credential, change);
                ledger.event(Event::Grant {
                    change,
                    grant: Some(Arc::clone(&one.credential.grant.0)),
                    credential,
                    workload: one.workload.shared(),
                    upstream: one.upstream,
                    detail: detail.into(),
                });
            }
        })
        .await;
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::audit::{FileOptions, FileSink, Options};
    use crate::catalogue::{Placement, Profile};
    use crate::clock::SystemClock;
    use crate::credentials::{Credential, Definition, Definitions, GrantId, IssueError, IssueRequest, Issued, Issuing};
    use crate::identity::SpiffeId;
    use crate::policy::GrantTerms;
    use crate::secret::{FingerprintKey, Secret};

    /// Takes everything back but grant 2.
    #[derive(Default)]
    struct Issuer(Mutex<Vec<GrantId>>);

    impl CredentialProvider for Issuer {
        fn issue(&self, _: IssueRequest) -> Issuing<'_, Result<Issued, IssueError>> {
            Box::pin(std::future::pending())
        }

        fn revokes(&self) -> bool {
            true
        }

        fn revoke(&self, recall: Recall) -> Issuing<'_, Result<(), IssueError>> {
            self.0.lock().unwrap().push(recall.credential.grant.clone());
            let refused = IssueError::Refused { credential: "oauth".into(), why: "unsupported_token_type".into() };
            Box::pin(std::future::ready(if &*recall.credential.grant.0 == "2" { Err(refused) } else { Ok(()) }))
        }
    }

    /// Takes nothing back.
    struct Signer;

    impl CredentialProvider for Signer {
        fn issue(&self, _: IssueRequest) -> Issuing<'_, Result<Issued, IssueError>> {
            Box::pin(std::future::pending())
        }
    }

    fn definition(name: &str, provider: Arc<dyn CredentialProvider>) -> Definition {
        let profile = Profile {
            name: name.into(),
            kind: "test",
            audience: None,
            scopes: None,
            ttl: Duration::from_mins(1),
            placement: Placement::Bearer,
        };
        Definition::new(Arc::new(profile), provider, &[])
    }

    fn discarded(grant: &str, definition: &Definition, ends: i64) -> Discarded {
        let material = Secret::new(b"token".to_vec());
        let credential = Credential {
            grant: GrantId(grant.into()),
            terms: Arc::new(GrantTerms { profile: Arc::clone(&definition.profile), scopes: None, ttl: Duration::from_mins(1) }),
            fingerprint: material.fingerprint(&FingerprintKey::new(&[1; 32])),
            material,
            rendered: None,
            issued: Timestamp::UNIX_EPOCH,
            not_after: Some(Timestamp::from_second(ends).unwrap()),
        };
        Discarded {
            credential: Arc::new(credential),
            workload: SpiffeId::parse("spiffe://t/w").unwrap(),
            upstream: "u".into(),
            definition: definition.digest,
        }
    }

    #[tokio::test]
    async fn issuers_that_can_are_asked_and_the_others_are_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("audit.jsonl");
        let sink = FileSink::open(&file, FileOptions::default()).unwrap();
        let ledger = Ledger::start(Box::new(sink), |_| {}, Arc::new(SystemClock), Options::default()).unwrap();
        let issuer = Arc::new(Issuer::default());
        let (oauth, jwt) = (definition("oauth", Arc::clone(&issuer) as Arc<dyn CredentialProvider>), definition("jwt", Arc::new(Signer)));
        let former = definition("oauth", Arc::new(Signer));
        let gone = vec![discarded("1", &oauth, 5), discarded("2", &oauth, 6), discarded("3", &jwt, 7), discarded("4", &jwt, 9)];
        let changed = Discarded { definition: crate::credentials::Digest::of(&[b"before a reload"]), ..discarded("5", &former, 8) };
        let snapshot = Snapshot { definitions: Definitions::new([oauth, jwt]), ..Snapshot::empty("test") };
        let told = recall(gone.into_iter().chain([changed]).collect(), &snapshot, &ledger, &Metrics::new());
        let last_ends = Timestamp::from_second(9).ok();
        assert_eq!(told, Recalled { discarded: 5, issuer_asked: 2, issuer_cannot: 3, last_ends }, "a changed definition asks nobody");
        let recorded = async {
            loop {
                let text = std::fs::read_to_string(&file).unwrap();
                if text.contains("\"event\":\"grant_revoked\"") && text.contains("\"event\":\"grant_revocation_failed\"") {
                    return text;
                }
                tokio::task::yield_now().await;
            }
        };
        let text = tokio::time::timeout(Duration::from_secs(20), recorded).await.expect("recorded");
        assert!(text.contains("unsupported_token_type"), "{text}");
        assert_eq!(issuer.0.lock().unwrap().len(), 2);
        assert!(ledger.stop(Duration::from_secs(20)));
    }

    /// Answers when a place is given, and counts who waits.
    struct Slow {
        places: tokio::sync::Semaphore,
        waiting: AtomicUsize,
        most: AtomicUsize,
        answered: AtomicUsize,
    }

    impl CredentialProvider for Slow {
        fn issue(&self, _: IssueRequest) -> Issuing<'_, Result<Issued, IssueError>> {
            Box::pin(std::future::pending())
        }

        fn revokes(&self) -> bool {
            true
        }

        fn revoke(&self, _: Recall) -> Issuing<'_, Result<(), IssueError>> {
            Box::pin(async {
                let now = self.waiting.fetch_add(1, Ordering::SeqCst) + 1;
                self.most.fetch_max(now, Ordering::SeqCst);
                self.places.acquire().await.unwrap().forget();
                self.waiting.fetch_sub(1, Ordering::SeqCst);
                self.answered.fetch_add(1, Ordering::SeqCst);
                Ok(())
            })
        }
    }

    #[tokio::test]
    async fn sixteen_issuers_are_asked_at_one_time_and_all_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let sink = FileSink::open(&dir.path().join("audit.jsonl"), FileOptions::default()).unwrap();
        let ledger = Ledger::start(Box::new(sink), |_| {}, Arc::new(SystemClock), Options::default()).unwrap();
        let [waiting, most, answered] = std::array::from_fn(|_| AtomicUsize::new(0));
        let slow = Arc::new(Slow { places: tokio::sync::Semaphore::new(0), waiting, most, answered });
        let oauth = definition("oauth", Arc::clone(&slow) as Arc<dyn CredentialProvider>);
        let gone = (0..40).map(|grant| discarded(&grant.to_string(), &oauth, 5)).collect();
        let snapshot = Snapshot { definitions: Definitions::new([oauth]), ..Snapshot::empty("test") };
        assert_eq!(recall(gone, &snapshot, &ledger, &Metrics::new()).issuer_asked, 40);
        for answers in 0..40 {
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            let asked = slow.waiting.load(Ordering::SeqCst);
            assert_eq!(asked, AT_ONCE.min(40 - answers), "after {answers} answers");
            slow.places.add_permits(1);
        }
        let all = async {
            while slow.answered.load(Ordering::SeqCst) < 40 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), all).await.expect("all are asked");
        assert_eq!(slow.most.load(Ordering::SeqCst), AT_ONCE);
        assert!(ledger.stop(Duration::from_secs(20)));
    }

    #[tokio::test]
    async fn an_issuer_that_keeps_silent_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("audit.jsonl");
        let sink = FileSink::open(&file, FileOptions::default()).unwrap();
        let ledger = Ledger::start(Box::new(sink), |_| {}, Arc::new(SystemClock), Options::default()).unwrap();
        let [waiting, most, answered] = std::array::from_fn(|_| AtomicUsize::new(0));
        let silent = Arc::new(Slow { places: tokio::sync::Semaphore::new(0), waiting, most, answered });
        let oauth = definition("oauth", Arc::clone(&silent) as Arc<dyn CredentialProvider>);
        let gone = vec![discarded("1", &oauth, 5)];
        let snapshot = Snapshot { definitions: Definitions::new([oauth]), ..Snapshot::empty("test") };
        recall(gone, &snapshot, &ledger, &Metrics::new());
        let told = async {
            while !std::fs::read_to_string(&file).unwrap().contains("its issuer did not answer within 5 s") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE * 4, told).await.expect("told after 5 s");
        assert!(ledger.stop(Duration::from_secs(20)));
    }
}
