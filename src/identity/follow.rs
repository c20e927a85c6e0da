//! `follow`: keeps what is known of a workload at what its agent says.
//!
//! Each message is the whole state: what is absent is unloaded. `PermissionDenied` withdraws; a lost connection does not, until the
//! certificate's own end; `InvalidArgument` is not asked again (SPIFFE Workload API, sections 4.4 and 5).

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::followed::Followed;
use super::pod::Pod;
use super::spiffe_id::SpiffeId;
use super::standing::HeldSvid;
use super::svid::{Bundle, BundleFault, Bundles, X509Svid, certificates};
use super::workload::Workload;
use super::workload_api::{Client, Fault, JwtBundles, Stream, X509Svids};
use crate::capture::Sha256;
use crate::clock::{Clock, Timestamp};
use crate::secret::{Secret, random};
use crate::tls::OwnCertificate;

/// Waits between two tries.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How often the certificate's end is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Why a message is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    #[error("it has no X.509-SVID with hint `{0}`")]
    NoHint(Arc<str>),
    #[error("{0}")]
    Ended(&'static str),
    #[error("it names `{named}`, its certificate `{proven}`")]
    OtherId { named: String, proven: SpiffeId },
    #[error("`{id}` is not in trust domain `{trust_domain}`, for which alone exeat speaks")]
    Foreign { id: SpiffeId, trust_domain: Arc<str> },
    #[error("{0}")]
    Bundle(#[from] BundleFault),
    #[error("{0}")]
    Svid(#[from] super::svid::X509Fault),
    #[error("{0}")]
    Key(#[from] crate::tls::TlsError),
}

/// One of an agent's streams about one workload.
pub(super) trait Told: Sync {
    /// The whole state, whenever it changes.
    type Message: prost::Message + Default + 'static;
    /// Whether it tells who the workload is, and not only whom to trust.
    const IDENTITY: bool;
    /// What is known of the workload.
    fn followed(&self) -> &Followed;
    /// Asks for it.
    fn open(&self) -> impl Future<Output = Result<Stream<Self::Message>, Fault>> + Send;
    /// Takes what was said.
    fn take(&self, message: Self::Message) -> Result<(), Malformed>;
}

/// exeat's own SVIDs.
struct OwnSvids<'a>(&'a Pod, &'a dyn Clock);

impl Told for OwnSvids<'_> {
    type Message = X509Svids;
    const IDENTITY: bool = true;

    fn followed(&self) -> &Followed {
        self.0.followed()
    }

    async fn open(&self) -> Result<Stream<X509Svids>, Fault> {
        Client::connect(&self.0.settings().endpoint).await?.x509_svids().await
    }

    fn take(&self, message: X509Svids) -> Result<(), Malformed> {
        take_svids(self.followed(), message, self.1.now())
    }
}

/// The JWT keys that exeat trusts.
struct OwnKeys<'a>(&'a Pod);

impl Told for OwnKeys<'_> {
    type Message = JwtBundles;
    const IDENTITY: bool = false;

    fn followed(&self) -> &Followed {
        self.0.followed()
    }

    async fn open(&self) -> Result<Stream<JwtBundles>, Fault> {
        Client::connect(&self.0.settings().endpoint).await?.jwt_bundles().await
    }

    fn take(&self, message: JwtBundles) -> Result<(), Malformed> {
        take_jwt(self.followed(), &message)
    }
}

/// Follows a pod, until it is aborted.
pub(super) async fn follow(pod: Arc<Pod>, clock: Arc<dyn Clock>) {
    let (svids, keys) = (OwnSvids(&pod, &*clock), OwnKeys(&pod));
    tokio::join!(stay(&svids), stay(&keys), expire(pod.followed(), &*clock));
}

/// Keeps one stream open, with growing waits while it fails. Returns when there is nothing to be asked any more.
pub(super) async fn stay<T: Told>(told: &T) {
    let followed = told.followed();
    let mut wait = FIRST_WAIT;
    loop {
        let mut heard = false;
        let fault = read(told, &mut heard).await;
        if heard {
            wait = FIRST_WAIT;
        }
        match &fault {
            Fault::Denied(_) if T::IDENTITY => followed.withdraw(&fault.to_string()),
            Fault::Final(_) if T::IDENTITY => {
                followed.withdraw(&fault.to_string());
                return;
            }
            Fault::Lost(_) | Fault::Broken(_) | Fault::Unimplemented if T::IDENTITY => {
                followed.say(&format!("{}: {fault}", followed.about().place));
            }
            Fault::Denied(_) => followed.publish_keys(followed.standing().bundles.x509_only()),
            Fault::Final(_) | Fault::Unimplemented => return,
            Fault::Lost(_) | Fault::Broken(_) => {}
        }
        let mut jitter = [0];
        random(&mut jitter);
        tokio::time::sleep(wait + wait * u32::from(jitter[0]) / 1024).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Reads one stream to its end.
async fn read<T: Told>(told: &T, heard: &mut bool) -> Fault {
    let followed = told.followed();
    let opened = async {
        let mut stream = told.open().await?;
        let first = stream.message().await?;
        Ok::<_, Fault>((stream, first))
    };
    let (mut stream, mut next) = match within(followed.about().first_word, opened).await {
        Ok(opened) => opened,
        Err(fault) => return fault,
    };
    while let Some(message) = next {
        match told.take(message) {
            Ok(()) => *heard = true,
            // The former state holds: half of a message is no state. The next one may be right, and may be a withdrawal.
            Err(malformed) => followed.say(&format!("{}: its message is not taken: {malformed}", followed.about().place)),
        }
        next = match stream.message().await {
            Ok(next) => next,
            Err(fault) => return fault,
        };
    }
    Fault::Lost("it ended the stream".to_owned())
}

async fn within<T>(limit: Duration, future: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    tokio::time::timeout(limit, future).await.unwrap_or_else(|_| Err(Fault::Lost(format!("it said nothing within {limit:?}"))))
}

/// Looks after the certificate's end.
async fn expire(followed: &Followed, clock: &dyn Clock) {
    loop {
        tokio::time::sleep(LOOK).await;
        followed.expire(clock.now());
    }
}

/// Takes the whole state of a workload's X.509-SVIDs.
pub(super) fn take_svids(followed: &Followed, message: X509Svids, now: Timestamp) -> Result<(), Malformed> {
    let about = followed.about();
    if message.svids.is_empty() {
        followed.withdraw("the agent gives this workload no X.509-SVID; register it, or look at the agent's selectors");
        return Ok(());
    }
    let federated = trusted(&message.federated_bundles, Bundle::from_der_list)?;
    // Of two SVIDs with one hint the first counts (section 5.2.1).
    let wanted = |hint: &str| about.hint.as_deref().is_none_or(|asked| asked == hint);
    let Some(mut entry) = message.svids.into_iter().find(|entry| wanted(&entry.hint)) else {
        let missing = Malformed::NoHint(about.hint.clone().unwrap_or_default());
        followed.withdraw(&missing.to_string());
        return Ok(());
    };
    let key = Secret::new(std::mem::take(&mut entry.x509_svid_key));
    let mut bundles = federated;
    bundles.insert(Bundle::from_der_list(&about.trust_domain, &entry.bundle)?);
    let chain = certificates(&entry.x509_svid)?;
    let svid = X509Svid::verify(&chain, &bundles, now)?;
    if svid.id.as_str() != entry.spiffe_id {
        return Err(Malformed::OtherId { named: entry.spiffe_id, proven: svid.id });
    }
    if svid.id.trust_domain() != &*about.trust_domain {
        return Err(Malformed::Foreign { id: svid.id, trust_domain: Arc::clone(&about.trust_domain) });
    }
    let certificate = OwnCertificate::new(chain, &key)?;
    let standing = followed.standing();
    let bundles = Bundles::joined(&bundles, &standing.bundles.jwt_only());
    let former = standing.svid.as_ref();
    if former.is_some_and(|former| former.certificate.chain() == certificate.chain()) && *standing.bundles == bundles {
        followed.say("");
        return Ok(());
    }
    // The same workload stays the same value, so that nothing that holds it is told apart by a rotation.
    let workload = former.filter(|former| former.workload.id == svid.id).map_or_else(
        || Arc::new(Workload { id: svid.id.clone(), attestation: about.attestation.clone() }),
        |former| Arc::clone(&former.workload),
    );
    if about.logged {
        tracing::info!(identity = %about.name, id = %svid.id, until = %svid.not_after, "the agent gave an identity");
    }
    let sha256 = Sha256::of(certificate.chain().first().map_or(&[], |leaf| leaf.as_ref()));
    let (not_before, not_after, serial) = (svid.not_before, svid.not_after, svid.serial);
    followed.publish(Some(HeldSvid { workload, certificate, not_before, not_after, serial, sha256 }), bundles, "");
    Ok(())
}

/// JWT keys never change a connection; a bundle that is absent is trusted no more.
pub(super) fn take_jwt(followed: &Followed, message: &JwtBundles) -> Result<(), Malformed> {
    let bundles = &followed.standing().bundles;
    let next = Bundles::joined(&bundles.x509_only(), &trusted(&message.bundles, Bundle::from_jwk_set)?);
    if next != **bundles {
        followed.publish_keys(next);
    }
    Ok(())
}

/// Bundles by the SPIFFE ID of their trust domain.
fn trusted(written: &HashMap<String, Vec<u8>>, parse: fn(&str, &[u8]) -> Result<Bundle, BundleFault>) -> Result<Bundles, BundleFault> {
    let name = |id: &str| id.strip_prefix("spiffe://").unwrap_or(id).to_owned();
    written.iter().map(|(id, bytes)| parse(&name(id), bytes)).collect()
}
