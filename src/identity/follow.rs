//! `follow`: keeps a pod at what its Workload API says.
//!
//! Each message is the whole state: what is absent is unloaded. `PermissionDenied` withdraws; a lost connection does not, until the
//! certificate's own end; `InvalidArgument` is not asked again (SPIFFE Workload API, sections 4.4 and 5).

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::pod::Pod;
use super::spiffe_id::SpiffeId;
use super::standing::HeldSvid;
use super::svid::{Bundle, BundleFault, Bundles, X509Svid, certificates};
use super::workload::{Attestation, Workload};
use super::workload_api::{Client, Fault, JwtBundles, Stream, X509Svids};
use crate::capture::Sha256;
use crate::clock::{Clock, Timestamp};
use crate::secret::{Secret, random};
use crate::tls::OwnCertificate;

/// Waits between two tries.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A server that has said nothing at all by then is tried again.
const FIRST_WORD: Duration = Duration::from_secs(30);
/// How often the certificate's end is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Why a message is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    #[error("it has no X.509-SVID with hint `{0}`")]
    NoHint(Arc<str>),
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

/// Runs until it is aborted.
pub async fn follow(pod: Arc<Pod>, clock: Arc<dyn Clock>) {
    let x509 = stay(&pod, async |client: &Client| client.x509_svids().await, |message| take_svids(&pod, message, clock.now()), true);
    let jwt = stay(&pod, async |client: &Client| client.jwt_bundles().await, |message| take_jwt(&pod, &message), false);
    tokio::join!(x509, jwt, expire(&pod, &*clock));
}

/// Keeps one stream open, with growing waits while it fails.
async fn stay<T, O>(pod: &Pod, open: O, mut take: impl FnMut(T) -> Result<(), Malformed>, identity: bool)
where
    O: AsyncFn(&Client) -> Result<Stream<T>, Fault>,
{
    let mut wait = FIRST_WAIT;
    loop {
        let mut heard = false;
        let fault = read(pod, &open, &mut take, &mut heard).await;
        if heard {
            wait = FIRST_WAIT;
        }
        match &fault {
            Fault::Denied(_) if identity => pod.withdraw(&fault.to_string()),
            Fault::Final(_) if identity => {
                pod.withdraw(&fault.to_string());
                return;
            }
            Fault::Lost(_) | Fault::Unimplemented if identity => pod.say(&format!("{}: {fault}", pod.settings().endpoint)),
            Fault::Denied(_) => pod.publish_keys(pod.standing().bundles.x509_only()),
            Fault::Final(_) | Fault::Unimplemented => return,
            Fault::Lost(_) => {}
        }
        let mut jitter = [0];
        random(&mut jitter);
        tokio::time::sleep(wait + wait * u32::from(jitter[0]) / 1024).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Reads one stream to its end.
async fn read<T, O>(pod: &Pod, open: &O, take: &mut impl FnMut(T) -> Result<(), Malformed>, heard: &mut bool) -> Fault
where
    O: AsyncFn(&Client) -> Result<Stream<T>, Fault>,
{
    let opened = async {
        let client = Client::connect(&pod.settings().endpoint).await?;
        let mut stream = open(&client).await?;
        let first = stream.message().await?;
        Ok::<_, Fault>((stream, first))
    };
    let (mut stream, mut next) = match within(FIRST_WORD, opened).await {
        Ok(opened) => opened,
        Err(fault) => return fault,
    };
    while let Some(message) = next {
        match take(message) {
            Ok(()) => *heard = true,
            // The former state holds: half of a message is no state. The next one may be right, and may be a withdrawal.
            Err(malformed) => pod.say(&format!("{}: its message is not taken: {malformed}", pod.settings().endpoint)),
        }
        next = match stream.message().await {
            Ok(next) => next,
            Err(status) => return status.into(),
        };
    }
    Fault::Lost("it ended the stream".to_owned())
}

async fn within<T>(limit: Duration, future: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    tokio::time::timeout(limit, future).await.unwrap_or_else(|_| Err(Fault::Lost(format!("it said nothing within {limit:?}"))))
}

/// Withdraws a certificate at its end: nothing that has expired proves anybody.
async fn expire(pod: &Pod, clock: &dyn Clock) {
    loop {
        tokio::time::sleep(LOOK).await;
        let end = pod.standing().svid.as_ref().map(|svid| svid.not_after);
        if end.is_some_and(|end| end <= clock.now()) {
            pod.withdraw(&format!("its certificate has expired, and {} has given no other", pod.settings().endpoint));
        }
    }
}

/// Takes the whole state that a message is.
pub(super) fn take_svids(pod: &Pod, message: X509Svids, now: Timestamp) -> Result<(), Malformed> {
    let settings = pod.settings();
    if message.svids.is_empty() {
        pod.withdraw("the Workload API gives this workload no X.509-SVID any more");
        return Ok(());
    }
    let federated = trusted(&message.federated_bundles, Bundle::from_der_list)?;
    // Of two SVIDs with one hint the first counts (section 5.2.1).
    let wanted = |hint: &str| settings.hint.as_deref().is_none_or(|asked| asked == hint);
    let Some(mut entry) = message.svids.into_iter().find(|entry| wanted(&entry.hint)) else {
        let missing = Malformed::NoHint(settings.hint.clone().unwrap_or_default());
        pod.withdraw(&missing.to_string());
        return Ok(());
    };
    let key = Secret::new(std::mem::take(&mut entry.x509_svid_key));
    let mut bundles = federated;
    bundles.insert(Bundle::from_der_list(&settings.trust_domain, &entry.bundle)?);
    let chain = certificates(&entry.x509_svid)?;
    let svid = X509Svid::verify(&chain, &bundles, now)?;
    if svid.id.as_str() != entry.spiffe_id {
        return Err(Malformed::OtherId { named: entry.spiffe_id, proven: svid.id });
    }
    if svid.id.trust_domain() != &*settings.trust_domain {
        return Err(Malformed::Foreign { id: svid.id, trust_domain: Arc::clone(&settings.trust_domain) });
    }
    let certificate = OwnCertificate::new(chain, &key)?;
    let standing = pod.standing();
    let bundles = Bundles::joined(&bundles, &standing.bundles.jwt_only());
    let former = standing.svid.as_ref();
    if former.is_some_and(|former| former.certificate.chain() == certificate.chain()) && *standing.bundles == bundles {
        pod.say("");
        return Ok(());
    }
    // The same workload stays the same value, so that nothing that holds it is told apart by a rotation.
    let workload = former.filter(|former| former.workload.id == svid.id).map_or_else(
        || Arc::new(Workload { id: svid.id.clone(), attestation: Attestation::Spiffe }),
        |former| Arc::clone(&former.workload),
    );
    tracing::info!(identity = %pod.name(), id = %svid.id, until = %svid.not_after, "the Workload API gave an identity");
    let sha256 = Sha256::of(certificate.chain().first().map_or(&[], |leaf| leaf.as_ref()));
    let (not_before, not_after, serial) = (svid.not_before, svid.not_after, svid.serial);
    pod.publish(Some(HeldSvid { workload, certificate, not_before, not_after, serial, sha256 }), bundles, "");
    Ok(())
}

/// JWT keys never change a connection; a bundle that is absent is trusted no more.
pub(super) fn take_jwt(pod: &Pod, message: &JwtBundles) -> Result<(), Malformed> {
    let bundles = &pod.standing().bundles;
    let next = Bundles::joined(&bundles.x509_only(), &trusted(&message.bundles, Bundle::from_jwk_set)?);
    if next != **bundles {
        pod.publish_keys(next);
    }
    Ok(())
}

/// Bundles by the SPIFFE ID of their trust domain.
fn trusted(written: &HashMap<String, Vec<u8>>, parse: fn(&str, &[u8]) -> Result<Bundle, BundleFault>) -> Result<Bundles, BundleFault> {
    let name = |id: &str| id.strip_prefix("spiffe://").unwrap_or(id).to_owned();
    written.iter().map(|(id, bytes)| parse(&name(id), bytes)).collect()
}
