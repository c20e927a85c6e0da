//! The demo's folder: the files that a reader can open, edit and keep.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// A folder of its own; removed at the end.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn create(below: &Path) -> io::Result<Self> {
        let mut name = [0; 8];
        crate::secret::random(&mut name);
        let path = below.join(format!("exeat-demo-{:016x}", u64::from_ne_bytes(name)));
        std::fs::create_dir(&path)?;
        std::fs::create_dir(path.join("policies"))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn config(&self) -> PathBuf {
        self.0.join("exeat.yaml")
    }

    pub(super) fn policy(&self) -> PathBuf {
        self.0.join("policies/orders.yaml")
    }

    pub(super) fn audit(&self) -> PathBuf {
        self.0.join("audit")
    }

    pub(super) fn write(&self, orders: SocketAddr, ledger: SocketAddr, spans: SocketAddr) -> io::Result<()> {
        std::fs::write(self.config(), config(orders, ledger, spans))?;
        std::fs::write(self.policy(), policy(true))
    }

    /// The edit of the story: DELETE is taken out of the rule.
    pub(super) fn forbid_delete(&self) -> io::Result<()> {
        let next = self.0.join("policies/.orders.yaml.next");
        std::fs::write(&next, policy(false))?;
        std::fs::rename(next, self.policy())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is in the system's temporary folder and holds no secret.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn config(orders: SocketAddr, ledger: SocketAddr, spans: SocketAddr) -> String {
    format!(
        r#"exeat: config/v1
state: ephemeral
trust_domain: demo.local
listeners:
  orders: {{ address: 127.0.0.1:0, capture: route, upstream: orders, identity: [shop] }}
identities:
  shop: {{ fixed: {{ id: "spiffe://demo.local/ns/shop/sa/legacy-app" }} }}
upstreams:
  orders:
    owner: team-orders@example.com
    origins: ["http://{orders}"]
    reach: {{ networks: [127.0.0.0/8] }}
    credentials: [orders-token]
    stage: enforce
  ledger:
    owner: team-ledger@example.com
    origins: ["http://{ledger}"]
    reach: {{ networks: [127.0.0.0/8] }}
    stage: enforce
credentials:
  orders-token:
    local_jwt: {{ issuer: "https://exeat.demo.local", audience: "http://{orders}", scopes: [orders:read, orders:write], ttl: 60s }}
    inject: bearer
policies: [{{ directory: policies, bounds: all }}]
telemetry: {{ otlp: {{ endpoint: "http://{spans}" }} }}
audit: {{ file: audit }}
status: {{ address: 127.0.0.1:0 }}
# nobody sends more when the story is over: its reader is not kept waiting
drain: {{ delay: 0s }}
"#
    )
}

fn policy(delete: bool) -> String {
    let write = if delete {
        r#"
  - id: cancel
    effect: allow
    to: [orders]
    methods: [DELETE]
    paths: ["/orders/*"]
    grant: { credential: orders-token, scope: [orders:write] }
"#
    } else {
        "\n"
    };
    format!(
        r#"exeat: policy/v1
name: orders
defaults: {{ owner: team-shop@example.com, reason: DEMO-1, expires: 2099-01-01T00:00:00Z, from: [shop] }}
identities:
  shop: {{ spiffe: "spiffe://demo.local/ns/shop/sa/legacy-app" }}
rules:
  - id: read
    effect: allow
    to: [orders]
    methods: [GET]
    paths: ["/orders/**"]
    grant: {{ credential: orders-token, scope: [orders:read] }}{write}"#
    )
}
